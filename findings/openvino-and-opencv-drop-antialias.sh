#!/usr/bin/env bash
# OpenVINO and OpenCV 5 read an ONNX Resize with antialias=1 (opset 18, what torch.onnx.export writes for
# F.interpolate(antialias=True)) and resize without, linear and cubic: the attribute is neither obeyed nor refused, and not a
# line is logged. An image that is made four times smaller in the exported file then takes each pixel from two or four of each
# row and column, noise and all, where the network was trained on averages. The checker passes the file, onnxruntime is right
# and close to Pillow, and shapes and means are as they should be. (OpenVINO's cubic is its issue 35893, of May 2026.)
#
# Seen 2026-11-29 with onnx 1.23.2, onnxruntime 1.32.0, openvino 2026.4.1, opencv-python-headless 5.0.0.93, Pillow 13.0.0,
# NumPy 2.4.6, Python 3.11.7, CPU; 64x64 pixels of noise made 16x16: how much the results spread, and the largest difference
# to the same runtime's result for antialias=0:
#   linear: Pillow's spread 0.048
#     onnxruntime: spread 0.049, difference 0.345
#     OpenVINO: spread 0.141, difference 0.000
#     OpenCV: spread 0.141, difference 0.000
#   cubic: Pillow's spread 0.059
#     onnxruntime: spread 0.060, difference 0.497
#     OpenVINO: spread 0.184, difference 0.000
#     OpenCV: spread 0.184, difference 0.000
# A guess that fails: "a runtime that doesn't know an attribute refuses the node".
# What works: the resize written as two products with matrices of the filter's weights.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 \
  opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6
cat > "$folder/resize.py" <<'PY'
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

path = str(Path(sys.argv[1]) / "resize.onnx")
x = np.random.default_rng(0).random((1, 1, 64, 64), np.float32)
core = openvino.Core()


def write(mode: str, antialias: int) -> None:
    options = {"antialias": antialias, "cubic_coeff_a": -0.5, "coordinate_transformation_mode": "half_pixel"}
    node = helper.make_node("Resize", ["x", "", "", "size"], ["y"], mode=mode, **options)
    places = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 1, s, s)) for n, s in (("x", 64), ("y", 16))]
    size = numpy_helper.from_array(np.array([1, 1, 16, 16]), "size")
    graph = helper.make_graph([node], "network", places[:1], places[1:], [size])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def opencv() -> np.ndarray:
    network = cv2.dnn.readNetFromONNX(path)
    network.setInput(x, "x")
    return network.forward().copy()


runtimes = {
    "onnxruntime": lambda: onnxruntime.InferenceSession(path).run(None, {"x": x})[0],
    "OpenVINO": lambda: core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0].copy(),
    "OpenCV": opencv,
}
passed = True
for mode, kind in {"linear": Image.Resampling.BILINEAR, "cubic": Image.Resampling.BICUBIC}.items():
    print(f"{mode}: Pillow's spread {np.asarray(Image.fromarray(x[0, 0]).resize((16, 16), kind)).std():.3f}")
    results = {}
    for antialias in (0, 1):
        write(mode, antialias)
        results[antialias] = {name: run() for name, run in runtimes.items()}
    for name in runtimes:
        difference = float(np.abs(results[1][name] - results[0][name]).max())
        print(f"  {name}: spread {results[1][name].std():.3f}, difference {difference:.3f}")
        passed &= (difference < 1e-5) == (name != "onnxruntime")
sys.exit(not passed)
PY
"$folder/venv/bin/python" "$folder/resize.py" "$folder"
