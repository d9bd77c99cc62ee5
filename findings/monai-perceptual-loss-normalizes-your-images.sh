#!/usr/bin/env bash
# MONAI's PerceptualLoss(network_type="resnet50") normalizes RGB images in place: after the call, reconstruction and target hold
# normalized values, and every loss or metric that follows is of those. A second call normalizes once more. Images of one channel are
# repeated, and so copied, first.
#
# Seen 2026-12-01 with monai 1.6.1, torch 2.15.0, torchvision 0.29.2, Python 3.11.7; two images with values from 0 to 1:
#   L1 between them: 0.333 before, 1.475 after; the target then goes from -2.11 to 2.64
# A guess that fails: "a loss leaves its inputs alone".
# What works: loss(reconstruction.clone(), target.clone()).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  monai==1.6.1 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/perceptual.py" <<'PY'
import sys

import torch
from monai.losses import PerceptualLoss

torch.manual_seed(0)
loss = PerceptualLoss(spatial_dims=2, network_type="resnet50", pretrained=False)
made, target = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
with torch.no_grad():
    before = float((made - target).abs().mean())
    loss(made, target)
    after = float((made - target).abs().mean())
low, high = float(target.min()), float(target.max())
print(f"L1 between them: {before:.3f} before, {after:.3f} after; the target then goes from {low:.2f} to {high:.2f}")
sys.exit(not (after > 4 * before and low < -1.5 and high > 2))
PY
"$folder/venv/bin/python" "$folder/perceptual.py"
