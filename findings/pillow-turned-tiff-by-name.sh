#!/usr/bin/env bash
# A TIFF turned by a quarter (orientation 5 to 8), uncompressed, in a mode of 1, 2 or 4 bytes a pixel, gives other pixels
# when Pillow opens it by file name than when it opens the same bytes from memory. By name the pixels are mapped into
# memory with width and height taken for each other: the array has the shape of the file as it is stored, while
# Image.size says it is turned. RGB (3 bytes a pixel) is not mapped, and right both ways.
#
# Seen 2026-11-28 with Pillow 13.0.0, NumPy 2.4.6, Python 3.11.7:
#   L 6 size (4, 6) by name (4, 6) from memory (6, 4)
#   I;16 6 size (4, 6) by name (4, 6) from memory (6, 4)
#   RGBA 6 size (4, 6) by name (4, 6, 4) from memory (6, 4, 4)
#   RGB 6 size (4, 6) by name (6, 4, 3) from memory (6, 4, 3)
# A guess that fails: "Image.open(path) and Image.open(BytesIO(bytes)) are the same image".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
cat > "$folder/turned.py" <<'PY'
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

path = Path(sys.argv[1]) / "turned.tif"
random = np.random.default_rng(0)
pixels = {
    "L": random.integers(0, 255, (4, 6), np.uint8),
    "I;16": random.integers(0, 60_000, (4, 6)).astype(np.uint16),
    "RGBA": random.integers(0, 255, (4, 6, 4), np.uint8),
    "RGB": random.integers(0, 255, (4, 6, 3), np.uint8),
}
same = {}
for mode, stored in pixels.items():
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(stored).save(path, exif=exif)
    by_name = Image.open(path)
    size, a = by_name.size, np.asarray(by_name)
    b = np.asarray(Image.open(io.BytesIO(path.read_bytes())))
    same[mode] = a.shape == b.shape and bool((a == b).all())
    assert (b == np.rot90(stored, -1)).all()  # from memory: upright
    print(mode, 6, "size", size, "by name", a.shape, "from memory", b.shape)
sys.exit(same != {"L": False, "I;16": False, "RGBA": False, "RGB": True})
PY
"$folder/venv/bin/python" "$folder/turned.py" "$folder"
