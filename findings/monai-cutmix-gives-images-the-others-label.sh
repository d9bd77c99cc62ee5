#!/usr/bin/env bash
# MONAI's CutMix takes images and labels, in its documentation's example as auglabels of augimg. It cuts the labels as it cuts images.
# One-hot labels (batch, classes) have no sides, so the cut is all of them: each image keeps nearly all of its pixels and gets the
# label of its partner, whole. A classifier trains on wrong labels, and the loss falls all the same.
#
# Seen 2026-12-01 with monai 1.6.1, torch 2.15.0, Python 3.11.7; 4 images of classes 0 to 3:
#   share of an image's own pixels   0.99 0.99 0.99 0.99
#   label weight of its own class    0.00 0.00 0.00 0.00
# A guess that fails: "labels are mixed by the area that was cut, as in the paper".
# What works: torchvision.transforms.v2.CutMix(num_classes=…), which mixes labels by the area.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  monai==1.6.1 torch==2.15.0 numpy==2.4.6
cat > "$folder/cutmix.py" <<'PY'
import sys

import torch
from monai.transforms import CutMix

transform = CutMix(batch_size=4, alpha=1.0)
transform.set_random_state(0)
images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 32, 32).clone()  # each of its own colour
mixed, labels = transform(images, torch.eye(4))
pixels = [float((mixed[i] == i).float().mean()) for i in range(4)]
own = [float(labels[i, i]) for i in range(4)]
print("share of an image's own pixels  ", *(f"{value:.2f}" for value in pixels))
print("label weight of its own class   ", *(f"{value:.2f}" for value in own))
sys.exit(not (min(pixels) > 0.9 and max(own) == 0))
PY
"$folder/venv/bin/python" "$folder/cutmix.py"
