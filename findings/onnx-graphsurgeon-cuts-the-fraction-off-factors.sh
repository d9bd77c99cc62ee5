#!/usr/bin/env bash
# onnx-graphsurgeon multiplies by 1 where a model multiplies by 1.5. Its fold_constants looks for integers cast to float, one
# operation with a constant and a cast back, and computes in integers instead, as TensorRT wants shapes to be. The constant
# is made an integer too: 1.5 becomes 1, 0.5 becomes 0. Sizes scaled by a factor, as a model for any image size computes them,
# come out wrong. It is done by default, where nothing is constant but the factor, and to all integers, not to shapes alone.
# Nothing warns.
#
# Seen 2026-11-30 with onnx-graphsurgeon 0.6.1, onnx 1.23.2, onnxruntime 1.32.0, NumPy 2.4.6, Python 3.11.7; integers 7 and
# 10, run by onnx's ReferenceEvaluator before and after fold_constants:
#   Mul 1.5: [10, 15] by hand, [10, 15] before, [7, 10] folded, [10, 15] with fold_shapes=False
#   Mul 0.5: [3, 5] by hand, [3, 5] before, [0, 0] folded, [3, 5] with fold_shapes=False
#   Div 2.5: [2, 4] by hand, [2, 4] before, [3, 5] folded, [2, 4] with fold_shapes=False
#   Sub 0.5: [6, 9] by hand, [6, 9] before, [7, 10] folded, [6, 9] with fold_shapes=False
#   Mul 2.0: [14, 20] by hand, [14, 20] before, [14, 20] folded, [14, 20] with fold_shapes=False
# A guess that fails: "folding constants keeps their values".
# What works: fold_constants(fold_shapes=False).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx-graphsurgeon==0.6.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/fold.py" <<'PY'
import sys

import numpy as np
import onnx_graphsurgeon as gs
from onnx import ModelProto, parser
from onnx.reference import ReferenceEvaluator

integers = np.array([7, 10])


def network(operator: str, constant: float) -> ModelProto:
    """Integers to float, one operation with a constant, and back to integers."""
    return parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 18]>
        g (int64[2] x) => (int64[2] y) <float c = {{{constant}}}> {{
            a = Cast<to = 1>(x)
            b = {operator}(a, c)
            y = Cast<to = 7>(b)
        }}""")


def run(model: ModelProto) -> list[int]:
    return ReferenceEvaluator(model).run(None, {"x": integers})[0].tolist()


found = []
hand = {"Mul": np.multiply, "Div": np.divide, "Sub": np.subtract}
for operator, constant in (("Mul", 1.5), ("Mul", 0.5), ("Div", 2.5), ("Sub", 0.5), ("Mul", 2.0)):
    model = network(operator, constant)
    true = np.trunc(hand[operator](integers, constant)).astype(int).tolist()
    before = run(model)
    after = run(gs.export_onnx(gs.import_onnx(model).fold_constants().cleanup()))
    kept = run(gs.export_onnx(gs.import_onnx(model).fold_constants(fold_shapes=False).cleanup()))
    print(f"{operator} {constant}: {true} by hand, {before} before, {after} folded, {kept} with fold_shapes=False")
    found.append((before == true, after == true, kept == true))
sys.exit(found != [*4 * [(True, False, True)], (True, True, True)])
PY
"$folder/venv/bin/python" "$folder/fold.py"
