#!/usr/bin/env bash
# DeepFool finds how far an image is from the boundary, by steps of exactly that length for a linear network. The adversarial robustness
# toolbox multiplies each step by the range of the classifier's clip_values. With pixels from 0 to 1 nothing is to be seen; with
# normalized pixels, or 0 to 255, the change that it reports is too large by the range, which makes a network look that much more robust.
#
# Seen 2026-12-01 with adversarial-robustness-toolbox 1.20.1, torch 2.15.0, Python 3.11.7; linear network, images 0.2 from its boundary:
#   clip_values (0, 1)      change 0.200
#   clip_values (-2, 2.5)   change 0.900
# A guess that fails: "clip_values only clip".
# What works: clip_values=(0, 1) with the normalization inside the network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  adversarial-robustness-toolbox==1.20.1 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 requests packaging
cat > "$folder/deepfool.py" <<'PY'
import sys

import numpy as np
import torch
from art.attacks.evasion import DeepFool
from art.estimators.classification import PyTorchClassifier

torch.manual_seed(0)
size = 192
normal = torch.randn(size)
normal /= normal.norm()
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, 2)).eval()
with torch.no_grad():
    network[1].weight.copy_(torch.stack([5 * normal, -5 * normal]))
    network[1].bias.zero_()
flat = 0.4 + 0.2 * torch.rand(8, size)
images = (flat - (flat @ normal)[:, None] * normal + 0.2 * normal).view(8, 3, 8, 8).numpy()
found = []
for clip in ((0.0, 1.0), (-2.0, 2.5)):
    classifier = PyTorchClassifier(
        network, torch.nn.CrossEntropyLoss(), (3, 8, 8), 2, clip_values=clip, device_type="cpu"
    )
    changed = DeepFool(classifier, epsilon=1e-4, nb_grads=2, verbose=False).generate(images)
    found.append(float(np.median(np.linalg.norm((changed - images).reshape(8, -1), axis=1))))
    print(f"clip_values ({clip[0]:g}, {clip[1]:g})".ljust(23), f"change {found[-1]:.3f}")
sys.exit(not (abs(found[0] - 0.2) < 0.01 and found[1] > 0.7))
PY
"$folder/venv/bin/python" "$folder/deepfool.py"
