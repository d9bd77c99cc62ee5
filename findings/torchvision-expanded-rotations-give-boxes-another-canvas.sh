#!/usr/bin/env bash
# torchvision's rotate(expand=True), and so RandomRotation, gives boxes and keypoints another canvas than the image: the two compute the
# size of the turned image by formulas of their own, which round differently. At two of three angles canvas_size is a pixel larger or smaller
# than the image, and the coordinates are shifted with it, by up to a pixel at the centre of rotation; the mask goes with the image. The
# next transform that asks for the size of the sample (a random crop, for instance) then refuses most images, with a message that does
# not name the rotation; those that do not ask go on with boxes beside the objects. Without expand both agree.
#
# Seen 2026-11-30 with torchvision 0.29.2, torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU:
#   224 x 224: another canvas at 238 of 359 angles; a box in the middle is up to 0.99 pixels off it
#   160 x 120: another canvas at 255 of 359 angles; a box in the middle is up to 0.97 pixels off it
#   at 25 degrees: image (178, 196) canvas of the boxes (177, 197)
#   RandomRotation(45, expand=True) and then RandomCrop(100): 79 of 100 images refused: Found multiple HxW dimensions in the sample:
#   '(182, 198)', '(182, 199)'
# A guess that fails: "boxes are on the canvas of the image that they were turned with".
# What works: to pad to the diagonal first, and to rotate without expand.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/rotate.py" <<'PY'
import sys

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

torch.set_num_threads(1)
found = {}
for height, width in ((224, 224), (120, 160)):
    image = tv_tensors.Image(torch.zeros(1, height, width))
    middle = torch.tensor([[width / 2 - 5, height / 2 - 5, width / 2 + 5, height / 2 + 5]])
    boxes = tv_tensors.BoundingBoxes(middle, format="XYXY", canvas_size=(height, width))
    other, off = 0, 0.0
    for angle in range(1, 360):
        turned, turned_boxes = F.rotate(image, float(angle), expand=True), F.rotate(boxes, float(angle), expand=True)
        size = tuple(turned.shape[-2:])
        other += size != tuple(turned_boxes.canvas_size)
        centre = (turned_boxes[0, :2] + turned_boxes[0, 2:]) / 2
        off = max(off, (centre - torch.tensor([size[1] / 2, size[0] / 2])).abs().max().item())
    found[height] = other, off
    print(f"{width} x {height}: another canvas at {other} of 359 angles; a box in the middle is up to {off:.2f} pixels off it")
image = tv_tensors.Image(torch.zeros(1, 120, 160))
boxes = tv_tensors.BoundingBoxes(torch.tensor([[75.0, 55.0, 85.0, 65.0]]), format="XYXY", canvas_size=(120, 160))
print("at 25 degrees: image", tuple(F.rotate(image, 25.0, expand=True).shape[-2:]), "canvas of the boxes", F.rotate(boxes, 25.0, expand=True).canvas_size)
torch.manual_seed(0)
refused, said = 0, ""
for _ in range(100):
    try:
        v2.Compose([v2.RandomRotation(45, expand=True), v2.RandomCrop(100)])(image, boxes)
    except ValueError as error:
        refused, said = refused + 1, str(error)
print(f"RandomRotation(45, expand=True) and then RandomCrop(100): {refused} of 100 images refused: {said}")
sys.exit(not (all(other > 200 and off > 0.9 for other, off in found.values()) and refused > 50))
PY
"$folder/venv/bin/python" "$folder/rotate.py"
