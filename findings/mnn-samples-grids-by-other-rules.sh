#!/usr/bin/env bash
# MNN samples a grid (ONNX GridSample, torch's grid_sample) by other rules than the model asks for, without a word: cubic
# becomes linear, and reflection at the border becomes the border's own pixels. Both have the right shape and range. Warps for
# augmentation, spatial transformers and the deformable attention of detectors go through this operator.
#
# Seen 2026-11-30 with MNN 3.6.1, onnx 1.23.2, onnxruntime 1.32.0, NumPy 2.4.6, Python 3.11.7, CPU; the largest difference
# of MNN from onnxruntime, values drawn from a standard normal distribution, a grid over 1.2 times the picture:
#   linear, zeros: 0.00
#   linear, border: 0.00
#   linear, reflection: 1.72
#   cubic, zeros: 0.57
#   cubic, border: 0.57
#   cubic, reflection: 2.34
#   MNN's cubic, zeros against MNN's linear, zeros: 0.00
#   MNN's linear, reflection against MNN's linear, border: 0.00
#   MNN's cubic, reflection against MNN's linear, border: 0.00
# A guess that fails: "a runtime that does not have a mode of an operator refuses the model".
# What works: linear (bilinear) with zeros or border, which are right; or the warp as gathers and products.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check MNN==3.6.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/warp.py" <<'PY'
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


def written(mode: str, padding: str) -> str:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 12, 12] if name == "x" else None) for name in "xy"]
    node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode=mode, padding_mode=padding, align_corners=0)
    graph = helper.make_graph([node], "warp", ends[:1], ends[1:], [numpy_helper.from_array(grid, "grid")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), "warp.onnx")
    return "warp.onnx"


ok = []
generator = np.random.default_rng(0)
x = generator.normal(size=(1, 1, 12, 12)).astype(np.float32)
across, down = np.meshgrid(np.linspace(-1.2, 1.2, 17), np.linspace(-1.2, 1.2, 15))
grid = np.stack([across, down], -1)[None].astype(np.float32)
results = {}
for mode in ("linear", "cubic"):
    for padding in ("zeros", "border", "reflection"):
        path = written(mode, padding)
        right, got = by_onnxruntime(path, x), by_mnn(path, x)
        results[mode, padding] = got
        off = float(np.abs(got - right).max())
        ok.append((off > 0.1) == (mode == "cubic" or padding == "reflection"))
        print(f"  {mode}, {padding}: {off:.2f}", file=out)
for one, other in ((("cubic", "zeros"), ("linear", "zeros")), (("linear", "reflection"), ("linear", "border")), (("cubic", "reflection"), ("linear", "border"))):
    off = float(np.abs(results[one] - results[other]).max())
    ok.append(off < 1e-5)
    print(f"  MNN's {', '.join(one)} against MNN's {', '.join(other)}: {off:.2f}", file=out)
out.flush()
sys.exit(not all(ok))
PY
"$folder/venv/bin/python" "$folder/warp.py" "$folder" 2> "$folder/errors" || { cat "$folder/errors" >&2; exit 1; }
