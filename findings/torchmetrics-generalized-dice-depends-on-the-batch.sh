#!/usr/bin/env bash
# torchmetrics' GeneralizedDiceScore of an image depends on the images beside it, and on its place among them. A class is weighed
# by one over its squared area in the image. A class that the image lacks would weigh infinitely, and gets the largest
# weight of the batch instead: if it is rare, with few pixels in one image, its false positives then outweigh all
# else in the other images. On top of that the largest weights are laid out class by class, the images image by image, so that the
# absent class may get the weight of another class, chosen by the image's place. The same predictions are 0.86 in batches of 1
# image, 0.62 in batches of 4 and 0.51 in batches of 16, and the same image is 0.90 at one place and 0.01 at the next. Nothing warns.
#
# Seen 2026-11-30 with torchmetrics 1.9.0, torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; 64 maps of 32x32 pixels, class 1 a quarter
# of each, class 2 four pixels of every eighth map, 5 % of the predictions wrong:
#   weights of one over the squared area, batches of 1, 2, 4, 16, 64: 0.855, 0.735, 0.623, 0.510, 0.566
#   the same in another order, batches of 1, 2, 4, 16, 64: 0.855, 0.762, 0.652, 0.552, 0.579
#   linear weights, batches of 1, 2, 4, 16, 64: 0.950, 0.950, 0.950, 0.950, 0.950
#   DiceScore, batches of 1, 2, 4, 16, 64: 0.649, 0.649, 0.649, 0.649, 0.649
#   one image at places 2 to 7 of a batch, its own score: 0.911, 0.895, 0.895, 0.011, 0.011, 0.011
# A guess that fails: "a score that is the mean over images does not change with the batch size".
# What works: one image per update; or weight_type="linear", which has no weights to replace.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6 torchmetrics==1.9.0
cat > "$folder/dice.py" <<'PY'
import sys

import torch
from torchmetrics.segmentation import DiceScore, GeneralizedDiceScore

IMAGES, CLASSES = 64, 3
draw = torch.Generator().manual_seed(0)
target = torch.zeros(IMAGES, 32, 32, dtype=torch.long)
target[:, 8:24, 8:24] = 1
target[::8, :2, :2] = 2
wrong = torch.rand(target.shape, generator=draw) < 0.05
preds = torch.where(wrong, (target + 1) % CLASSES, target)
shuffled = torch.randperm(IMAGES, generator=draw)
order = torch.arange(IMAGES)


def score(images: torch.Tensor, batch: int, weight_type: str = "square") -> float:
    metric = GeneralizedDiceScore(CLASSES, weight_type=weight_type, input_format="index")
    for part in images.split(batch):
        metric.update(preds[part], target[part])
    return metric.compute().item()


def dice(batch: int) -> float:
    metric = DiceScore(CLASSES, average="macro", aggregation_level="global", input_format="index")
    for part in order.split(batch):
        metric.update(preds[part], target[part])
    return metric.compute().item()


sizes = (1, 2, 4, 16, 64)
squared = [score(order, size) for size in sizes]
other = [score(shuffled, size) for size in sizes]
linear = [score(order, size, "linear") for size in sizes]
plain = [dice(size) for size in sizes]
for name, values in (
    ("weights of one over the squared area", squared),
    ("the same in another order", other),
    ("linear weights", linear),
    ("DiceScore", plain),
):
    print(f"{name}, batches of {', '.join(map(str, sizes))}: {', '.join(f'{value:.3f}' for value in values)}")

# Six times the same image, which lacks class 2, after one that has it.
same = torch.tensor([0] + [1] * 6)
alike = GeneralizedDiceScore(CLASSES, input_format="index")
each = []
for place in range(1, 7):  # what the mean gains by the image at this place, the others' predictions being perfect
    given = target[same].clone()
    given[place] = preds[1]
    alike.reset()
    each.append(7 * alike(given, target[same]).item() - 6)
print("one image at places 2 to 7 of a batch, its own score: " + ", ".join(f"{value:.3f}" for value in each))
steady = [max(values) - min(values) < 1e-4 for values in (squared, other, linear, plain)]
sys.exit(not (steady == [False, False, True, True] and squared[0] - squared[-1] > 0.2 and max(each) - min(each) > 0.1))
PY
"$folder/venv/bin/python" "$folder/dice.py"
