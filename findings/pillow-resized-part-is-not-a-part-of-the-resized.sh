#!/usr/bin/env bash
# Pillow's resize(size, resample, box) of the part that a crop needs does not give the crop of the resized image. A box may have
# fractions so that it can: the request that introduced it (2254, of 2016) says that tiles made by a box match the pixels of
# the whole image resized. But a box is kept in single precision, and so are its width and the scale that follows from it.
# Both drift by up to 1/30000 of a pixel near pixel 700, and where a sum lies that near to half a level, a pixel is rounded
# to the other side. "Resize to 256, crop 224" done in one step, to save time, so gives some other pixels for nearly every
# image; where all four numbers of the box are exact (half the size, say), it gives none. The documentation says that the
# numbers are floats, not which.
#
# Seen 2026-11-30 with Pillow 13.0.0, NumPy 2.4.6, Python 3.11.7; 40 wide images of noise, the shorter side made 256, then the
# middle 224x224, against the same by a box; pixels of all images, and the largest difference in levels of 255:
#   bilinear, any size: 38 of 40 images differ, in 3001 of 2007040 pixels, by up to 1
#   bilinear, twice the size: 0 of 40 images differ, in 0 of 2007040 pixels, by up to 0
#   bicubic, any size: 38 of 40 images differ, in 767 of 2007040 pixels, by up to 1
#   bicubic, twice the size: 0 of 40 images differ, in 0 of 2007040 pixels, by up to 0
# A guess that fails: "a resize that is told its part in fractions of pixels gives the pixels of the whole".
# What works: resizing the whole, or a box whose numbers are exact in single precision.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
cat > "$folder/part.py" <<'PY'
import sys

import numpy as np
from PIL import Image

found = {}
for kind in ("bilinear", "bicubic"):
    for name, exact in (("any size", False), ("twice the size", True)):
        rng = np.random.default_rng(0)
        images = pixels = largest = 0
        for _ in range(40):
            height = 512 if exact else int(rng.integers(300, 600))
            width = 2 * int(rng.integers(300, 450)) if exact else height + int(rng.integers(10, 300))
            image = Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8))
            method = Image.Resampling[kind.upper()]
            w, h = round(width * 256 / height), 256
            left, top = (w - 224) // 2, (h - 224) // 2
            whole = image.resize((w, h), method).crop((left, top, left + 224, top + 224))
            box = (left * width / w, top * height / h, (left + 224) * width / w, (top + 224) * height / h)
            off = np.abs(np.asarray(whole, int) - np.asarray(image.resize((224, 224), method, box=box), int))
            images += bool(off.any())
            pixels += int((off > 0).sum())
            largest = max(largest, int(off.max()))
        found[kind, name] = images, largest
        print(f"{kind}, {name}: {images} of 40 images differ, in {pixels} of {40 * 224 * 224} pixels, by up to {largest}")
drifts = all(found[kind, "any size"][0] > 20 and found[kind, "any size"][1] >= 1 for kind in ("bilinear", "bicubic"))
sys.exit(not (drifts and all(found[kind, "twice the size"] == (0, 0) for kind in ("bilinear", "bicubic"))))
PY
"$folder/venv/bin/python" "$folder/part.py"
