#!/usr/bin/env bash
# pylabel's GroupShuffleSplit, whose group_col is img_filename by default, groups nothing: it hands scikit-learn the row numbers
# as groups, and the file names as y, which that class ignores. A row is an object, so the objects of an image are drawn one by
# one: most images with several objects are in training and in validation or test, with some of their objects in each. A
# detector is tested on images that it was trained on, and where each part is exported, each has images whose other objects are
# missing. StratifiedGroupShuffleSplit of the same package keeps images whole. Nothing warns.
#
# Seen 2026-11-30 with pylabel 0.1.55, scikit-learn 1.9.1, pandas 2.3.3, Python 3.11.7:
#   609 objects in 100 images, split 60/20/20: 76 images are in training and in validation or test too
#   StratifiedGroupShuffleSplit: 0
# A guess that fails: "group_col names the column whose values stay together".
# What works: scikit-learn's GroupShuffleSplit with groups=data.df["img_filename"].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pylabel==0.1.55 pandas==2.3.3 numpy==2.4.6 scikit-learn==1.9.1
cat > "$folder/split.py" <<'PY'
import json
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import numpy as np
from pylabel import importer

root = Path(sys.argv[1])
draw = np.random.default_rng(0)
counts = draw.integers(1, 12, 100)
images = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(100)]
annotations = []
for image, count in enumerate(counts):
    for _ in range(count):
        x, y = (float(value) for value in draw.integers(0, 400, 2))
        annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": 1, "bbox": [x, y, 40.0, 30.0], "area": 1200.0, "iscrowd": 0})
file = root / "coco.json"
file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}))
data = importer.ImportCoco(str(file))
data.splitter.GroupShuffleSplit(train_pct=0.6, test_pct=0.2, val_pct=0.2, random_state=0)
parts = data.df.groupby("img_filename")["split"].agg(set)
both = sum("train" in names and len(names) > 1 for names in parts)
print(f"{len(annotations)} objects in {len(images)} images, split 60/20/20: {both} images are in training and in validation or test too")
data = importer.ImportCoco(str(file))
data.splitter.StratifiedGroupShuffleSplit(train_pct=0.6, test_pct=0.2, val_pct=0.2)
parts = data.df.groupby("img_filename")["split"].agg(set)
stratified = sum(len(names) > 1 for names in parts)
print(f"StratifiedGroupShuffleSplit: {stratified}")
sys.exit(not (both > 60 and stratified == 0))
PY
"$folder/venv/bin/python" "$folder/split.py" "$folder" 2>/dev/null
