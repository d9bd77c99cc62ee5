#!/usr/bin/env bash
# Quantus's ROAD removes the most important pixels of all images and gives the accuracy that is left at each share. It works
# through the images in batches (64 by default) and collects the answers of each, and in the end takes the mean of the first batch
# alone: whatever comes after image 64 costs its time and counts for nothing. In a data set that is sorted by class, as a folder
# of folders is, the figure is then that of one class. Nothing warns, and the other metrics count all.
#
# Seen 2026-12-01 with quantus 0.6.0, torch 2.15.0, numpy 2.4.6, Python 3.11.7, CPU, 80 images of which a network knows the first 8:
#   batches of 8: 100.0 % right after 10 % of the pixels are gone
#   batches of 64: 12.5 %
#   batches of 80: 10.0 %
# A guess that fails: "batch_size decides how fast a metric is, not what it says".
# What works: batch_size=len(images).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  quantus==0.6.0 numpy==2.4.6 pandas==3.1.1 scikit-image==0.26.0 opencv-python==5.0.0.93 torch==2.15.0
cat > "$folder/road.py" <<'PY'
import sys
import warnings

warnings.simplefilter("ignore")
import numpy as np
import quantus
import torch
from torch import nn


class Brightness(nn.Module):
    """Class 0 for bright images."""

    def forward(self, images):
        bright = images.mean((1, 2, 3))
        return torch.stack([bright, 1 - bright], 1)


rng = np.random.default_rng(0)
images = 0.01 * rng.random((80, 1, 8, 8), np.float32)
images[:8] += 0.9
maps, labels = rng.random(images.shape), np.zeros(80, int)  # all are said to be of class 0
found = {}
for batch in (8, 64, 80):
    road = quantus.ROAD(percentages=[10], noise=0.0, disable_warnings=True)
    found[batch] = 100 * road(Brightness().eval(), images, labels, maps.copy(), channel_first=True, batch_size=batch)[10]
    print(f"batches of {batch}: {found[batch]:.1f} %" + " right after 10 % of the pixels are gone" * (batch == 8))
sys.exit([round(float(one), 1) for one in found.values()] != [100, 12.5, 10])
PY
"$folder/venv/bin/python" "$folder/road.py"
