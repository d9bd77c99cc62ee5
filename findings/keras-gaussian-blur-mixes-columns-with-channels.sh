#!/usr/bin/env bash
# keras.ops.image.gaussian_blur(images), with images (batch, height, width, channels) and the default data_format, blurs over
# the columns and the channels in place of the rows and the columns with the JAX and the torch backend. The shape stays, red
# and blue become green's neighbours: a white image comes back greenish, as the zeros beyond red and blue are blurred in, and
# no row is ever mixed with another. With data_format="channels_last" written out it is right, and so it is with
# the default inside a functional model, in the layer RandomGaussianBlur, and on the NumPy backend. Called eagerly the
# function hands the default None on as it is; these backends take whatever is not "channels_last" for channels first.
# kernel_size is documented as height and width. JAX and NumPy take it the other way round, and so is sigma taken everywhere.
# torch writes the turned kernel's numbers into the shape that was asked for, which scrambles them (left and right differ),
# and pads both sides by half the height, so that the image changes its size.
#
# Seen 2026-11-30 with keras 3.15.1, jax 0.10.2, torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; a white image of 9x9, and the blur
# of a white pixel in its middle with kernel_size=(3, 5), data_format="channels_last":
#   numpy: default [1.0, 1.0, 1.0], written out [1.0, 1.0, 1.0], in a model [1.0, 1.0, 1.0]
#   numpy: image (9, 9), blurred over (5, 3), left and right alike: True
#   jax: default [0.73, 1.0, 0.73], written out [1.0, 1.0, 1.0], in a model [1.0, 1.0, 1.0]
#   jax: image (9, 9), blurred over (5, 3), left and right alike: True
#   torch: default [0.73, 1.0, 0.73], written out [1.0, 1.0, 1.0], in a model [1.0, 1.0, 1.0]
#   torch: image (9, 7), blurred over (3, 5), left and right alike: False
# A guess that fails: "an argument's default does what its documentation says, and every backend computes the same".
# What works: data_format written out, and square kernels with one sigma.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 jax==0.10.2 torch==2.15.0 numpy==2.4.6
cat > "$folder/blur.py" <<'PY'
import sys

import keras
import numpy as np
from keras import ops

backend = keras.backend.backend()
white, dot = np.ones((1, 9, 9, 3), np.float32), np.zeros((1, 9, 9, 3), np.float32)
dot[:, 4, 4] = 1
blur = ops.image.gaussian_blur


def middle(images: object) -> list[float]:
    return [round(float(value), 2) for value in ops.convert_to_numpy(images)[0, 4, 4]]


inputs = keras.Input((9, 9, 3))
model = keras.Model(inputs, blur(inputs))
default, functional = middle(blur(white)), middle(model(white))
written = middle(blur(white, data_format="channels_last"))
print(f"{backend}: default {default}, written out {written}, in a model {functional}")
blurred = ops.convert_to_numpy(blur(dot, kernel_size=(3, 5), data_format="channels_last"))[0, ..., 0]
rows, columns = np.nonzero(blurred > 1e-6)
extent = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
weights = blurred[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
symmetric = np.allclose(weights, weights[:, ::-1])
print(f"{backend}: image {blurred.shape}, blurred over {extent}, left and right alike: {symmetric}")
tinted, plain = [0.73, 1, 0.73], [1, 1, 1]
expected = {
    "numpy": (plain, (9, 9), (5, 3), True),
    "jax": (tinted, (9, 9), (5, 3), True),
    "torch": (tinted, (9, 7), (3, 5), False),
}[backend]
sys.exit((default, blurred.shape, extent, symmetric) != expected or [written, functional] != [plain, plain])
PY
for backend in numpy jax torch; do
  KERAS_HOME="$folder/keras" KERAS_BACKEND=$backend "$folder/venv/bin/python" "$folder/blur.py"
done
