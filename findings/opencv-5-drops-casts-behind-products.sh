#!/usr/bin/env bash
# OpenCV 5 drops a cast that stands behind a product with a constant: of ONNX's Mul by a Constant node and Cast, only the
# product is left, whatever the cast is to. (scores * 2).to(int) comes back as 1.4, not 1, and (x * 3).to(bool) as 2.1.
# OpenCV joins the two nodes to read how older exporters worked out shapes, and does not look whether it is a shape. What is
# counted, rounded down to a grid, binarized or made an index behind a scale is not; an image that the network ends with as
# uint8 is float32. The same constant as an initializer, or a sum or quotient for the product, is right, so that it depends on
# who wrote the file: torch.onnx.export with dynamo=False writes Constant nodes. Nothing warns, with either engine.
#
# Seen 2026-11-30 with opencv-python-headless 5.0.0.93, onnx 1.23.2 (its reference evaluator), NumPy 2.4.6, Python 3.11.7, CPU:
#   x                                  [0.2 0.5 0.7 1.5]
#   x * 3 to int32, a Constant node    reference [0 1 2 4] int32, OpenCV [0.6 1.5 2.1 4.5] float32
#   x * 3 to bool, a Constant node     reference [ True  True  True  True] bool, OpenCV [0.6 1.5 2.1 4.5] float32
#   x * 3 to uint8, a Constant node    reference [0 1 2 4] uint8, OpenCV [0.6 1.5 2.1 4.5] float32
#   x * 3 to int32, an initializer     reference [0 1 2 4] int32, OpenCV [0 1 2 4] int32
#   x + 3 to int32, a Constant node    reference [3 3 3 4] int32, OpenCV [3 3 3 4] int32
# A guess that fails: "an operator that is supported is supported behind any other".
# What works: onnxruntime or OpenVINO, an initializer in place of the Constant node, or a Floor before the cast.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check opencv-python-headless==5.0.0.93 onnx==1.23.2 numpy==2.4.6
cat > "$folder/casts.py" <<'PY'
import sys

import cv2
import numpy as np
from onnx import ModelProto, TensorProto, checker
from onnx import helper as h
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

x = np.array([[0.2, 0.5, 0.7, 1.5]], np.float32)
three = numpy_helper.from_array(np.array(3, np.float32), "three")


def model(operator: str, to: int, node: bool) -> ModelProto:
    """`operator` of x and three, cast to another type."""
    nodes = [h.make_node("Constant", [], ["three"], value=three)] if node else []
    nodes += [h.make_node(operator, ["x", "three"], ["scaled"]), h.make_node("Cast", ["scaled"], ["y"], to=to)]
    inputs = [h.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    outputs = [h.make_tensor_value_info("y", to, x.shape)]
    graph = h.make_graph(nodes, "casts", inputs, outputs, [] if node else [three])
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    checker.check_model(made, full_check=True)
    return made


print(f"{'x':34s} {x[0]}")
right = []
for name, operator, to, node in (
    ("x * 3 to int32, a Constant node", "Mul", TensorProto.INT32, True),
    ("x * 3 to bool, a Constant node", "Mul", TensorProto.BOOL, True),
    ("x * 3 to uint8, a Constant node", "Mul", TensorProto.UINT8, True),
    ("x * 3 to int32, an initializer", "Mul", TensorProto.INT32, False),
    ("x + 3 to int32, a Constant node", "Add", TensorProto.INT32, True),
):
    made = model(operator, to, node)
    expected = ReferenceEvaluator(made).run(None, {"x": x})[0]
    seen = []
    for engine in (cv2.dnn.ENGINE_NEW, cv2.dnn.ENGINE_CLASSIC):
        network = cv2.dnn.readNetFromONNX(np.frombuffer(made.SerializeToString(), np.uint8), engine)
        network.setInput(x)
        seen.append(network.forward())
    output = seen[0].reshape(-1).round(4)
    print(f"{name:34s} reference {expected[0]} {expected.dtype}, OpenCV {output} {output.dtype}")
    right.append([np.array_equal(each, expected) for each in seen])
sys.exit(right != [[False] * 2] * 3 + [[True] * 2] * 2)
PY
"$folder/venv/bin/python" "$folder/casts.py"
