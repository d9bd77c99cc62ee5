#!/usr/bin/env bash
# torchio's Resize takes −1 for sides that are to be kept. The first image's side is written over the −1, in the transform itself: all
# later images are stretched to the side of whichever image came first, which in a data loader is another one for each worker.
#
# Seen 2026-12-01 with torchio 1.2.1, torch 2.15.0, Python 3.11.7; Resize((-1, 8, 8)) of images of 20×16×16 and then 12×16×16:
#   one transform    20×8×8, 20×8×8
#   one for each     20×8×8, 12×8×8
# A guess that fails: "−1 keeps each image's own side".
# What works: a new Resize for each image, or sides in full.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torchio==1.2.1 torch==2.15.0 numpy==2.4.6
cat > "$folder/resize.py" <<'PY'
import sys

import torch
import torchio

images = [torchio.ScalarImage(tensor=torch.rand(1, side, 16, 16)) for side in (20, 12)]
one = torchio.Resize((-1, 8, 8))
found = {
    "one transform": [one(image).spatial_shape for image in images],
    "one for each": [torchio.Resize((-1, 8, 8))(image).spatial_shape for image in images],
}
for title, shapes in found.items():
    print(f"{title:16} ", ", ".join("×".join(map(str, shape)) for shape in shapes))
sides = [[shape[0] for shape in shapes] for shapes in found.values()]
sys.exit(sides != [[20, 20], [20, 12]])
PY
"$folder/venv/bin/python" "$folder/resize.py"
