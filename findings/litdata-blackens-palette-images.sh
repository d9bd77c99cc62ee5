#!/usr/bin/env bash
# litdata stores an image of up to 256 colours, as Pillow opens such PNG and GIF files, without the colours. optimize() keeps
# an image's mode, size and bytes. In Pillow's mode "P" the bytes are indices into a palette, and that is not kept: what
# comes back has the right size and mode, and is black all over once it is converted to RGB, as every loader does. Nothing
# warns. Images of other modes come back as they were, so that a few files of a class, or one source of many, turn black.
#
# Seen 2026-11-30 with litdata 0.2.76, Pillow 13.0.0, torch 2.15.0, torchvision 0.29.2, NumPy 2.4.6, Python 3.11.7, CPU; a red
# image in several forms, its colour before and after:
#   colours.png, mode RGB: (255, 0, 0) before, (255, 0, 0) after
#   palette.png, mode P: (255, 0, 0) before, (0, 0, 0) after
#   palette.gif, mode P: (255, 0, 0) before, (0, 0, 0) after
# A guess that fails: "images come out of a streaming data set as they went in".
# What works: image.convert("RGB") in the function that optimize() is given.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --disable-pip-version-check --quiet \
  litdata==0.2.76 pillow==13.0.0 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/palette.py" <<'PY'
import sys
from pathlib import Path

import litdata
from PIL import Image

root = Path(sys.argv[1])
NAMES = ("colours.png", "palette.png", "palette.gif")


def opened(number: int) -> dict:
    return {"number": number, "image": Image.open(root / NAMES[number])}


if __name__ == "__main__":
    root.mkdir()
    red = Image.new("RGB", (64, 48), "red")
    for name in NAMES:
        (red.quantize(2) if "palette" in name else red).save(root / name)
    litdata.optimize(opened, list(range(len(NAMES))), str(root / "out"), chunk_bytes="1MB", num_workers=1)
    found = {}
    for row in litdata.StreamingDataset(str(root / "out")):
        name = NAMES[row["number"]]
        before, found[name] = (image.convert("RGB").getpixel((5, 5)) for image in (Image.open(root / name), row["image"]))
        print(f"{name}, mode {row['image'].mode}: {before} before, {found[name]} after")
    sys.exit(found != {"colours.png": (255, 0, 0), "palette.png": (0, 0, 0), "palette.gif": (0, 0, 0)})
PY
"$folder/venv/bin/python" "$folder/palette.py" "$folder/images" 2> "$folder/progress"
