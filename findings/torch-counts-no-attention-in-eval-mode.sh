#!/usr/bin/env bash
# torch's FlopCounterMode counts nn.MultiheadAttention as nothing, and a whole nn.TransformerEncoderLayer as nothing, in the
# conditions in which networks are usually counted: eval() and no_grad(). There both run as one fused
# operator (_native_multi_head_attention, _transformer_encoder_layer_fwd), for which the counter has no formula, and what it
# has no formula for is 0 without a word. In train mode, with gradients or on the meta device the same network is counted in
# full. torchvision's ViT loses the attention of all layers, a third of its cost, and still gets a plausible number. A decoder
# layer, which has no fused operator of its own, loses one of its two attentions.
#
# Seen 2026-11-30 with torch 2.15.0, torchvision 0.29.2, Python 3.11.7, CPU; counted GFLOPs, halved, of one forward pass:
#   nn.MultiheadAttention: train 0.15, eval 0.15, eval and no_grad 0.00, the same on meta 0.15
#   nn.TransformerEncoderLayer: train 0.38, eval 0.38, eval and no_grad 0.00, the same on meta 0.38
#   nn.TransformerDecoderLayer: train 0.52, eval 0.52, eval and no_grad 0.38, the same on meta 0.52
#   torchvision's vit_b_16: train 17.56, eval 17.56, eval and no_grad 11.27, the same on meta 17.56
#   torchvision's convnext_tiny: train 4.46, eval 4.46, eval and no_grad 4.46, the same on meta 4.46
# A guess that fails: "what a forward pass costs depends neither on no_grad() nor on the device".
# What works: count on the meta device, or torch.backends.mha.set_fastpath_enabled(False).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2
cat > "$folder/count.py" <<'PY'
import sys
import warnings

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

warnings.filterwarnings("ignore")


def macs(network: nn.Module, inputs: tuple[torch.Tensor, ...], training: bool, gradients: bool) -> float:
    counter = FlopCounterMode(display=False)
    with counter, torch.set_grad_enabled(gradients):
        network.train(training)(*inputs)
    return counter.get_total_flops() / 2e9


x, image = torch.zeros(1, 196, 384), torch.zeros(1, 3, 224, 224)
networks = {
    "nn.MultiheadAttention": (nn.MultiheadAttention(384, 6, batch_first=True), (x, x, x)),
    "nn.TransformerEncoderLayer": (nn.TransformerEncoderLayer(384, 6, 1536, batch_first=True), (x,)),
    "nn.TransformerDecoderLayer": (nn.TransformerDecoderLayer(384, 6, 1536, batch_first=True), (x, x)),
    "torchvision's vit_b_16": (models.vit_b_16(), (image,)),
    "torchvision's convnext_tiny": (models.convnext_tiny(), (image,)),
}
rows = {}
for name, (network, inputs) in networks.items():
    train = macs(network, inputs, training=True, gradients=False)
    graded = macs(network, inputs, training=False, gradients=True)
    plain = macs(network, inputs, training=False, gradients=False)
    meta = macs(network.to("meta"), tuple(tensor.to("meta") for tensor in inputs), training=False, gradients=False)
    rows[name] = train, graded, plain, meta
    print(f"{name}: train {train:.2f}, eval {graded:.2f}, eval and no_grad {plain:.2f}, the same on meta {meta:.2f}")
same = all(train == graded == meta for train, graded, _, meta in rows.values())
shares = [plain / train for train, _, plain, _ in rows.values()]
sys.exit(not (same and shares[:2] == [0, 0] and 0.5 < shares[2] < 0.9 and 0.6 < shares[3] < 0.7 and shares[4] == 1))
PY
"$folder/venv/bin/python" "$folder/count.py"
