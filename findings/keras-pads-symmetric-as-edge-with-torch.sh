#!/usr/bin/env bash
# keras.ops.pad(x, width, mode="symmetric") mirrors the border with JAX and NumPy, as numpy.pad does: 2 1 | 1 2 3. With the torch
# backend it repeats the outermost value, 1 1 | 1 2 3, which is NumPy's "edge". torch has no symmetric padding, and
# the backend calls its "replicate". The two agree for a width of 1, and so in a test that pads by 1. A model that pads its images
# by more, and was trained with one backend, gets other borders with the other, without an error or a warning.
#
# Seen 2026-11-30 with keras 3.15.1, jax 0.10.2, torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; 1 2 3 padded by 1, 2 and 3:
#   numpy, symmetric: 1 1 2 3 3, like numpy.pad: True
#   numpy, symmetric: 2 1 1 2 3 3 2, like numpy.pad: True
#   numpy, symmetric: 3 2 1 1 2 3 3 2 1, like numpy.pad: True
#   numpy, reflect: 2 1 2 3 2, like numpy.pad: True
#   numpy, reflect: 3 2 1 2 3 2 1, like numpy.pad: True
#   jax, symmetric: 1 1 2 3 3, like numpy.pad: True
#   jax, symmetric: 2 1 1 2 3 3 2, like numpy.pad: True
#   jax, symmetric: 3 2 1 1 2 3 3 2 1, like numpy.pad: True
#   jax, reflect: 2 1 2 3 2, like numpy.pad: True
#   jax, reflect: 3 2 1 2 3 2 1, like numpy.pad: True
#   torch, symmetric: 1 1 2 3 3, like numpy.pad: True
#   torch, symmetric: 1 1 1 2 3 3 3, like numpy.pad: False
#   torch, symmetric: 1 1 1 1 2 3 3 3 3, like numpy.pad: False
#   torch, reflect: 2 1 2 3 2, like numpy.pad: True
#   torch, reflect: 3 2 1 2 3 2 1, like numpy.pad: True
# A guess that fails: "keras.ops is NumPy's API, and the backend decides on speed, not on numbers".
# What works: mode="reflect", which is the same everywhere, or flipped slices joined by keras.ops.concatenate.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 jax==0.10.2 torch==2.15.0 numpy==2.4.6
cat > "$folder/pad.py" <<'PY'
import sys

import keras
import numpy as np

backend, passed = keras.backend.backend(), True
row = np.array([1, 2, 3], np.float32)
for mode, wrong in (("symmetric", backend == "torch"), ("reflect", False)):
    same = []
    for width in (1, 2, 3) if mode == "symmetric" else (1, 2):
        padded = keras.ops.convert_to_numpy(keras.ops.pad(row, ((width, width),), mode=mode))
        same.append(np.array_equal(padded, np.pad(row, width, mode=mode)))
        print(f"{backend}, {mode}: {' '.join(f'{value:g}' for value in padded)}, like numpy.pad: {same[-1]}")
    passed &= same == [True] + [not wrong] * (len(same) - 1)
sys.exit(not passed)
PY
for backend in numpy jax torch; do
  KERAS_HOME="$folder/keras" KERAS_BACKEND=$backend "$folder/venv/bin/python" "$folder/pad.py"
done
