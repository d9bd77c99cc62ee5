#!/usr/bin/env bash
# torchvision flips key points by another rule than it does all else to them. To a flip, a point is the index of a pixel
# (x becomes W - 1 - x); to rotate, affine, perspective and resize, as to every transform of boxes, it is a place on the
# plane (W - x), where that pixel's centre has .5. So no way to write down points goes with their image through a training's
# transforms: indices lie a pixel off after a turn by 180 degrees and ever further off as an image is enlarged, places lie a
# pixel off after a flip. Two flips are not the half turn that they are for images and boxes, and a polygon drawn along a box
# leaves it. A random flip thus moves half of a training set's points by a pixel against their images. Nothing warns.
#
# Seen 2026-11-29 with torchvision 0.29.2, torch 2.15.0, Python 3.11.7, CPU; an image of 16x10 pixels with one bright one,
# how far its point lies from it afterwards in x and y, written down as an index and as a place, and its box:
#   horizontal flip: index +0.0 +0.0, place -1.0 +0.0, box +0.0 +0.0
#   vertical flip: index +0.0 +0.0, place +0.0 -1.0, box +0.0 +0.0
#   both flips: index +0.0 +0.0, place -1.0 -1.0, box +0.0 +0.0
#   rotate by 180: index +1.0 +1.0, place +0.0 +0.0, box +0.0 +0.0
#   rotate by 90: index +0.0 +1.0, place +0.0 +0.0, box +0.0 +0.0
#   resize to 3 times: index -1.0 -1.0, place +0.0 +0.0, box +0.0 +0.0
# A guess that fails: "points, boxes and images go through the same transforms together".
# What works: points as places, and 1 added to what a flip has mirrored.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2
cat > "$folder/points.py" <<'PY'
import sys

import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

height, width, x, y = 10, 16, 2, 3
image = torch.zeros(1, height, width)
image[0, y, x] = 1
kinds = {
    "index": tv_tensors.KeyPoints([[x, y]], canvas_size=(height, width), dtype=torch.float32),
    "place": tv_tensors.KeyPoints([[x + 0.5, y + 0.5]], canvas_size=(height, width)),
    "box": tv_tensors.BoundingBoxes([[x, y, x + 1, y + 1]], format="XYXY", canvas_size=(height, width), dtype=torch.float32),
}
transforms = {
    "horizontal flip": F.horizontal_flip,
    "vertical flip": F.vertical_flip,
    "both flips": lambda v: F.vertical_flip(F.horizontal_flip(v)),
    "rotate by 180": lambda v: F.rotate(v, 180),
    "rotate by 90": lambda v: F.rotate(v, 90, expand=True),
    "resize to 3 times": lambda v: F.resize(v, [3 * height, 3 * width], interpolation=F.InterpolationMode.NEAREST),
}
off = {}
for name, transform in transforms.items():
    bright = transform(tv_tensors.Image(image))[0].nonzero().float().mean(0).flip(0)  # the index, x and y
    for kind, given in kinds.items():
        found = transform(given)[0].as_subclass(torch.Tensor).reshape(-1, 2).mean(0)  # of a box, its centre
        off[name, kind] = (found - bright - (0 if kind == "index" else 0.5)).round(decimals=3)
    print(f"{name}: " + ", ".join(f"{kind} {off[name, kind][0]:+.1f} {off[name, kind][1]:+.1f}" for kind in kinds))
right = {kind: [name for name in transforms if not off[name, kind].any()] for kind in kinds}
names = list(transforms)
sys.exit(right != {"index": names[:3], "place": names[3:], "box": names})
PY
"$folder/venv/bin/python" "$folder/points.py"
