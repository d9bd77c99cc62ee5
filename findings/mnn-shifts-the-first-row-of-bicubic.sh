#!/usr/bin/env bash
# MNN enlarges the first row and the first column of a picture by bicubic interpolation from the wrong place. With half-pixel
# centres (ONNX' default; torch's align_corners=False) the first output pixels lie before the first input pixel, at -0.25 for a
# factor of 2. MNN cuts the whole part off at 0 and keeps the fraction that belongs to the whole part -1, 0.75: the first row
# shows what lies at +0.75, the same as the third. All other rows and columns are right, so the picture looks plausible and
# most of it agrees with the original; resized position embeddings of a ViT are wrong along two sides. Linear interpolation,
# reduction and align_corners are right.
#
# Seen 2026-11-30 with MNN 3.6.1, onnx 1.23.2, onnxruntime 1.32.0, NumPy 2.4.6, Python 3.11.7, CPU; MNN against onnxruntime,
# cubic coefficient -0.75:
#   cubic, half_pixel, 14x14 to 28x14: wrong rows [0], wrong columns [], off by 1.47 at most
#     the first row is off the third of the right result by 0.000
#   cubic, half_pixel, 14x14 to 14x28: wrong rows [], wrong columns [0], off by 1.68 at most
#   cubic, half_pixel, 14x14 to 28x28: wrong rows [0], wrong columns [0], off by 1.65 at most
#   cubic, half_pixel, 14x14 to 24x24: wrong rows [0], wrong columns [0], off by 1.67 at most
#   cubic, align_corners, 14x14 to 28x28: wrong rows [], wrong columns [], off by 0.00 at most
#   cubic, half_pixel, 14x14 to 7x7: wrong rows [], wrong columns [], off by 0.00 at most
#   linear, half_pixel, 14x14 to 28x28: wrong rows [], wrong columns [], off by 0.00 at most
# A guess that fails: "a resize that is right inside is right along the sides, or wrong along all four".
# What works: align_corners where the network allows it, or to store the embeddings at the size that is used.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check MNN==3.6.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/resize.py" <<'PY'
import os
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

os.chdir(sys.argv[1])
out = os.fdopen(os.dup(1), "w")  # MNN writes to the standard output by itself
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
import _tools
import MNN.expr
import MNN.nn


def by_mnn(path: str, x: np.ndarray) -> np.ndarray:
    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", path, "--MNNModel", f"{path}.mnn", "--bizCode", "none"])
    network = MNN.nn.load_module_from_file(f"{path}.mnn", ["x"], ["y"])
    given = MNN.expr.placeholder(list(x.shape), MNN.expr.NCHW)
    given.write(x)
    result = MNN.expr.convert(network.forward([given])[0], MNN.expr.NCHW)
    return np.array(result.read()).reshape(result.shape)


def by_onnxruntime(path: str, x: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(path).run(None, {"x": x})[0]


def written(mode: str, centres: str, height: int, width: int) -> str:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 14, 14] if name == "x" else None) for name in "xy"]
    sizes = numpy_helper.from_array(np.array([1, 1, height, width]), "sizes")
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode=mode, coordinate_transformation_mode=centres, cubic_coeff_a=-0.75)
    graph = helper.make_graph([node], "resize", ends[:1], ends[1:], [sizes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), "resize.onnx")
    return "resize.onnx"


ok = []
x = np.random.default_rng(0).normal(size=(1, 1, 14, 14)).astype(np.float32)
for mode, centres, height, width in (
    ("cubic", "half_pixel", 28, 14),
    ("cubic", "half_pixel", 14, 28),
    ("cubic", "half_pixel", 28, 28),
    ("cubic", "half_pixel", 24, 24),
    ("cubic", "align_corners", 28, 28),
    ("cubic", "half_pixel", 7, 7),
    ("linear", "half_pixel", 28, 28),
):
    path = written(mode, centres, height, width)
    right, got = by_onnxruntime(path, x)[0, 0], by_mnn(path, x)[0, 0]
    wrong = np.abs(got - right) > 1e-3
    rows, columns = wrong[:, -1].nonzero()[0].tolist(), wrong[-1].nonzero()[0].tolist()
    expected = np.zeros_like(wrong)
    if (mode, centres) == ("cubic", "half_pixel"):
        expected[0] |= height > 14
        expected[:, 0] |= width > 14
    ok.append(wrong.tolist() == expected.tolist() and np.abs(got - right).max() < 8)
    print(f"  {mode}, {centres}, 14x14 to {height}x{width}: wrong rows {rows}, wrong columns {columns}, off by {np.abs(got - right).max():.2f} at most", file=out)
    if (height, width) == (28, 14):
        third = np.abs(got[0] - right[2]).max()
        ok.append(third < 1e-3)
        print(f"    the first row is off the third of the right result by {third:.3f}", file=out)
out.flush()
sys.exit(not all(ok))
PY
"$folder/venv/bin/python" "$folder/resize.py" "$folder" 2> "$folder/errors" || { cat "$folder/errors" >&2; exit 1; }
