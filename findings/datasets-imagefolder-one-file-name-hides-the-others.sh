#!/usr/bin/env bash
# Hugging Face datasets looks for the words train, test and validation (also valid, dev, eval) in the names of all files
# and folders. One photograph called cat_test_1.png, or one class called "blood test", is taken for a split: that split
# is all there is, the other images are left out without a word, and the labels go with them, since one class is left.
#
# Seen 2026-11-28 with datasets 5.2.0 (pyarrow 26.0.1, Pillow 13.0.0, Python 3.11.7, CPU):
#   plain       {'train': 4} labels ['cat', 'dog']
#   one file    {'test': 1} labels none
#   one class   {'test': 1} labels none
# A guess that fails: "load_dataset('imagefolder') of class folders without split folders gives every image".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 pillow==13.0.0
cat > "$folder/load.py" <<'PY'
import sys
from pathlib import Path

import datasets
from PIL import Image

datasets.disable_progress_bars()
root, expected = Path(sys.argv[1]), []
for name, files in {
    "plain": ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"],
    "one file": ["cat/cat_test_1.png", "cat/2.png", "dog/1.png", "dog/2.png"],
    "one class": ["blood test/1.png", "urine/1.png", "urine/2.png", "swab/1.png"],
}.items():
    for file in files:
        path = root / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    found = datasets.load_dataset("imagefolder", data_dir=str(root / name), cache_dir=str(root / "cache"))
    features = next(iter(found.values())).features
    labels = features["label"].names if "label" in features else "none"
    print(f"{name:11s} { {split: len(rows) for split, rows in found.items()} } labels {labels}")
PY
HF_HUB_OFFLINE=1 HF_HOME="$folder/home" "$folder/venv/bin/python" "$folder/load.py" "$folder/images" | tee "$folder/found"
grep -q "^one file *{'test': 1} labels none" "$folder/found"
grep -q "^one class *{'test': 1} labels none" "$folder/found"
