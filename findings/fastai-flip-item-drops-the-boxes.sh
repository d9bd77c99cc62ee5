#!/usr/bin/env bash
# fastai's FlipItem and DihedralItem are written for boxes and points too. They come before the step that brings coordinates to −1 … 1,
# and so turn the sign of pixels; and left and right of a box are not exchanged, so its width is negative. What follows takes such a
# box for an empty one and drops it. At p=0.5, half of the images lose all their boxes, and nothing is said. Flip, on batches, is right.
#
# Seen 2026-12-01 with fastai 2.8.12, torch 2.15.0, Python 3.11.7; a box from (10, 20) to (40, 50) in an image of 100×60:
#   no flip             1 box: -0.80 -0.33 -0.20 0.67
#   FlipItem(p=1)       no box
#   Flip(p=1), batches  1 box: 0.20 -0.33 0.80 0.67
# A guess that fails: "an item's flip flips its boxes".
# What works: Flip or aug_transforms() as batch_tfms.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  fastai==2.8.12 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/flip.py" <<'PY'
import sys

import numpy as np
from fastai.vision.all import BBoxBlock, BBoxLblBlock, DataBlock, Flip, FlipItem, ImageBlock, IndexSplitter, PILImage


def boxes(item_tfms=(), batch_tfms=()):
    block = DataBlock(
        (ImageBlock, BBoxBlock, BBoxLblBlock),
        get_items=lambda source: range(8),
        getters=[
            lambda i: PILImage.create(np.zeros((60, 100, 3), np.uint8)),
            lambda i: [[10.0, 20.0, 40.0, 50.0]],
            lambda i: ["cat"],
        ],
        n_inp=1, splitter=IndexSplitter([7]), item_tfms=list(item_tfms), batch_tfms=list(batch_tfms),
    )
    batch = block.dataloaders(".", bs=4, num_workers=0, device="cpu").train.one_batch()
    return batch[1][0].tolist()


found = {
    "no flip": boxes(),
    "FlipItem(p=1)": boxes([FlipItem(p=1.0)]),
    "Flip(p=1), batches": boxes(batch_tfms=[Flip(p=1.0)]),
}
for title, some in found.items():
    print(f"{title:19}", f"{len(some)} box: " + " ".join(f"{side:.2f}" for side in some[0]) if some else "no box")
sys.exit([len(some) for some in found.values()] != [1, 0, 1])
PY
"$folder/venv/bin/python" "$folder/flip.py"
