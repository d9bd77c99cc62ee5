#!/usr/bin/env bash
# fastai's RandomResizedCrop transforms an image with its boxes. On validation images, which it first resizes and then crops in the
# middle, boxes are cropped as if the image had its first size still: they lie somewhere else. Training images are right, so a detector
# trains, and its validation loss and metrics are of wrong boxes.
#
# Seen 2026-12-01 with fastai 2.8.12, torch 2.15.0, Python 3.11.7; a white square in an image of 640×480, crops of 224 pixels:
#                the square (x1 y1 x2 y2)   the box
#   training     140 92 144 97              140 92 144 97   (a random crop)
#   validation   144 91 148 96              192 72 202 82
# A guess that fails: "image and box go together in both".
# What works: Resize(224) as item_tfms, and aug_transforms() as batch_tfms.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  fastai==2.8.12 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/crop.py" <<'PY'
import sys

import numpy as np
from fastai.vision.all import BBoxBlock, BBoxLblBlock, DataBlock, ImageBlock, IndexSplitter, PILImage, RandomResizedCrop

image = np.zeros((480, 640, 3), np.uint8)
image[200:210, 400:410] = 255
np.random.seed(0)
block = DataBlock(
    (ImageBlock, BBoxBlock, BBoxLblBlock),
    get_items=lambda source: range(8),
    getters=[lambda i: PILImage.create(image), lambda i: [[400.0, 200.0, 410.0, 210.0]], lambda i: ["cat"]],
    n_inp=1, splitter=IndexSplitter([7]), item_tfms=RandomResizedCrop(224, min_scale=0.9),
)
loaders = block.dataloaders(".", bs=1, num_workers=0, device="cpu")
off = []
print(" " * 12, "the square (x1 y1 x2 y2)   the box")
for name, loader in (("training", loaders.train), ("validation", loaders.valid)):
    pixels, boxes, _ = loader.one_batch()
    white = (pixels[0, 0] > 0.4).nonzero()
    square = [*white.min(0)[0].tolist()[::-1], *(side + 1 for side in white.max(0)[0].tolist()[::-1])]
    box = ((boxes[0, 0] + 1) * 112).tolist()
    off.append(max(abs(a - b) for a, b in zip(square, box)))
    print(f"{name:12} {' '.join(map(str, square)):26} {' '.join(f'{side:.0f}' for side in box)}")
sys.exit(not (off[0] < 2 and off[1] > 10))
PY
"$folder/venv/bin/python" "$folder/crop.py"
