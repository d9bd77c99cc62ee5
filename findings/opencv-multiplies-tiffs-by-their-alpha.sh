#!/usr/bin/env bash
# OpenCV multiplies the colours of an 8-bit TIFF by its alpha. The file says that they are not (ExtraSamples 2, what Pillow and most
# editors write), IMREAD_UNCHANGED is there to return what is stored, and PNG, WebP and 16-bit TIFF with the same pixels come
# back as they were. Objects cut out of their background thus get dark rims, and all that is transparent is black: pasted onto
# another image by their alpha, as copy-and-paste augmentation does, they are darkened a second time. The default, imread without
# flags, returns the picture on black in place of the colours. TIFFs that OpenCV wrote lack the tag and
# come back unharmed, so a round trip does not show it. Read, changed and saved by Pillow, the picture is darker each time.
# TIFFs whose colours are multiplied by alpha (ExtraSamples 1) OpenCV returns like that, Pillow divided. Nothing warns.
#
# Seen 2026-11-30 with opencv-python-headless 5.0.0.93, Pillow 13.0.0, tifffile 2026.3.3, NumPy 2.4.6, Python 3.11.7; a disc with a
# soft rim, all of it of colour 200, mean difference of what is read to the colour stored, where alpha is above 0:
#   pillow.png: OpenCV +0.0, Pillow +0.0
#   pillow.webp: OpenCV +0.0, Pillow +0.0
#   opencv.tif: OpenCV +0.0, Pillow +0.0
#   16.tif: OpenCV +0.0, Pillow +0.0
#   pillow.tif: OpenCV -73.9, Pillow +0.0
#   read by OpenCV and saved by Pillow, 1 to 4 times: -73.9, -96.3, -106.9, -113.0
#   pasted onto a background of the same colour: darkest pixel 150 instead of 200
# A guess that fails: "the same RGBA pixels, saved without loss as PNG and as TIFF, are read alike".
# What works: Pillow or tifffile for TIFFs with alpha.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 opencv-python-headless==5.0.0.93 \
  tifffile==2026.3.3 numpy==2.4.6
cat > "$folder/alpha.py" <<'PY'
import sys
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

folder = Path(sys.argv[1])
y, x = np.mgrid[:64, :64]
alpha = np.clip((28 - np.hypot(y - 31.5, x - 31.5)) / 12, 0, 1)  # 1 within, 0 outside, a rim of 12 pixels
picture = np.full((64, 64, 4), 200, np.uint8)
picture[..., 3] = np.round(255 * alpha)
inside = picture[..., 3] > 0
Image.fromarray(picture).save(folder / "pillow.png")
Image.fromarray(picture).save(folder / "pillow.webp", lossless=True, exact=True)
Image.fromarray(picture).save(folder / "pillow.tif")
cv2.imwrite(str(folder / "opencv.tif"), picture)  # all three colours are equal, so the order of channels does not matter
tifffile.imwrite(folder / "16.tif", picture.astype(np.uint16) * 257, photometric="rgb", extrasamples=["unassalpha"])


def off(colours: np.ndarray) -> float:
    return float((colours[inside] - 200.0).mean())


found = {}
for name in ("pillow.png", "pillow.webp", "opencv.tif", "16.tif", "pillow.tif"):
    path = str(folder / name)
    read = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    scale = 257 if read.dtype == np.uint16 else 1
    assert (read[..., 3] // scale == picture[..., 3]).all()
    found[name] = off(read[..., :3] / scale), off(np.asarray(Image.open(path))[..., :3])
    print(f"{name}: OpenCV {found[name][0]:+.1f}, Pillow {found[name][1]:+.1f}")

path, rounds = str(folder / "again.tif"), []
Image.fromarray(picture).save(path)
for _ in range(4):
    read = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    rounds.append(off(read[..., :3]))
    Image.fromarray(read).save(path)
print(f"read by OpenCV and saved by Pillow, 1 to 4 times: {', '.join(f'{value:+.1f}' for value in rounds)}")
background = np.full((64, 64, 3), 200.0)
cut = cv2.imread(str(folder / "pillow.tif"), cv2.IMREAD_UNCHANGED)
pasted = background * (1 - alpha[..., None]) + cut[..., :3] * alpha[..., None]
print(f"pasted onto a background of the same colour: darkest pixel {pasted.min():.0f} instead of 200")
clean = all(abs(value) < 0.5 for name, pair in found.items() if name != "pillow.tif" for value in pair)
sys.exit(not (clean and found["pillow.tif"][0] < -20 and abs(found["pillow.tif"][1]) < 0.5 and rounds[3] < rounds[0] - 20))
PY
"$folder/venv/bin/python" "$folder/alpha.py" "$folder"
