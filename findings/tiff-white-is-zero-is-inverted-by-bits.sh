#!/usr/bin/env bash
# A TIFF may say that 0 is white (WhiteIsZero, as scanners, faxes and X-ray detectors write). Whether a reader then turns the values
# round depends on the reader and on the bits per pixel: Pillow and OpenCV do it for 8 bits and leave 16 bits as they are stored,
# libvips does it for both, tifffile, imageio and scikit-image for neither. OpenCV does it for 16 bits too as soon as
# asked for colours, imread's default, and not with IMREAD_UNCHANGED or IMREAD_ANYDEPTH, so that one file has two readings in
# one library. An 8-bit copy of a 16-bit picture, written right, becomes its negative to Pillow; a network trained through one
# reader is fed negatives through another. No reader warns, and arrays carry nothing by which to tell.
#
# Seen 2026-11-30 with Pillow 13.0.0, opencv-python-headless 5.0.0.93, tifffile 2026.3.3, imageio 2.38.1, scikit-image 0.26.0, pyvips
# 3.2.0 (libvips 8.18.7), NumPy 2.4.6, Python 3.11.7; a TIFF whose stored values rise from left to right, white to black:
#   Pillow: 8 bits inverted (255 to 0), 16 bits as stored (0 to 65535)
#   OpenCV, unchanged: 8 bits inverted (255 to 0), 16 bits as stored (0 to 65535)
#   OpenCV, any depth: 8 bits inverted (255 to 0), 16 bits as stored (0 to 65535)
#   OpenCV, by default: 8 bits inverted (255 to 0), 16 bits inverted (255 to 0)
#   libvips: 8 bits inverted (255 to 0), 16 bits inverted (65535 to 0)
#   tifffile: 8 bits as stored (0 to 255), 16 bits as stored (0 to 65535)
#   imageio: 8 bits as stored (0 to 255), 16 bits as stored (0 to 65535)
#   scikit-image: 8 bits as stored (0 to 255), 16 bits as stored (0 to 65535)
# A guess that fails: "what a reader does to the 8-bit file it does to the 16-bit one".
# What works: reading the tag PhotometricInterpretation (262) by hand, and subtracting from the largest value where it is 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 opencv-python-headless==5.0.0.93 \
  tifffile==2026.3.3 imageio==2.38.1 scikit-image==0.26.0 pyvips==3.2.0 pyvips-binary==8.18.7 numpy==2.4.6
cat > "$folder/white.py" <<'PY'
import sys
from pathlib import Path

import cv2
import imageio.v3 as imageio
import numpy as np
import pyvips
import skimage.io
import tifffile
from PIL import Image

folder = Path(sys.argv[1])
stored = np.tile(np.arange(0, 256, 5, dtype=np.uint8), (8, 1))
readers = {
    "Pillow": lambda path: np.asarray(Image.open(path)),
    "OpenCV, unchanged": lambda path: cv2.imread(path, cv2.IMREAD_UNCHANGED),
    "OpenCV, any depth": lambda path: cv2.imread(path, cv2.IMREAD_ANYDEPTH),
    "OpenCV, by default": lambda path: cv2.imread(path)[..., 0],
    "libvips": lambda path: pyvips.Image.new_from_file(path).numpy(),
    "tifffile": tifffile.imread,
    "imageio": imageio.imread,
    "scikit-image": skimage.io.imread,
}
found = {}
for bits, values in ((8, stored), (16, stored.astype(np.uint16) * 257)):
    path = str(folder / f"{bits}.tif")
    tifffile.imwrite(path, values, photometric="miniswhite")
    for name, read in readers.items():
        row = read(path)[0].astype(int)
        found[name, bits] = "as stored" if row[0] < row[-1] else "inverted"
        found[name, bits] += f" ({row[0]} to {row[-1]})"
for name in readers:
    print(f"{name}: 8 bits {found[name, 8]}, 16 bits {found[name, 16]}")
inverted = {bits: {name for name in readers if found[name, bits].startswith("inverted")} for bits in (8, 16)}
opencv = {name for name in readers if name.startswith("OpenCV")}
sys.exit(inverted != {8: {"Pillow", "libvips"} | opencv, 16: {"OpenCV, by default", "libvips"}})
PY
"$folder/venv/bin/python" "$folder/white.py" "$folder"
