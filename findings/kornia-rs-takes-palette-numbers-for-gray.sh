#!/usr/bin/env bash
# kornia-rs reads a PNG with a palette as a grayscale image of the palette's numbers. Image.open, Image.load and io.read_image
# return one channel, whose brightness is a colour's place in the file's table: noise to a network, and other noise in the next
# file, as each has its own table. Image.open(mode="RGB"), called PIL parity, returns one channel too; its sibling for files
# of which one states the channels refuses them ("PNG is Indexed"). Palettes of up to 16 colours are refused everywhere. So of
# a folder of drawings, screenshots or masks some stop the reading and the rest go wrong.
#
# Seen 2026-11-30 with kornia-rs 0.2.0, Pillow 13.0.0, NumPy 2.4.6, Python 3.11.7; a picture with a red, a green, a blue and a
# white bar:
#   Pillow: (64, 64, 3) bars [(200, 30, 30), (30, 200, 30), (30, 30, 200), (240, 240, 240)]
#   Image.open(mode="RGB"): (64, 64, 1) bars [(175,), (91,), (239,), (0,)]
#   Image.load: (64, 64, 1) bars [(175,), (91,), (239,), (0,)]
#   io.read_image: (64, 64, 1) bars [(175,), (91,), (239,), (0,)]
#   io.read_image_png_u8("rgb"): Image format mismatch: PNG is Indexed Eight, expected 3 channel(s) at Eight
# A guess that fails: "mode="RGB" gives RGB, or an error".
# What works: Pillow's convert("RGB"), or a check that the file is not indexed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kornia-rs==0.2.0 numpy==2.4.6 pillow==13.0.0
cat > "$folder/palette.py" <<'PY'
import sys
from pathlib import Path

import kornia_rs
import numpy as np
from kornia_rs.image import Image
from PIL import Image as Pillow

file = str(Path(sys.argv[1]) / "flag.png")
bars = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (240, 240, 240)]
colours = np.repeat(np.array(bars, np.uint8)[None], 32, 0).repeat(16, 1)
rest = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
picture = Pillow.fromarray(np.concatenate([colours, rest]))
picture.quantize(256).save(file)
right = np.asarray(Pillow.open(file).convert("RGB"))
found = {
    'Image.open(mode="RGB")': Image.open(file, mode="RGB").numpy(),
    "Image.load": Image.load(file).numpy(),
    "io.read_image": np.asarray(kornia_rs.io.read_image(file)),
}
print("Pillow:", right.shape, "bars", [tuple(map(int, right[16, x])) for x in (8, 24, 40, 56)])
for name, pixels in found.items():
    print(f"{name}:", pixels.shape, "bars", [tuple(map(int, pixels[16, x])) for x in (8, 24, 40, 56)])
try:
    kornia_rs.io.read_image_png_u8(file, "rgb")
    refused = False
except Exception as error:
    print('io.read_image_png_u8("rgb"):', error)
    refused = True
numbers = np.asarray(Pillow.open(file))
sys.exit(not (refused and all(np.array_equal(pixels[..., 0], numbers) and pixels.shape[2] == 1 for pixels in found.values())))
PY
"$folder/venv/bin/python" "$folder/palette.py" "$folder"
