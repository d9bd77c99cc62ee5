#!/usr/bin/env bash
# Pillow takes the transparent value of a PNG (tRNS) as it is stored, and compares it with pixels that it has scaled. Gray of 2 and 4
# bits is stretched to 8 (5 of 15 becomes 85), so the value 5 is found nowhere: what should be transparent stays opaque.
# Of 16-bit colours the upper bytes are kept, and compared with the lower bytes
# of the value: the colour itself stays, and another one becomes transparent. Gray of 1 and 8 bits, and palettes, are right. Scans and
# maps are stored so, with the paper or the sea transparent. Nothing warns.
#
# Seen 2026-11-30 with Pillow 13.0.0, NumPy 2.4.6, Python 3.11.7; two pixels, of which the first has the transparent value, as RGBA:
#   gray of 1 bit, value 0: [0, 0, 0, 0], [255, 255, 255, 255]
#   gray of 2 bits, value 1: [85, 85, 85, 255], [170, 170, 170, 255]
#   gray of 4 bits, value 5: [85, 85, 85, 255], [255, 255, 255, 255]
#   gray of 8 bits, value 5: [5, 5, 5, 0], [6, 6, 6, 255]
#   colours of 16 bits, value (2307, 2564, 2821): [9, 10, 11, 255], [3, 4, 5, 0]
# A guess that fails: "convert("RGBA") makes the transparent value transparent".
# What works: image.info["transparency"] times 85 for 2 bits and 17 for 4, and shifted by 8 bits for 16, before the conversion.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
cat > "$folder/transparent.py" <<'PY'
import io
import struct
import sys
import zlib

import numpy as np
from PIL import Image


def png(depth, kind, row, transparent):
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 2, 1, depth, kind, 0, 0, 0), b"tRNS": transparent, b"IDAT": zlib.compress(b"\0" + row), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content)) for name, content in chunks.items()
    )


clear = []
for depth, row, value in ((1, [0b01000000], 0), (2, [0b01100000], 1), (4, [0x5F], 5), (8, [5, 6], 5)):
    image = Image.open(io.BytesIO(png(depth, 0, bytes(row), struct.pack(">H", value))))
    first, second = np.asarray(image.convert("RGBA"))[0].tolist()
    print(f"gray of {depth} bit{'s' * (depth > 1)}, value {value}: {first}, {second}")
    clear.append((first[3] == 0, second[3] == 0))
value = (9 * 256 + 3, 10 * 256 + 4, 11 * 256 + 5)
image = Image.open(io.BytesIO(png(16, 2, struct.pack(">6H", *value, 3 * 256, 4 * 256, 5 * 256), struct.pack(">3H", *value))))
first, second = np.asarray(image.convert("RGBA"))[0].tolist()
print(f"colours of 16 bits, value {value}: {first}, {second}")
clear.append((first[3] == 0, second[3] == 0))
right, nothing, other = (True, False), (False, False), (False, True)
sys.exit(clear != [right, nothing, nothing, right, other])
PY
"$folder/venv/bin/python" "$folder/transparent.py"
