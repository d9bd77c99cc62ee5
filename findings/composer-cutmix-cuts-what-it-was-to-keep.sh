#!/usr/bin/env bash
# Composer's cutmix_batch takes `length`, the side of the box that is replaced, as a share of the image's: "the resulting box is
# of size (length * H, length * W)". It passes the box's area on where CutMix's lambda is expected, the area that is kept. The box
# has sides of sqrt(1 - length²): the smaller the length, the larger the box. The returned share of the old image is right for what
# was cut, so labels fit the images, and nothing warns. (`alpha` and `bbox` do what they say.)
#
# Seen 2026-12-01 with composer 0.32.1, torch 2.7.0, Python 3.11.7, images of 64 pixels, the largest of 200 boxes each:
#   length 0.25: 60 pixels (16 were meant); length 0.5: 54 (32); length 0.75: 42 (48)
# A guess that fails: "a shorter length cuts less".
# What works: length=math.sqrt(1 - side**2), or bbox.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check composer==0.32.1 torch==2.7.0 torchvision==0.22.0
cat > "$folder/cut.py" <<'PY'
import sys

import numpy as np
import torch
from composer.functional import cutmix_batch

np.random.seed(0)
images, labels = torch.rand(2, 3, 64, 64), torch.arange(2)
found = {}
for length in (0.25, 0.5, 0.75):
    boxes = [cutmix_batch(images, labels, length=length)[-1] for _ in range(200)]
    found[length] = max(int(right - left) for left, _, right, _ in boxes)
print("; ".join(f"length {k}: {n}{' pixels' * (k == 0.25)} ({int(64 * k)}{' were meant' * (k == 0.25)})" for k, n in found.items()))
sys.exit([*found.values()] != [60, 54, 42])
PY
"$folder/venv/bin/python" "$folder/cut.py"
