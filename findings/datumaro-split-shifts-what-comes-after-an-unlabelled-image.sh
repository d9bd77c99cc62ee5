#!/usr/bin/env bash
# datumaro's Split keeps the distribution of classes, or whole persons in re-identification; images without exactly one label are "split
# into subsets randomly". It leaves those out of its list of labels, and then takes the place in that list for the image's number: every
# image behind the first unlabelled one gets the subset of another. Classes are no longer balanced, some images stay in a subset that
# nobody asked for, and all persons of the training images are in the test set too.
#
# Seen 2026-12-01 with datumaro 1.13.12, Python 3.11.7; 10 classes of 20 images and 20 without a label, asked for 0.5, 0.2 and 0.3:
#   classification  test     6 8 6 8 4 5 5 5 6 2   (6 of each are right)
#   classification  default  1 1 1 3 2 2 4 1 0 2   (no such subset was asked for)
#   reid            10 of 10 persons are in the test set and in another
# A guess that fails: "a few unlabelled images are spread at random, and the others as promised".
# What works: Split of the images with exactly one label alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  datumaro==1.13.12 numpy==2.2.6
cat > "$folder/split.py" <<'PY'
import random
import sys
from collections import Counter

from datumaro.components.annotation import Label
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.plugins.splitter import Split

items = [DatasetItem(id=f"{label}_{j}", annotations=[Label(label)]) for label in range(10) for j in range(20)]
items += [DatasetItem(id=f"none_{j}") for j in range(20)]
random.Random(0).shuffle(items)
images = Dataset.from_iterable(items, categories=[f"class {label}" for label in range(10)])


def counts(task):
    found = {}
    for item in Split(images, task, [("train", 0.5), ("val", 0.2), ("test", 0.3)], query=0.5, seed=0):
        label = item.annotations[0].label if item.annotations else None
        found.setdefault(item.subset, Counter())[label] += 1
    return {subset: [by_label[label] for label in range(10)] for subset, by_label in found.items()}


found = counts("classification")
for subset in sorted(found):
    print(f"classification  {subset:8}", *found[subset])
people = counts("reid")
tested = [sum(part[i] for subset, part in people.items() if subset.startswith("test")) for i in range(10)]
others = [sum(part[i] for subset, part in people.items() if subset in ("train", "val")) for i in range(10)]
both = sum(a > 0 and b > 0 for a, b in zip(tested, others))
print(f"reid            {both} of 10 persons are in the test set and in another")
sys.exit(not (found["test"] != [6] * 10 and sum(found.get("default", [])) > 0 and both == 10))
PY
"$folder/venv/bin/python" "$folder/split.py"
