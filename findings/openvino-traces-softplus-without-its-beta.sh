#!/usr/bin/env bash
# OpenVINO drops beta and threshold of softplus where a network is traced (example_input): each softplus becomes log(1 + exp(x)).
# Beta says how sharply the curve bends: networks of signed distances take softplus(beta=100), nearly a ReLU that can be
# differentiated twice, and at 0 they get 0.693 for 0.007. The same network converted from torch.export's program is right,
# and so is the way over ONNX. OpenVINO's front end for Paddle refuses every other beta (issue 37951); the one for torch reads
# the first input of the operator and never looks at the others. Nothing warns.
#
# Seen 2026-11-30 with openvino 2026.4.1, torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; softplus of -1, 0, 0.5 and 2:
#   Softplus(): torch [0.313 0.693 0.974 2.127], traced [0.313 0.693 0.974 2.127], exported [0.313 0.693 0.974 2.127]
#   Softplus(beta=2): torch [0.063 0.347 0.657 2.009], traced [0.313 0.693 0.974 2.127], exported [0.063 0.347 0.657 2.009]
#   Softplus(beta=100): torch [0.    0.007 0.5   2.   ], traced [0.313 0.693 0.974 2.127], exported [0.    0.007 0.5   2.   ]
# A guess that fails: "an argument that a converter can't honour is an error".
# What works: openvino.convert_model(torch.export.export(network, ...)), or softplus(beta * x) / beta.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 openvino==2026.4.1 packaging==26.3 numpy==2.4.6
cat > "$folder/softplus.py" <<'PY'
import sys
import warnings

import numpy as np
import openvino
import torch
from torch import nn

warnings.filterwarnings("ignore")
np.set_printoptions(precision=3, suppress=True)


def run(model: openvino.Model) -> np.ndarray:
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    return np.array(openvino.compile_model(model, "CPU", options)([x.numpy()])[0])


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.softplus(100 * x) / 100


x, right = torch.tensor([-1.0, 0.0, 0.5, 2.0]), []
for name, network in (
    ("Softplus()", nn.Softplus()),
    ("Softplus(beta=2)", nn.Softplus(beta=2)),
    ("Softplus(beta=100)", nn.Softplus(beta=100)),
):
    expected = network.eval()(x).numpy()
    traced = run(openvino.convert_model(network, example_input=(x,)))
    exported = run(openvino.convert_model(torch.export.export(network, (x,))))
    print(f"{name}: torch {expected}, traced {traced}, exported {exported}")
    right.append([np.allclose(values, expected, atol=1e-4) for values in (traced, exported)])
scaled = run(openvino.convert_model(Scaled().eval(), example_input=(x,)))
assert np.allclose(scaled, nn.Softplus(beta=100)(x).numpy(), atol=1e-4)
sys.exit(right != [[True, True], [False, True], [False, True]])
PY
"$folder/venv/bin/python" "$folder/softplus.py"
