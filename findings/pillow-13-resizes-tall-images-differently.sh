#!/usr/bin/env bash
# Pillow 13 resizes some tall images to other pixels than Pillow 12. Its resize has two passes and rounds to 8 bits between
# them, so their order shows. Up to 12 the horizontal pass came first, always; in 13 it does not where the height shrinks by
# more than twice as many pixels as the width. So 40x80 pixels, halved, are the same in both versions, and 40x81 are not.
# Whoever rebuilds the resize (in ONNX, on a GPU, in another language) with a fixed order matches wide images bit for bit
# and misses tall ones; a stored checksum or a measured accuracy of tall photos belongs to a version of Pillow.
#
# Seen 2026-11-28 with Pillow 12.0.0 and 13.0.0, NumPy 2.4.6, Python 3.11.7, bicubic; width x height, the order that gives
# Pillow's pixels, and the largest difference of the other order in levels of 255:
#   Pillow 12.0.0: 40x80 -> 20x40: horizontal first (the other order is off by up to 1)
#   Pillow 12.0.0: 40x81 -> 20x40: horizontal first (the other order is off by up to 1)
#   Pillow 12.0.0: 60x97 -> 24x24: horizontal first (the other order is off by up to 1)
#   Pillow 12.0.0: 60x60 -> 59x30: horizontal first (the other order is off by up to 9)
#   Pillow 13.0.0: 40x80 -> 20x40: horizontal first (the other order is off by up to 1)
#   Pillow 13.0.0: 40x81 -> 20x40: vertical first (the other order is off by up to 1)
#   Pillow 13.0.0: 60x97 -> 24x24: vertical first (the other order is off by up to 1)
#   Pillow 13.0.0: 60x60 -> 59x30: vertical first (the other order is off by up to 9)
# A guess that fails: "the horizontal pass comes first, as it always has".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==12.0.0 numpy==2.4.6
cat > "$folder/order.py" <<'PY'
import sys

import numpy as np
import PIL
from PIL import Image


def weights(n, resized):
    """Pillow's bicubic weights, in its 22 bits."""
    at, x = np.arange(resized)[:, None], np.arange(n)[None]
    far = abs(((2 * x + 1) * resized - (2 * at + 1) * n) / (2 * max(n, resized)))
    w = np.where(far < 1, (1.5 * far - 2.5) * far**2 + 1, np.where(far < 2, ((-0.5 * far + 2.5) * far - 4) * far + 2, 0))
    w = w / w.sum(1, keepdims=True) * 2**22
    return np.trunc(w + np.copysign(0.5, w))


def eight_bit(x):
    return np.clip(np.floor((x + 2**21) / 2**22), 0, 255)


seen = []
for width, height, across, down in (
    (40, 80, 20, 40), (40, 81, 20, 40), (60, 97, 24, 24), (60, 60, 59, 30)
):
    image = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    pillow = np.asarray(Image.fromarray(image).resize((across, down), Image.Resampling.BICUBIC)).astype(float)
    rows, columns = weights(height, down), weights(width, across)
    off = {
        "horizontal": abs(eight_bit(rows @ eight_bit(image @ columns.T)) - pillow).max(),
        "vertical": abs(eight_bit(eight_bit(rows @ image) @ columns.T) - pillow).max(),
    }
    exact = [name for name, most in off.items() if most == 0]
    seen.append(exact)
    size = f"Pillow {PIL.__version__}: {width}x{height} -> {across}x{down}"
    print(f"{size}: {'/'.join(exact)} first (the other order is off by up to {max(off.values()):.0f})")
sys.exit(seen != [[name] for name in sys.argv[1:]])
PY
"$folder/venv/bin/python" "$folder/order.py" horizontal horizontal horizontal horizontal
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0
"$folder/venv/bin/python" "$folder/order.py" horizontal vertical vertical vertical
