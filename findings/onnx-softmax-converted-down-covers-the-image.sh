#!/usr/bin/env bash
# onnx.version_converter turns a softmax over the classes of each pixel into one over classes and pixels of the whole image.
# Before opset 13, softmax covered the named axis and all behind it. The way up, from 12 to 13, inserts a Flatten and a
# Reshape to keep that meaning; the way down, from 13 to 12, keeps the axis and nothing else, which is right for the last
# axis only. The checker passes the model, and no warning comes. The class map of a segmentation network stays right, so
# its accuracy does too: only the probabilities are wrong, and stay so if the model is converted back to 13.
#
# Seen 2026-11-29 with onnx 1.23.2, onnxruntime 1.32.0, NumPy 2.4.6, Python 3.11.7, CPU; 3 classes, 4x5 pixels:
#   opset 13: the probabilities of a pixel add up to 1.000 .. 1.000, those of the image to 20.000
#   opset 12: the probabilities of a pixel add up to 0.019 .. 0.106, those of the image to 1.000
#   and back: the probabilities of a pixel add up to 0.019 .. 0.106, those of the image to 1.000
#   pixels whose most probable class stays: 20 of 20
# A guess that fails: "a converter without an equivalent for a node says so" (as it does for Hardmax).
# What works: transpose the axis to the end before the softmax and back behind it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/convert.py" <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.version_converter import convert_version

scores = np.random.default_rng(0).standard_normal((1, 3, 4, 5)).astype(np.float32)  # images, classes, rows, columns
places = [helper.make_tensor_value_info(name, TensorProto.FLOAT, scores.shape) for name in ("scores", "shares")]
softmax = helper.make_node("Softmax", ["scores"], ["shares"], axis=1)
graph = helper.make_graph([softmax], "network", places[:1], places[1:])
new = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
old = convert_version(new, 12)
found = []
for name, model in {"opset 13": new, "opset 12": old, "and back": convert_version(old, 13)}.items():
    onnx.checker.check_model(model, full_check=True)
    shares = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"scores": scores})[0]
    sums = shares.sum(1)
    print(f"{name}: the probabilities of a pixel add up to {sums.min():.3f} .. {sums.max():.3f}", end=", ")
    print(f"those of the image to {shares.sum():.3f}")
    found.append(shares)
same = int((found[0].argmax(1) == found[1].argmax(1)).sum())
print(f"pixels whose most probable class stays: {same} of {sums.size}")
sys.exit(not (np.allclose(found[0].sum(1), 1, atol=1e-4) and np.isclose(found[1].sum(), 1, atol=1e-4) and same == sums.size))
PY
"$folder/venv/bin/python" "$folder/convert.py"
