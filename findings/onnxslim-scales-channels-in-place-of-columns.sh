#!/usr/bin/env bash
# OnnxSlim folds a scale per column into the channels of the convolution before it, if there are as many columns as channels.
# It looks for a product with as many numbers as the convolution has channels, and not at the axis they lie on, so that a
# scale of shape (64,), which ONNX lines up with the last axis, or (64, 1), with the rows, is taken for one of (64, 1, 1).
# A frequency weighting behind the convolution of a spectrogram, or a taper towards an image's edges, then weights
# features. The same network is right at any other width. The output has the right shape, and nothing warns: OnnxSlim can compare
# what it made with what it got (model_check), but does not unless asked to. At a sum instead of a product it does look.
#
# Seen 2026-11-30 with onnxslim 0.1.98, onnx 1.23.2, onnxruntime 1.32.0, NumPy 2.4.6, Python 3.11.7, CPU; 8 channels, an image of
# 8 rows, nodes left of two, and the largest difference of the slimmed model to the model:
#   * (8,), 8 columns: 1 left, off by 8.3, values up to 10.1
#   * (8, 1), 8 rows: 1 left, off by 3.4, values up to 5.8
#   * (10,), 10 columns: 2 left, off by 0.0, values up to 5.2
#   * (8, 1, 1), channels: 1 left, off by 0.0, values up to 10.8
#   + (8,), 8 columns: 2 left, off by 0.0, values up to 5.2
# A guess that fails: "a slimmed model computes the same".
# What works: slim(model, model_check=True), which then returns None, or skip_fusion_patterns=["FusionConvMul"].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxslim==0.1.98 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/columns.py" <<'PY'
import sys

import numpy as np
import onnxruntime
import onnxslim
from onnx import ModelProto, TensorProto, checker
from onnx import helper as h
from onnx import numpy_helper

draw = np.random.default_rng(0)
CHANNELS, HEIGHT = 8, 8


def model(operator: str, shape: tuple[int, ...], width: int) -> ModelProto:
    """A 3x3 convolution, and a product or sum with constants of `shape`."""
    weights = {
        "kernel": draw.normal(0, 0.2, (CHANNELS, 3, 3, 3)).astype(np.float32),
        "scale": draw.normal(1, 1, shape).astype(np.float32),
    }
    nodes = [h.make_node("Conv", ["x", "kernel"], ["map"], pads=[1] * 4), h.make_node(operator, ["map", "scale"], ["y"])]
    inputs = [h.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, HEIGHT, width])]
    outputs = [h.make_tensor_value_info("y", TensorProto.FLOAT, [1, CHANNELS, HEIGHT, width])]
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    made = h.make_model(
        h.make_graph(nodes, "columns", inputs, outputs, initializers), opset_imports=[h.make_opsetid("", 17)], ir_version=8
    )
    checker.check_model(made, full_check=True)
    return made


def run(made: ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(made.SerializeToString(), options).run(None, {"x": x})[0]


wrong = []
for operator, shape, width, name in (
    ("Mul", (8,), 8, "8 columns"),
    ("Mul", (8, 1), 10, "8 rows"),
    ("Mul", (10,), 10, "10 columns"),
    ("Mul", (8, 1, 1), 10, "channels"),
    ("Add", (8,), 8, "8 columns"),
):
    made, x = model(operator, shape, width), draw.normal(0, 1, (1, 3, HEIGHT, width)).astype(np.float32)
    slim = onnxslim.slim(made)
    unfused = onnxslim.slim(made, skip_fusion_patterns=["FusionConvMul"])
    assert np.abs(run(unfused, x) - run(made, x)).max() < 1e-4
    off = np.abs(run(slim, x) - run(made, x)).max()
    print(f"{'*' if operator == 'Mul' else '+'} {shape}, {name}: {len(slim.graph.node)} left, off by {off:.1f},", end=" ")
    print(f"values up to {np.abs(run(made, x)).max():.1f}")
    wrong.append(bool(off > 1))
sys.exit(wrong != [True, True, False, False, False])
PY
"$folder/venv/bin/python" "$folder/columns.py"
