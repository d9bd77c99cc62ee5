#!/usr/bin/env bash
# Grad-CAM++ weighs each gradient by g² / (2 g² + Σ A g³). torchcam's GradCAMpp divides a copy, which indexing by a mask makes, and drops
# it: weights are sums of g² relu(g), without the denominator. RefineCAM, which is built on it, is affected too.
#
# Seen 2026-12-01 with torchcam 0.5.0, torch 2.15.0, torchvision 0.29.2 (convnext_tiny, fresh weights), Python 3.11.7:
#   features.7   weights are those without the denominator: True   correlation of the map with the formula's 0.74
#   features.5   weights are those without the denominator: True   correlation of the map with the formula's 0.89
# A guess that fails: "GradCAMpp is Grad-CAM++", whose formula is in its documentation.
# What works: GradCAMPlusPlus of the package grad-cam; or GradCAM and LayerCAM of torchcam.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torchcam==0.5.0 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 matplotlib==3.10.8
cat > "$folder/map.py" <<'PY'
import sys

import torch
import torchvision
from torchcam.methods import GradCAMpp

torch.manual_seed(0)
network = torchvision.models.convnext_tiny(num_classes=10).eval()
for name, parameter in network.named_parameters():
    if "layer_scale" in name:
        torch.nn.init.ones_(parameter)
images = torch.randn(1, 3, 128, 128)
found = []
for layer in ("features.7", "features.5"):
    with GradCAMpp(network, layer) as extractor:
        scores = network(images)
        label, maps = int(scores.argmax()), extractor._hook_outputs[0]
        grad = torch.autograd.grad(scores[0, label], maps, retain_graph=True)[0]
        theirs = extractor._get_weights(label, scores)[0]
    maps = maps.detach()
    denominator = 2 * grad**2 + maps.sum((2, 3), keepdim=True) * grad**3
    paper = (torch.where(grad != 0, grad**2 / denominator, 0.0) * grad.relu()).sum((2, 3))
    undivided = torch.allclose(theirs, (grad**2 * grad.relu()).sum((2, 3)), rtol=1e-4, atol=0)
    pair = torch.stack([(w[:, :, None, None] * maps).sum(1).relu().flatten() for w in (theirs, paper)])
    found.append((undivided, float(torch.corrcoef(pair)[0, 1])))
    print(f"{layer}   weights are those without the denominator: {undivided}   "
          f"correlation of the map with the formula's {found[-1][1]:.2f}")
sys.exit(not all(undivided and correlation < 0.95 for undivided, correlation in found))
PY
"$folder/venv/bin/python" "$folder/map.py"
