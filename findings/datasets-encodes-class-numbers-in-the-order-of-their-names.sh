#!/usr/bin/env bash
# class_encode_column of Hugging Face datasets gives classes that are numbers other numbers. It turns them into text and sorts
# the text: of 12 classes, 2 becomes 4 and 10 becomes 2. Up to ten classes nothing happens. It is what makes a column of whole
# numbers a ClassLabel, which train_test_split needs to be told stratify_by_column. A network trained on the result is then
# tested against the numbers of the files, of a data set that was not encoded, or of one that lacks a class, where all
# numbers behind it move. Of 1000 classes 12 keep their number. The true numbers are in the names, as text. Nothing warns.
#
# Seen 2026-11-30 with datasets 5.2.0 (pyarrow 26.0.1), NumPy 2.4.6, Python 3.11.7, CPU:
#   10 classes from 0: all keep their number
#   12 classes from 0: 2 keep theirs; 0 to 11 become [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3]
#   100 classes from 0: 12 keep theirs
#   1000 classes from 0: 12 keep theirs
#   12 classes, a test set without class 1: 10 of its 11 classes have another number there than in the training set
#   12 classes, by ClassLabel(num_classes=12): all keep their number
# A guess that fails: "classes that are numbers from 0 on already are what they are encoded to".
# What works: cast_column("label", ClassLabel(num_classes=n)).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --disable-pip-version-check --quiet datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6
cat > "$folder/classes.py" <<'PY'
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import datasets

datasets.disable_progress_bars()
datasets.disable_caching()


def made(labels: range | list[int]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"label": list(labels)})


def encoded(labels: range | list[int]) -> dict[int, int]:
    """The new number of each class."""
    return dict(zip(labels, made(labels).class_encode_column("label")["label"], strict=True))


kept = {}
for n in (10, 12, 100, 1000):
    new = encoded(range(n))
    kept[n] = sum(before == after for before, after in new.items())
    end = "all keep their number" if kept[n] == n else f"{kept[n]} keep theirs"
    end += f"; 0 to 11 become {list(new.values())}" if n == 12 else ""
    print(f"{n} classes from 0: {end}")
train, test = encoded(range(12)), encoded([0, *range(2, 12)])
moved = sum(train[label] != number for label, number in test.items())
print(f"12 classes, a test set without class 1: {moved} of its {len(test)} classes have another number there", end=" ")
print("than in the training set")
cast = made(range(12)).cast_column("label", datasets.ClassLabel(num_classes=12))["label"]
print("12 classes, by ClassLabel(num_classes=12):", "all keep their number" if list(cast) == list(range(12)) else list(cast))
split = made(list(range(12)) * 5).class_encode_column("label").train_test_split(0.2, stratify_by_column="label", seed=0)
assert sorted(split["test"]["label"]) == list(range(12))  # what it is used for
sys.exit(not (kept[10] == 10 and kept[12] == 2 and kept[100] == kept[1000] == 12 and moved > 5 and list(cast) == list(range(12))))
PY
HF_HOME="$folder/home" "$folder/venv/bin/python" "$folder/classes.py"
