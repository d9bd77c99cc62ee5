#!/usr/bin/env bash
# RandAugment of Keras moves boxes in another order than their images, and once where the image moves twice. Images go through
# the drawn operations one after the other; boxes go through the layer's list of all operations, which starts with shear,
# translation and rotation, and each that was drawn counts once. So a box is wrong where an image is rotated and
# then sheared, and where the same operation is drawn twice. Masks go the way of the images. The operations are drawn once for
# a whole batch, so that all boxes of a batch are right or wrong together. With more operations (num_ops) more boxes are off.
# The layer takes bounding_box_format and returns boxes of the right shape, inside the image; nothing warns.
#
# Seen 2026-11-30 with keras 3.15.1, jax 0.10.2, NumPy 2.4.6, Python 3.11.7, CPU; 400 draws, factor 0.2, a box of 24x16 in an image
# of 96x96, against the extent of its mask:
#   nothing moves: 205 draws, mean overlap 1.00, worst side off by 0.0
#   one operation moves: 171 draws, mean overlap 0.94, worst side off by 2.5
#   two, in the list's order: 3 draws, mean overlap 0.93, worst side off by 1.4
#   two, against it: 13 draws, mean overlap 0.68, worst side off by 12.1
#   the same twice: 8 draws, mean overlap 0.32, worst side off by 16.9
# A guess that fails: "a layer that takes images and boxes together moves them together".
# What works: masks, from which boxes are made afterwards, or single layers (RandomShear, RandomRotation, ...) in a row.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 jax==0.10.2 numpy==2.4.6
cat > "$folder/boxes.py" <<'PY'
import sys
from collections import defaultdict

import keras
import numpy as np

SIDE = 96
BOX = np.array([36, 40, 60, 56], np.float32)
MOVING = ("random_shear", "random_translation", "random_rotation")  # in the layer's order
layer = keras.layers.RandAugment(factor=0.2, num_ops=2, seed=0, bounding_box_format="xyxy")
mask = np.zeros((1, SIDE, SIDE, 1), np.float32)
mask[:, 40:56, 36:60] = 1
images = 60 + 140 * mask.repeat(3, axis=-1)


def extent(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask > 0.5)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    both = (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0).prod()
    return both / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - both)


found = defaultdict(list)
for _ in range(400):
    draw = layer.get_random_transformation(images)  # what a call of the layer starts with
    masks = np.asarray(layer.transform_segmentation_masks(mask, draw))
    boxes = layer.transform_bounding_boxes({"boxes": BOX[None, None], "labels": np.zeros((1, 1), np.float32)}, draw)
    expected, box = extent(masks[0, ..., 0]), np.asarray(boxes["boxes"])[0, 0]
    names = [layer._AUGMENT_LAYERS[int(index)] for index in np.asarray(draw["layer_idxes"])]
    moves = [MOVING.index(name) for name in names if name in MOVING]
    match moves:
        case []:
            kind = "nothing moves"
        case [_]:
            kind = "one operation moves"
        case [first, second] if first == second:
            kind = "the same twice"
        case [first, second]:
            kind = "two, in the list's order" if first < second else "two, against it"
    found[kind].append((overlap(expected, box), np.abs(expected - box).max()))
means = {}
for kind in ("nothing moves", "one operation moves", "two, in the list's order", "two, against it", "the same twice"):
    overlaps, sides = zip(*found[kind], strict=True)
    means[kind] = float(np.mean(overlaps))
    print(f"{kind}: {len(sides)} draws, mean overlap {means[kind]:.2f}, worst side off by {max(sides):.1f}")
right = means["nothing moves"] == 1 and means["one operation moves"] > 0.9 and means["two, in the list's order"] > 0.8
sys.exit(not (right and means["two, against it"] < 0.8 and means["the same twice"] < 0.8))
PY
KERAS_HOME="$folder/keras" KERAS_BACKEND=jax "$folder/venv/bin/python" "$folder/boxes.py"
