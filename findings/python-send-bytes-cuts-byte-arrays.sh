#!/usr/bin/env bash
# multiprocessing's Connection.send_bytes takes any bytes-like object and casts it to bytes only if its items are larger
# than one byte. Of a uint8 array of several axes, such as an image, it announces the length of the first axis and writes
# all bytes: the receiver gets the first rows' worth of single bytes, without an error, and takes the rest for the next
# message's length. The same array in float32 arrives whole, and so does a flat one.
#
# Seen 2026-11-28 with Python 3.11.7 and NumPy 2.4.6:
#   uint8 (20,) 20 bytes: received 20, left in the pipe 0
#   uint8 (4, 5) 20 bytes: received 4, left in the pipe 16
#   float32 (4, 5) 80 bytes: received 80, left in the pipe 0
# A guess that fails: "send_bytes sends buffer.nbytes bytes".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6
cat > "$folder/send.py" <<'PY'
import os
import sys
from multiprocessing import Pipe

import numpy as np

ours, theirs = Pipe()
seen = []
for array in (
    np.arange(20, dtype=np.uint8),
    np.arange(20, dtype=np.uint8).reshape(4, 5),
    np.arange(20, dtype=np.float32).reshape(4, 5),
):
    ours.send_bytes(array)
    received = len(theirs.recv_bytes())
    left = len(os.read(theirs.fileno(), 1000)) if theirs.poll(0) else 0
    print(array.dtype, array.shape, array.nbytes, "bytes: received", f"{received}, left in the pipe", left)
    seen.append((received, left))
sys.exit(seen != [(20, 0), (4, 16), (80, 0)])
PY
"$folder/venv/bin/python" "$folder/send.py"
