#!/usr/bin/env bash
# onnxruntime turns every norm of the form (x - mean) / sqrt(mean((x - mean)^p) + epsilon), with a scale and a shift, into
# a layer norm, which is p = 2. For p = 4, a norm by the fourth moment, which big values weigh on more, the session with
# default options computes the usual deviation instead: the fusion looks at the kinds of nodes and at epsilon, and never
# reads the exponent. Its sister for norms without a mean (RMS norm) does read it and leaves p = 4 alone. No warning comes,
# and each output has the shape and the size one expects. Without optimization the results are right.
#
# Seen 2026-11-29 with onnxruntime 1.32.0, onnx 1.23.2, NumPy 2.4.6, Python 3.11.7, CPU; the largest difference to NumPy's
# numbers, without and with onnxruntime's optimizations, and the nodes after them:
#   p = 2, mean subtracted: 0.0 and 0.0; nodes: LayerNormalization
#   p = 4, mean subtracted: 0.0 and 1.4; nodes: LayerNormalization
#   p = 4, without a mean: 0.0 and 0.0; nodes: Pow, ReduceMean, Add, Sqrt, Div, Mul
# A guess that fails: "a fusion applies where the fused node computes the same".
# What works: the power written as products (Mul), or disabled_optimizers=["LayerNormFusionL1", "LayerNormFusionL2"].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/power.py" <<'PY'
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import parser
from onnxruntime import GraphOptimizationLevel

NORM = """
<ir_version: 9, opset_import: ["": 20]>
norm (float[2, 6] x) => (float[2, 6] y)
<float p = {POWER}, float epsilon = {0.000001}, int64[1] axis = {-1},
 float[6] scale = {1, 1, 1, 1, 1, 1}, float[6] shift = {0, 0, 0, 0, 0, 0}> {
  mean = ReduceMean(x, axis)
  d = Sub(x, mean)
  powers = Pow(d, p)
  moment = ReduceMean(powers, axis)
  above = Add(moment, epsilon)
  root = Sqrt(above)
  ratio = Div(d, root)
  scaled = Mul(ratio, scale)
  y = Add(scaled, shift)
}"""
RMS = NORM.replace("  mean = ReduceMean(x, axis)\n  d = Sub(x, mean)\n", "").replace("(d, ", "(x, ")
RMS = RMS.replace("  scaled = Mul(ratio, scale)\n  y = Add(scaled, shift)", "  y = Mul(ratio, scale)")
optimized = Path(__file__).with_name("optimized.onnx")
x, wrong = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32), []
for text, power, name in (NORM, 2, "mean subtracted"), (NORM, 4, "mean subtracted"), (RMS, 4, "without a mean"):
    model = parser.parse_model(text.replace("POWER", f"{power}.0"))
    onnx.checker.check_model(model, full_check=True)
    d = x - x.mean(1, keepdims=True) if text == NORM else x
    expected = d / np.sqrt((d**power).mean(1, keepdims=True) + 1e-6)
    differences = []
    for level in (GraphOptimizationLevel.ORT_DISABLE_ALL, GraphOptimizationLevel.ORT_ENABLE_ALL):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level, options.log_severity_level = level, 3
        options.optimized_model_filepath = str(optimized)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        differences.append(np.abs(session.run(None, {"x": x})[0] - expected).max())
    nodes = ", ".join(node.op_type for node in onnx.load(optimized).graph.node)
    print(f"p = {power}, {name}: {differences[0]:.1f} and {differences[1]:.1f}; nodes: {nodes}")
    assert differences[0] < 1e-5
    wrong.append(bool(differences[1] > 1e-3))
sys.exit(wrong != [False, True, False])
PY
"$folder/venv/bin/python" "$folder/power.py"
