#!/usr/bin/env bash
# What a function given to map of Hugging Face datasets does to an image in place, thumbnail() or a drawing, is dropped if
# the image comes from a file, as imagefolder's do. A Pillow image that was opened by name keeps that name, and datasets
# stores the file's name for each image that has one: the function runs, and the data set still holds the file. The
# same function on the same images stored inside the data set works, and so does image.copy() before. Nothing warns: boxes
# drawn over faces or over written-in labels are gone, and images that were made small stay large.
#
# Seen 2026-11-30 with datasets 5.2.0 (pyarrow 26.0.1), Pillow 13.0.0, NumPy 2.4.6, Python 3.11.7, CPU; white images of 96x64,
# made small to 48 pixels, covered in black, or copied and then both:
#   files, small: 96x64, brightest 255
#   files, covered: 96x64, brightest 255
#   files, copied: 48x32, brightest 0
#   stored inside, small: 48x32, brightest 255
#   stored inside, covered: 96x64, brightest 0
#   stored inside, copied: 48x32, brightest 0
# A guess that fails: "map stores the images that the function returns".
# What works: image.copy() first, or resize(), which makes a new image.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --disable-pip-version-check --quiet datasets==5.2.0 pyarrow==26.0.1 pillow==13.0.0 numpy==2.4.6
cat > "$folder/place.py" <<'PY'
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import datasets
import numpy as np
from PIL import Image, ImageDraw

datasets.disable_progress_bars()
datasets.disable_caching()
root = Path(sys.argv[1])
(root / "cat").mkdir(parents=True)
for kind in ("jpg", "png"):
    Image.new("RGB", (96, 64), "white").save(root / "cat" / f"1.{kind}")
files = datasets.load_dataset("imagefolder", data_dir=str(root), split="train")
rows = [{"image": {"bytes": Path(row["image"].filename).read_bytes(), "path": None}} for row in files]
inside = datasets.Dataset.from_list(rows, features=datasets.Features({"image": datasets.Image()}))


def small(row: dict) -> dict:
    row["image"].thumbnail((48, 48))
    return row


def covered(row: dict) -> dict:
    ImageDraw.Draw(row["image"]).rectangle((0, 0, 96, 64), fill="black")
    return row


def copied(row: dict) -> dict:
    row["image"] = row["image"].copy()
    return small(covered(row))


found = {}
for name, before in {"files": files, "stored inside": inside}.items():
    for function in (small, covered, copied):
        images = [row["image"] for row in before.map(function)]
        sizes = {image.size for image in images}
        brightest = max(int(np.asarray(image.convert("L")).max()) for image in images)
        found[name, function.__name__] = min(sizes)[0], brightest
        print(f"{name}, {function.__name__}: {images[0].size[0]}x{images[0].size[1]}, brightest {brightest}")
lost = found["files", "small"] == (96, 255) and found["files", "covered"] == (96, 255)
kept = found["stored inside", "small"] == (48, 255) and found["stored inside", "covered"][1] < 5
sys.exit(not (lost and kept and found["files", "copied"] == found["stored inside", "copied"]))
PY
HF_HOME="$folder/home" "$folder/venv/bin/python" "$folder/place.py" "$folder/images"
