#!/usr/bin/env bash
# torchmetrics' MulticlassExactMatch counts an image that ignore_index leaves out as a right one. It is the share of images of which
# all is right. Where the target is ignore_index, the prediction is set to ignore_index too, and then equals it: fine for some
# void pixels of an image, but an image that is void altogether is a match, and so is, with one label per image, each that
# has none. With 40 % of the labels missing, a network that guesses among five classes comes to a half, where the accuracy of
# torchmetrics says a fifth. The documentation says that an ignored target "does not contribute". Nothing warns.
#
# Seen 2026-11-30 with torchmetrics 1.9.0, torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; 2000 guesses among 5 classes, 40 % of the
# labels missing, and 200 maps of 4 pixels, of which one is always predicted wrong, in which 40 % of the maps are void:
#   labels: exact match 0.500, of the labelled ones alone 0.182; accuracy 0.182
#   maps: exact match 0.400, of the labelled ones alone 0.000; accuracy 0.750
# A guess that fails: "an image without any label changes nothing".
# What works: the metric on images with at least one label.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6 torchmetrics==1.9.0
cat > "$folder/match.py" <<'PY'
import sys

import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassExactMatch

generator = torch.Generator().manual_seed(0)
guesses, labels = torch.randint(5, (2, 2000), generator=generator)
labelled = torch.rand(2000, generator=generator) >= 0.4
maps = torch.randint(5, (200, 4), generator=generator)
wrong = maps.clone()
wrong[:, 0] = (maps[:, 0] + 1) % 5
whole = torch.arange(200) >= 80
found = {}
for name, guessed, true, known in (("labels", guesses, labels, labelled), ("maps", wrong, maps, whole)):
    given = true.clone()
    given[~known] = -1
    exact = MulticlassExactMatch(num_classes=5, ignore_index=-1)
    accuracy = MulticlassAccuracy(num_classes=5, ignore_index=-1, average="micro")
    found[name] = [exact(guessed, given).item(), exact(guessed[known], true[known]).item(), accuracy(guessed, given).item()]
    print("{}: exact match {:.3f}, of the labelled ones alone {:.3f}; accuracy {:.3f}".format(name, *found[name]))
one, maps = found["labels"], found["maps"]
sys.exit(not (one[0] > 0.45 and one[1] < 0.25 and abs(one[1] - one[2]) < 1e-6 and abs(maps[0] - 0.4) < 1e-6 and maps[1] == 0))
PY
"$folder/venv/bin/python" "$folder/match.py"
