#!/usr/bin/env bash
# onnxoptimizer makes one random tensor of two. Its default passes merge nodes of equal inputs and attributes, and do so with
# nodes that draw: two RandomNormalLike without a seed, two Bernoulli, two Dropout in training mode. Two Monte Carlo passes of
# dropout in one graph become the same pass twice, their spread (the uncertainty) is 0, and noise subtracted from noise
# is nothing. The specification gives a node without a seed one of its own. Nothing warns, the shapes are right.
#
# Seen 2026-11-30 with onnxoptimizer 0.4.2, onnx 1.23.2, NumPy 2.4.6, Python 3.11.7; the standard deviation of the difference of
# two draws of 200x200 numbers in one graph, run by onnx's ReferenceEvaluator:
#   RandomNormalLike: 1.41 by theory; as written 1.41, optimized 0.00, without that pass 1.41
#   Bernoulli: 0.71 by theory; as written 0.71, optimized 0.00, without that pass 0.71
#   Dropout in training: 0.71 by theory; as written 0.71, optimized 0.00, without that pass 0.71
#   RandomNormalLike of two seeds: 1.41 by theory; as written 1.42, optimized 1.42, without that pass 1.42
# A guess that fails: "common subexpressions are those that give the same numbers".
# What works: onnxoptimizer.optimize without the pass eliminate_common_subexpression, or a seed of its own at each node.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxoptimizer==0.4.2 onnx==1.23.2 numpy==2.4.6
cat > "$folder/draws.py" <<'PY'
import sys
from math import sqrt

import numpy as np
import onnxoptimizer
from onnx import parser
from onnx.reference import ReferenceEvaluator

HEAD = '<ir_version: 8, opset_import: ["" : 18]> g (float[200,200] x) => (float[200,200] y) '
# each: two equal nodes, and the standard deviation of the difference of two draws that have nothing to do with each other
cases = {
    "RandomNormalLike": ("{ a = RandomNormalLike(x) b = RandomNormalLike(x) y = Sub(a, b) }", sqrt(2)),
    "Bernoulli": ("{ a = Bernoulli(x) b = Bernoulli(x) y = Sub(a, b) }", sqrt(0.5)),
    "Dropout in training": (
        "<float rate = {0.5}, bool train = {1}> { a = Dropout(x, rate, train) b = Dropout(x, rate, train) y = Sub(a, b) }",
        sqrt(0.5),
    ),
    "RandomNormalLike of two seeds": ("{ a = RandomNormalLike<seed = 1.0>(x) b = RandomNormalLike<seed = 2.0>(x) y = Sub(a, b) }", sqrt(2)),
}
x = np.full((200, 200), 0.5, np.float32)
ok = []
kept = [name for name in onnxoptimizer.get_fuse_and_elimination_passes() if name != "eliminate_common_subexpression"]
for name, (body, true) in cases.items():
    model = parser.parse_model(HEAD + body)
    models = {"as written": model, "optimized": onnxoptimizer.optimize(model), "without that pass": onnxoptimizer.optimize(model, kept)}
    spread = {label: float(ReferenceEvaluator(m).run(None, {"x": x})[0].std()) for label, m in models.items()}
    print(f"{name}: {true:.2f} by theory; " + ", ".join(f"{label} {value:.2f}" for label, value in spread.items()))
    ok.append((abs(spread["as written"] - true) < 0.05, spread["optimized"] == 0, abs(spread["without that pass"] - true) < 0.05))
sys.exit(ok != [*3 * [(True, True, True)], (True, False, True)])
PY
"$folder/venv/bin/python" "$folder/draws.py"
