#!/usr/bin/env bash
# In NNCF, smooth_quant_alphas do nothing unless model_type=TRANSFORMER is passed too: for a network of linear layers
# whose inputs have an outlier channel, what SmoothQuant is for, alphas of 0.1, 0.5 and 0.95 all give the same int8 model
# as no alpha at all, without a warning. With the model type they give three different ones. The model type changes other
# things as well (asymmetric activations), so a search over alphas without it compares a model with itself.
#
# Seen 2026-11-28 with nncf 3.4.0, openvino 2026.4.1, NumPy 2.4.6, Python 3.11.7, CPU; distinct outputs of int8 models made
# with alphas -1 (off), 0.1, 0.5 and 0.95:
#   model_type not given: 1 of 4
#   model_type=TRANSFORMER: 4 of 4
# A guess that fails: "an alpha that is passed is used, or refused".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nncf==3.4.0 openvino==2026.4.1 numpy==2.4.6
cat > "$folder/alphas.py" <<'PY'
import logging
import sys

import nncf
import numpy as np
import openvino as ov
from openvino import opset13 as op

nncf.set_log_level(logging.ERROR)
draw = np.random.default_rng(0)
data = draw.standard_normal((32, 1, 64)).astype(np.float32)
data[..., 5] *= 50  # the outlier channel
weights = [draw.standard_normal((64, 64)).astype(np.float32) / 8 for _ in range(2)]


def network():
    x = images = op.parameter([1, 64], np.float32)
    for w in weights:
        x = op.relu(op.matmul(x, op.constant(w), False, True))
    return ov.Model([op.matmul(x, op.constant(weights[0]), False, True)], [images])


def output(alpha, model_type):
    alphas = nncf.AdvancedSmoothQuantParameters(matmul=alpha, convolution=-1)
    parameters = nncf.AdvancedQuantizationParameters(smooth_quant_alphas=alphas)
    model = nncf.quantize(network(), nncf.Dataset(list(data)), model_type=model_type, advanced_parameters=parameters)
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(data[0])[0].tobytes()


seen = []
for name, model_type in (("not given", None), ("TRANSFORMER", nncf.ModelType.TRANSFORMER)):
    seen.append(len({output(alpha, model_type) for alpha in (-1, 0.1, 0.5, 0.95)}))
    print(f"model_type {name}: {seen[-1]} of 4")
sys.exit(seen != [1, 4])
PY
"$folder/venv/bin/python" "$folder/alphas.py"
