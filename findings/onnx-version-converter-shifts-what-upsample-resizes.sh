#!/usr/bin/env bash
# onnx's version converter shifts what an old model resizes. Upsample (opset 7 to 9) and Resize of opset 10 read pixel i of an
# image enlarged by s at i / s ("asymmetric"); Resize from opset 11 on does so only if it is told, and otherwise aligns
# pixels' centres, (i + 0.5) / s - 0.5. The converter adds the new inputs but not the attribute. So every bilinear upsampling
# of a model taken from opset 9 or 10 to a newer one (for quantization, say, which wants 13) moves its map by half a pixel of
# the large image at scale 2, by 3.5 at scale 8. Nearest is hidden at whole scales and shifted at others. Nothing warns.
#
# Seen 2026-11-30 with onnx 1.23.2, onnxruntime 1.32.0, NumPy 2.4.6, Python 3.11.7; a ramp of 16 columns 0, 1, 2, ... enlarged, by
# how many pixels of the large image its inner part lies off i / s, and the largest difference to the model before:
#   Upsample of opset 9, linear, scale 2.0: off by +0.00, converted -0.50; differ by 0.25
#   Upsample of opset 9, linear, scale 8.0: off by +0.00, converted -3.50; differ by 0.44
#   Upsample of opset 9, nearest, scale 2.0: off by +0.00, converted +0.00; differ by 0.00
#   Upsample of opset 9, nearest, scale 1.75: off by +0.00, converted +0.25; differ by 1.00
#   Resize of opset 10, linear, scale 2.0: off by +0.00, converted -0.50; differ by 0.25
#   Resize of opset 10, linear, scale 8.0: off by +0.00, converted -3.50; differ by 0.44
#   Resize of opset 10, nearest, scale 2.0: off by +0.00, converted +0.00; differ by 0.00
#   Resize of opset 10, nearest, scale 1.75: off by +0.00, converted +0.25; differ by 1.00
# A guess that fails: "a converter between versions of the format knows how the defaults changed".
# What works: coordinate_transformation_mode="asymmetric" (and nearest_mode="floor" for nearest) set on each Resize afterwards.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/upsample.py" <<'PY'
import sys

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.version_converter import convert_version

WIDTH = 16
ramp = np.tile(np.arange(WIDTH, dtype=np.float32), (1, 1, WIDTH, 1))


def network(operator: str, opset: int, mode: str, scale: float) -> ModelProto:
    size = int(WIDTH * scale)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, side, side]) for name, side in (("x", WIDTH), ("y", size))]
    scales = numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "scales")
    graph = helper.make_graph([helper.make_node(operator, ["x", "scales"], ["y"], mode=mode)], "g", ends[:1], ends[1:], [scales])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def row(model: ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": ramp})[0][0, 0, 0].astype(float)


found = []
for operator, opset in (("Upsample", 9), ("Resize", 10)):
    for mode, scale in (("linear", 2.0), ("linear", 8.0), ("nearest", 2.0), ("nearest", 1.75)):
        old = network(operator, opset, mode, scale)
        new = convert_version(old, 13)
        first, second = row(old), row(new)
        place = np.arange(len(first)) / scale
        if mode == "nearest":
            place = np.floor(place)
        inner = (place > 1) & (place < WIDTH - 2)
        before, after = (((values - place) * scale)[inner].mean() for values in (first, second))
        most = np.abs(second - first).max()
        print(f"{operator} of opset {opset}, {mode}, scale {scale}: off by {before:+.2f}, converted {after:+.2f}; differ by {most:.2f}")
        found.append((abs(before) < 1e-3, most > 0.1))
sys.exit(found != 2 * [(True, True), (True, True), (True, False), (True, True)])
PY
"$folder/venv/bin/python" "$folder/upsample.py"
