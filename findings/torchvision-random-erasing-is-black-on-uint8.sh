#!/usr/bin/env bash
# RandomErasing(value="random") of torchvision fills the rectangle of a uint8 image with black that has white dots. "Erasing each
# pixel with random values" draws from a normal distribution of deviation 1, which is noise for an image that has been
# normalized. Written into uint8 it is cut down to whole numbers, and those below 0 wrap around: what is left are 0 to 4 and
# 252 to 255, mostly 0. The same class, v2's too, takes uint8 without a word, and uint8 is what v2's guide advises to keep
# until the end, for speed. On floats of 0 to 1 before the normalization a third of the values are in range. So where
# the line stands decides what is erased; the default, value=0, is not concerned.
#
# Seen 2026-11-30 with torchvision 0.29.2, torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; 50 gray images, the erased part only:
#   transforms, torch.uint8: in range 100%, exactly 0 68%, 0 between 5% and 95%, values [0, 1, 2, 3, 4, 252, 253, 254, 255]
#   transforms, torch.float32: in range 34%, exactly 0 0%, 31119 between 5% and 95%
#   transforms.v2, torch.uint8: in range 100%, exactly 0 68%, 0 between 5% and 95%, values [0, 1, 2, 3, 4, 252, 253, 254, 255]
#   transforms.v2, torch.float32: in range 34%, exactly 0 0%, 31119 between 5% and 95%
# A guess that fails: "random values for a uint8 image are between 0 and 255, all of them".
# What works: RandomErasing behind Normalize.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/erase.py" <<'PY'
import sys

import torch
from torchvision import transforms
from torchvision.transforms import v2

seen = []
for name, library in (("transforms", transforms), ("transforms.v2", v2)):
    for dtype, gray, highest in ((torch.uint8, 128, 255), (torch.float32, 0.5, 1)):
        torch.manual_seed(0)
        erase = library.RandomErasing(p=1, value="random")
        images = [torch.full((3, 64, 64), gray, dtype=dtype) for _ in range(50)]
        erased = torch.cat([image[image != gray].double() for image in map(erase, images)])
        inside = ((erased >= 0) & (erased <= highest)).double().mean().item()
        zeros, middle = (erased == 0).double().mean().item(), ((erased > 0.05 * highest) & (erased < 0.95 * highest)).sum().item()
        seen.append((dtype, zeros, middle, inside))
        values = f", values {sorted(set(erased.int().tolist()))}" if dtype == torch.uint8 else ""
        print(f"{name}, {dtype}: in range {inside:.0%}, exactly 0 {zeros:.0%}, {middle} between 5% and 95%{values}")
whole = [one for one in seen if one[0] == torch.uint8]
floats = [one for one in seen if one[0] == torch.float32]
sys.exit(not (all(0.6 < one[1] < 0.8 and one[2] == 0 for one in whole) and all(0.3 < one[3] < 0.4 for one in floats)))
PY
"$folder/venv/bin/python" "$folder/erase.py"
