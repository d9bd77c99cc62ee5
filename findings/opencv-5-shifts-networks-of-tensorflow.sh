#!/usr/bin/env bash
# OpenCV 5 pads strided convolutions and poolings of ONNX at the wrong end where the file says auto_pad="SAME_UPPER", which is
# TensorFlow's and Keras' "same". How much is padded depends on the stride: a 3x3 layer of stride 2 on an even map needs
# one row and one column, and they go below and on the right. OpenCV 5 works it out as if the stride were 1, pads one on
# each side, and so looks one pixel of that layer's input too far up and left; five such layers, a usual backbone, look 31
# pixels of the image away, so that boxes and masks lie 31 pixels down and right of their objects, and each feature is computed
# where it was not trained. OpenCV 4.13 is right. Shapes fit, and neither engine of OpenCV 5 warns.
#
# Seen 2026-11-30 with opencv-python-headless 4.13.0.92 and 5.0.0.93, onnx 1.23.2 (its reference evaluator), NumPy 2.4.6,
# Python 3.11.7, CPU; the column of a 256x256 image that the middle column of the output is centred on:
#   OpenCV 4.13.0: SAME_UPPER, 1 layer: reference 129, OpenCV 129
#   OpenCV 4.13.0: SAME_UPPER, 5 layers: reference 159, OpenCV 159
#   OpenCV 4.13.0: pads=[0, 0, 1, 1], 5 layers: reference 159, OpenCV 159
#   OpenCV 5.0.0: SAME_UPPER, 1 layer: reference 129, OpenCV 128
#   OpenCV 5.0.0: SAME_UPPER, 5 layers: reference 159, OpenCV 128
#   OpenCV 5.0.0: pads=[0, 0, 1, 1], 5 layers: reference 159, OpenCV 159
# A guess that fails: "a file that loads without a word in 4 and in 5 is the same network in both".
# What works: padding in numbers, which converters write where the image's size is fixed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check opencv-python-headless==4.13.0.92 onnx==1.23.2 numpy==2.4.6
cat > "$folder/shift.py" <<'PY'
import sys

import cv2
import numpy as np
from onnx import ModelProto, TensorProto, checker
from onnx import helper as h
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

SIDE = 256
columns = np.tile(np.arange(SIDE, dtype=np.float32), (SIDE, 1))[None, None]  # each pixel says which column it is in
mean = numpy_helper.from_array(np.full((1, 1, 3, 3), 1 / 9, np.float32), "mean")


def layers(count: int, **padding: object) -> ModelProto:
    """Means of 3x3 pixels with a stride of 2, one behind the other."""
    nodes = [
        h.make_node("Conv", [f"x{i}", "mean"], [f"x{i + 1}"], strides=[2, 2], kernel_shape=[3, 3], **padding)
        for i in range(count)
    ]
    inputs = [h.make_tensor_value_info("x0", TensorProto.FLOAT, [1, 1, SIDE, SIDE])]
    outputs = [h.make_tensor_value_info(f"x{count}", TensorProto.FLOAT, [1, 1, SIDE >> count, SIDE >> count])]
    graph = h.make_graph(nodes, "shift", inputs, outputs, [mean])
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    checker.check_model(made, full_check=True)
    return made


def middle(output: np.ndarray) -> float:
    assert output.shape[2] == output.shape[3] == SIDE >> count
    return output[0, 0, output.shape[2] // 2, output.shape[3] // 2].item()


engines = [getattr(cv2.dnn, name) for name in ("ENGINE_NEW", "ENGINE_CLASSIC") if hasattr(cv2.dnn, name)]
right = []
for name, count, padding in (
    ("SAME_UPPER, 1 layer", 1, {"auto_pad": "SAME_UPPER"}),
    ("SAME_UPPER, 5 layers", 5, {"auto_pad": "SAME_UPPER"}),
    ("pads=[0, 0, 1, 1], 5 layers", 5, {"pads": [0, 0, 1, 1]}),
):
    made = layers(count, **padding)
    expected = middle(ReferenceEvaluator(made).run(None, {"x0": columns})[0])
    seen = []
    for engine in [[one] for one in engines] or [[]]:
        network = cv2.dnn.readNetFromONNX(np.frombuffer(made.SerializeToString(), np.uint8), *engine)
        network.setInput(columns)
        seen.append(middle(network.forward()))
    print(f"OpenCV {cv2.__version__}: {name}: reference {expected:.0f}, OpenCV {seen[0]:.0f}")
    assert max(seen) - min(seen) < 0.01
    right.append(abs(seen[0] - expected) < 0.01)
sys.exit(right != [word == "right" for word in sys.argv[1:]])
PY
"$folder/venv/bin/python" "$folder/shift.py" right right right
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check opencv-python-headless==5.0.0.93
"$folder/venv/bin/python" "$folder/shift.py" wrong wrong right
