#!/usr/bin/env bash
# onnxoptimizer and OpenCV 5 turn ONNX's group norm into an instance norm. The standard defines GroupNormalization by a
# body of simpler nodes, and onnx.inliner writes it out. Its first two nodes are a Reshape to (N, groups, C / groups, H, W)
# and a Reshape to [0, 0, -1], where 0 stands for "as in the input of this node": N and groups. Both tools drop the first of
# two Reshapes, as only the last shape seems to count. Then the zeros mean N and C, and each channel is normalized alone:
# how strong the channels of a group are against each other, which a group norm keeps, is gone. Shapes still fit all the
# way down, and nothing warns. With [2, 2, -1] for [0, 0, -1], or with OpenCV's old engine, the result is right.
#
# Seen 2026-11-29 with onnx 1.23.2, onnxoptimizer 0.4.2, opencv-python-headless 5.0.0.93, NumPy 2.4.6, Python 3.11.7, CPU;
# 2 images, 4 channels that spread over 1, 2, 3 and 4, in 2 groups; the largest difference to a group norm and to an
# instance norm in NumPy:
#   onnx's reference: to group norm 0.00, to instance norm 1.52
#   onnxoptimizer: to group norm 1.52, to instance norm 0.00
#   OpenCV: to group norm 1.52, to instance norm 0.00
# A guess that fails: "a node's own definition in the standard is the one pattern of nodes that every tool gets right".
# What works: keep GroupNormalization as a node, or pass passes without eliminate_consecutive_idempotent_ops.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  onnx==1.23.2 onnxoptimizer==0.4.2 opencv-python-headless==5.0.0.93 numpy==2.4.6
cat > "$folder/norms.py" <<'PY'
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxoptimizer
from onnx import TensorProto, helper, numpy_helper
from onnx.inliner import inline_selected_functions
from onnx.reference import ReferenceEvaluator

path = Path(sys.argv[1]) / "norm.onnx"
x = np.random.default_rng(0).random((2, 4, 3, 5)).astype(np.float32) * np.arange(1, 5, dtype=np.float32).reshape(1, 4, 1, 1)
node = helper.make_node("GroupNormalization", ["x", "scale", "shift"], ["y"], num_groups=2)
places = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
ends = [numpy_helper.from_array(np.full(4, value, np.float32), name) for name, value in (("scale", 1), ("shift", 0))]
kinds = [helper.make_tensor_value_info(end.name, TensorProto.FLOAT, [4]) for end in ends]
graph = helper.make_graph([node], "network", places[:1], places[1:], ends, value_info=kinds)
short = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
model = inline_selected_functions(short, [("", "GroupNormalization")], inline_schema_functions=True)
onnx.checker.check_model(model, full_check=True)
assert [node.op_type for node in model.graph.node].count("Reshape") > 2
onnx.save(model, path)
network = cv2.dnn.readNetFromONNX(str(path))
network.setInput(x, "x")


def norm(groups: int) -> np.ndarray:
    v = x.reshape(2, groups, -1)
    return ((v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-5)).reshape(x.shape)


results = {
    "onnx's reference": ReferenceEvaluator(model).run(None, {"x": x})[0],
    "onnxoptimizer": ReferenceEvaluator(onnxoptimizer.optimize(model)).run(None, {"x": x})[0],
    "OpenCV": network.forward(),
}
seen = []
for name, result in results.items():
    differences = [float(np.abs(result - norm(groups)).max()) for groups in (2, 4)]
    print(f"{name}: to group norm {differences[0]:.2f}, to instance norm {differences[1]:.2f}")
    seen.append([difference < 0.01 for difference in differences])
sys.exit(seen != [[True, False], [False, True], [False, True]])
PY
"$folder/venv/bin/python" "$folder/norms.py" "$folder"
