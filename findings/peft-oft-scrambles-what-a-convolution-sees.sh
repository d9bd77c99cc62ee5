#!/usr/bin/env bash
# PEFT's OFT (orthogonal fine-tuning) scrambles the input of every convolution whose kernel is larger than one pixel, before
# anything is trained. A fresh adapter's rotation is the identity, so that the network should compute what it did. OFT
# turns the convolution's input in place of its weights: it cuts the image into patches, rotates each and puts them back with
# torch's fold, which adds up patches that overlap; on the way their axes get into another order than fold reads, so that pixels end
# up elsewhere. The patches go back together at no stride, ConvNeXt's 4x4 stem and 2x2 downsampling included. Merging
# rotates the weights instead: a fresh adapter merges back into the network as it was, and a trained one into another
# network than was trained. Linear layers and 1x1 convolutions are right. Nothing warns. (A part of this, that overlaps are
# added, is described in the public repository v-code01/oftfold.)
#
# Seen 2026-11-30 with peft 0.21.2, transformers 5.23.0, torch 2.15.0 (CPU), Python 3.11.7; how far the output is from the
# network's (norm of the difference over norm), and the correlation of both:
#   linear: fresh adapter 0.00, correlation 1.00; merged 0.00
#   1x1: fresh adapter 0.00, correlation 1.00; merged 0.00
#   2x2, stride 2: fresh adapter 2.23, correlation 0.00; merged 0.00
#   3x3: fresh adapter 2.97, correlation -0.00; merged 0.00
#   4x4, stride 4: fresh adapter 3.73, correlation 0.09; merged 0.00
# A guess that fails: "an adapter that starts as the identity changes nothing at first, and merging it changes nothing after".
# What works: target_modules of linear layers and 1x1 convolutions only, or LoRA.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check peft==0.21.2 transformers==5.23.0 torch==2.15.0
cat > "$folder/fresh.py" <<'PY'
import sys

import torch
from peft import OFTConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
image = torch.randn(2, 8, 32, 32)
layers = {
    "linear": nn.Linear(1024, 8),
    "1x1": nn.Conv2d(8, 8, 1),
    "2x2, stride 2": nn.Conv2d(8, 8, 2, stride=2),
    "3x3": nn.Conv2d(8, 8, 3, padding=1),
    "4x4, stride 4": nn.Conv2d(8, 8, 4, stride=4),
}
right = {}
for name, layer in layers.items():
    x = image.flatten(2) if name == "linear" else image
    with torch.no_grad():
        expected = layer(x)
        network = get_peft_model(nn.Sequential(layer), OFTConfig(oft_block_size=8, target_modules=["0"])).eval()
        fresh = network(x)
        merged = network.merge_and_unload()(x)
    off, off_merged = (float((y - expected).norm() / expected.norm()) for y in (fresh, merged))
    correlation = torch.corrcoef(torch.stack([fresh.flatten(), expected.flatten()]))[0, 1]
    print(f"{name}: fresh adapter {off:.2f}, correlation {correlation:.2f}; merged {off_merged:.2f}")
    right[name] = off < 1e-3
    assert off_merged < 1e-3
sys.exit(list(right.values()) != [True, True, False, False, False])
PY
HF_HUB_OFFLINE=1 HF_HOME="$folder/home" "$folder/venv/bin/python" "$folder/fresh.py"
