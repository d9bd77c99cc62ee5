#!/usr/bin/env bash
# Hugging Face datasets compresses a JPEG image again, at Pillow's default quality of 75, whenever a function given to map has
# looked at it and returns a row. Images that are stored inside the data set (Parquet files, most of the Hub) come as Pillow
# images that are stored again in the format they once had, changed or not. To measure is enough:
# `map(lambda row: {"width": row["image"].width})` gives a data set with a new column, and with every image recompressed.
# Networks are then trained and tested on other pixels than the data set's, and the quality depends on how a column was
# added. Nothing warns. PNG images, images that are files, and rows whose image was not looked at stay as they were.
#
# Seen 2026-11-30 with datasets 5.2.0 (pyarrow 26.0.1), Pillow 13.0.0, NumPy 2.4.6, Python 3.11.7, CPU; a picture with noise,
# stored with quality 95; mean difference to it in levels of 255, and the size of what is stored:
#   JPEG, before: 0.0 levels, 29053 bytes
#   JPEG, adds a number to the row: 0.0 levels, 29053 bytes
#   JPEG, adds the width to the row: 6.0 levels, 9063 bytes
#   JPEG, returns the width: 6.0 levels, 9063 bytes
#   JPEG, the same, by input_columns: 0.0 levels, 29053 bytes
#   PNG, all five: 0.0 levels, 114361 bytes
# A guess that fails: "a column that the function does not return stays as it is".
# What works: input_columns=["image"], or cast_column("image", Image(decode=False)) until all columns are made.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --disable-pip-version-check --quiet datasets==5.2.0 pyarrow==26.0.1 pillow==13.0.0 numpy==2.4.6
cat > "$folder/generations.py" <<'PY'
import io
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import datasets
import numpy as np
from PIL import Image

datasets.disable_progress_bars()
datasets.disable_caching()
noise = np.random.default_rng(0).normal(0, 12, (192, 256, 3))
wave = 128 + 90 * np.sin(np.arange(192)[:, None, None] / 20) * np.cos(np.arange(256)[:, None] / 30)
picture = Image.fromarray((wave + noise).clip(0, 255).astype(np.uint8))


def stored(kind: str) -> datasets.Dataset:
    file = io.BytesIO()
    picture.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
    features = datasets.Features({"image": datasets.Image()})
    return datasets.Dataset.from_dict({"image": [{"bytes": file.getvalue(), "path": None}]}, features=features)


def ignores(row: dict) -> dict:
    row["n"] = 1
    return row


def looks(row: dict) -> dict:
    row["width"] = row["image"].width
    return row


def measure(row: dict) -> dict:
    return {"width": row["image"].width}


found = {}
for kind in ("JPEG", "PNG"):
    before = stored(kind)
    pixels = np.asarray(before[0]["image"]).astype(int)
    ways = {
        "before": before,
        "adds a number to the row": before.map(ignores),
        "adds the width to the row": before.map(looks),
        "returns the width": before.map(measure),
        "the same, by input_columns": before.map(lambda image: {"width": image.width}, input_columns=["image"]),
    }
    for name, after in ways.items():
        found[kind, name] = np.abs(np.asarray(after[0]["image"]) - pixels).mean()
        size = len(after.cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"])
        print(f"{kind}, {name}: {found[kind, name]:.1f} levels, {size} bytes")
changed = {key for key, difference in found.items() if difference}
sys.exit(changed != {("JPEG", "adds the width to the row"), ("JPEG", "returns the width")})
PY
HF_HOME="$folder/home" "$folder/venv/bin/python" "$folder/generations.py"
