#!/usr/bin/env bash
# torch.onnx.export drops `+ 1e-8` from a network. Its optimizer (onnxscript, on by default) removes additions and
# subtractions of 0 and multiplications and divisions by 1, and takes for 0 whatever is at most 1e-8, for 1 whatever is
# within 1e-5 of it: the patterns compare numbers with math.isclose and these tolerances. The small numbers in a network are
# just the ones that guard a division or a logarithm, so the exported model gives NaN or -inf where the network gives 0
# or -18.4. Nothing warns, and a comparison on ordinary inputs finds no difference, since the guard is felt only at 0.
#
# Seen 2026-11-29 with torch 2.15.0 (CPU), onnxscript 0.7.2, onnx 1.23.2, onnxruntime 1.32.0, Python 3.11.7; the input is 0:
#   x / (x.sum() + 1e-07): torch 0, ONNX 0; without the optimizer 0
#   x / (x.sum() + 1e-08): torch 0, ONNX nan; without the optimizer 0
#   log(x + 1e-07): torch -16.12, ONNX -16.12; without the optimizer -16.12
#   log(x + 1e-08): torch -18.42, ONNX -inf; without the optimizer -18.42
# A guess that fails: "an optimizer of graphs removes what has no effect".
# What works: optimize=False, an epsilon above 1e-8, or clamp(min=1e-8), which is left alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.15.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/export.py" <<'PY'
import math
import sys

import onnxruntime
import torch
from torch import nn


class Share(nn.Module):
    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / (x.sum() + self.epsilon)


class Log(Share):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(x + self.epsilon)


zero, seen = torch.zeros(3), []
for network, name in (Share, "x / (x.sum() + {})"), (Log, "log(x + {})"):
    for epsilon in (1e-7, 1e-8):
        model = network(epsilon).eval()
        values = [model(zero)[0].item()]
        for optimize in (True, False):
            program = torch.onnx.export(model, (zero,), dynamo=True, verbose=False, optimize=optimize)
            session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
            values.append(session.run(None, {session.get_inputs()[0].name: zero.numpy()})[0][0].item())
        print("{}: torch {:.4g}, ONNX {:.4g}; without the optimizer {:.4g}".format(name.format(epsilon), *values))
        assert math.isclose(values[0], values[2], rel_tol=1e-5)
        seen.append(math.isclose(values[0], values[1], rel_tol=1e-5))
sys.exit(seen != [True, False, True, False])
PY
"$folder/venv/bin/python" "$folder/export.py"
