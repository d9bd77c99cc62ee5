#!/usr/bin/env bash
# pytorch-toolbelt's d4_image2label averages a classifier's answers to the eight turned and mirrored views of an image. The eight
# answers are put together from a list that names the seventh twice and the sixth never. So one view counts double and one not at
# all, for every reduction, and the average changes when the image is mirrored, which an average over all eight cannot.
#
# Seen 2026-12-01 with pytorch-toolbelt 0.8.0, torch 2.15.0, Python 3.11.7:
#   weights of the eight views           0.125 0.125 0.125 0.125 0.125 0.000 0.250 0.125
#   change of the mean by mirroring      0.078 (a mean of all eight: below 1e-6)
# A guess that fails: "D4 is the mean of eight".
# What works: model(d4_image_augment(x)).view(8, len(x), -1).mean(0).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  pytorch_toolbelt==0.8.0 torch==2.15.0 torchvision==0.29.2 opencv-python-headless==4.12.0.88 numpy==2.2.6
cat > "$folder/views.py" <<'PY'
import sys

import torch
from pytorch_toolbelt.inference import tta

weights = tta.d4_labels_deaugment(torch.eye(8)).flatten()
print("weights of the eight views      ", *(f"{value:.3f}" for value in weights))
torch.manual_seed(0)
x = torch.randn(2, 3, 32, 32)
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 5), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 28 * 28, 5)
)
ways = (tta.d4_image2label, lambda model, x: model(tta.d4_image_augment(x)).view(8, len(x), -1).mean(0))
with torch.no_grad():
    theirs, mean = (float((way(model, x.flip(3)) - way(model, x)).abs().max()) for way in ways)
print(f"change of the mean by mirroring  {theirs:.3f} (a mean of all eight: {mean:.1e})")
sys.exit(not (weights[5] == 0 and weights[6] == 0.25 and theirs > 0.01 and mean < 1e-6))
PY
"$folder/venv/bin/python" "$folder/views.py"
