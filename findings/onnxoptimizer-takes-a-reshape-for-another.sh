#!/usr/bin/env bash
# onnxoptimizer drops a Reshape whose result the next Reshape needs. Of two in a row its default passes keep the second, as if
# only the last shape counted. But a 0 in a shape says "as the input has it", and the input of the second is now another
# tensor: windows cut out of an image by the first Reshape and split by heads in the second, [0, 2, -1], become pieces of
# another size. If the last size is -1 and the output's shape is open, as for any batch, nothing fails and the numbers land
# in other rows. Without a 0 the fusion is right. Nothing warns.
#
# Seen 2026-11-30 with onnxoptimizer 0.4.2, onnx 1.23.2, NumPy 2.4.6, Python 3.11.7; 24 numbers of shape [2, 3, 4] reshaped to [6, 4]
# and then again, run by onnx's ReferenceEvaluator and by NumPy:
#   [6, 4], then [0, 2, -1]: [6, 2, 2], optimized [2, 2, 6], first row [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] for [0, 1, 2, 3]; without that pass [6, 2, 2]
#   [6, 4], then [0, -1]: [6, 4], optimized [2, 12], first row [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] for [0, 1, 2, 3]; without that pass [6, 4]
#   [6, 4], then [6, 2, -1]: [6, 2, 2], optimized [6, 2, 2], first row [0, 1, 2, 3] for [0, 1, 2, 3]; without that pass [6, 2, 2]
# A guess that fails: "a cleaned-up graph gives tensors of the same shape".
# What works: onnxoptimizer.optimize without the pass eliminate_consecutive_idempotent_ops.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxoptimizer==0.4.2 onnx==1.23.2 numpy==2.4.6
cat > "$folder/reshape.py" <<'PY'
import sys

import numpy as np
import onnxoptimizer
from onnx import parser
from onnx.reference import ReferenceEvaluator

x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
between = x.reshape(6, 4)
kept = [name for name in onnxoptimizer.get_fuse_and_elimination_passes() if name != "eliminate_consecutive_idempotent_ops"]
found = []
for second, by_hand in (([0, 2, -1], between.reshape(6, 2, -1)), ([0, -1], between), ([6, 2, -1], between.reshape(6, 2, -1))):
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[2,3,4] x) => (float[{", ".join("abc"[: len(second)])}] y)
        <int64[2] first = {{6, 4}}, int64[{len(second)}] second = {{{", ".join(map(str, second))}}}> {{
            between = Reshape(x, first)
            y = Reshape(between, second)
        }}""")
    outs = []
    for variant in (model, onnxoptimizer.optimize(model), onnxoptimizer.optimize(model, kept)):
        outs.append(ReferenceEvaluator(variant).run(None, {"x": x})[0])
    equal = [out.shape == by_hand.shape and bool((out == by_hand).all()) for out in outs]
    before, after, without = (list(out.shape) for out in outs)
    rows = f"first row {outs[1][0].ravel().astype(int).tolist()} for {by_hand[0].ravel().astype(int).tolist()}"
    print(f"[6, 4], then {second}: {before}, optimized {after}, {rows}; without that pass {without}")
    found.append(equal)
sys.exit(found != [[True, False, True], [True, False, True], [True, True, True]])
PY
"$folder/venv/bin/python" "$folder/reshape.py"
