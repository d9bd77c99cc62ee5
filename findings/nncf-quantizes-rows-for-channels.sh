#!/usr/bin/env bash
# NNCF gives each channel of a depthwise convolution's input a range of its own. Where the activations are (N, H, W, C) and
# a transpose to (N, C, H, W) stands before the convolution, as in every channels-last ConvNeXt, it moves the quantizer
# above the transpose and keeps axis 1: there, that is the rows of the image. The quantized model has one range per row of
# pixels, fits one height only, and shares each range among all channels, which is what the option is to avoid. Neither
# NNCF nor the model says so.
#
# Seen 2026-11-28 with nncf 3.4.0, openvino 2026.4.1, NumPy 2.4.6, Python 3.11.7, CPU; 8 channels, 12 rows, 10 columns:
#   input (1, 8, 12, 10): ranges [1, 8, 1, 1], one per channel
#   input (1, 12, 10, 8), then a transpose: ranges [1, 12, 1, 1], one per row
# A guess that fails: "per-channel ranges are per channel, whatever the layout".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nncf==3.4.0 openvino==2026.4.1 numpy==2.4.6
cat > "$folder/rows.py" <<'PY'
import logging
import sys

import nncf
import numpy as np
from openvino import Model
from openvino import opset13 as op

nncf.set_log_level(logging.ERROR)
draw = np.random.default_rng(0)
CHANNELS, HEIGHT, WIDTH = 8, 12, 10
data = [draw.standard_normal((1, HEIGHT, WIDTH, CHANNELS)).astype(np.float32) for _ in range(8)]


def network(channels_last):
    """A depthwise 3x3 convolution of images (1, H, W, C), or of the same as (1, C, H, W)."""
    kernel = op.constant(draw.standard_normal((CHANNELS, 1, 1, 3, 3)).astype(np.float32))
    shape = [1, HEIGHT, WIDTH, CHANNELS] if channels_last else [1, CHANNELS, HEIGHT, WIDTH]
    x = images = op.parameter(shape, np.float32)
    if channels_last:
        x = op.transpose(x, op.constant(np.array([0, 3, 1, 2])))
    return Model([op.group_convolution(x, kernel, [1, 1], [1, 1], [1, 1], [1, 1])], [images])


seen = []
for channels_last in (False, True):
    batches = [d if channels_last else d.transpose(0, 3, 1, 2) for d in data]
    model = nncf.quantize(network(channels_last), nncf.Dataset(batches))
    for node in model.get_ordered_ops():
        source = node.input_value(0).get_node().get_type_name() if node.get_type_name() == "FakeQuantize" else ""
        if source in ("Parameter", "Transpose"):  # of the activations, not of the kernel
            seen.append((list(node.get_input_shape(0)), list(node.get_input_shape(1))))
            print(f"quantizer of {seen[-1][0]}: ranges {seen[-1][1]}")
sys.exit(seen != [([1, 8, 12, 10], [1, 8, 1, 1]), ([1, 12, 10, 8], [1, 12, 1, 1])])
PY
"$folder/venv/bin/python" "$folder/rows.py"
