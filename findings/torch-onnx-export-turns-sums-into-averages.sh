#!/usr/bin/env bash
# torch.onnx.export drops divisor_override of avg_pool2d and avg_pool3d. ONNX's AveragePool has no such number, so it would
# take a product behind it; torch 2.0 refused such an export with an error (issue 105349, closed). Now both
# exporters leave it out. divisor_override=1 is how torch adds up a window, since it has no sum pooling: of local sums, box
# filters, or counts (crowds, cells) per patch of 8x8 the ONNX file gives 1/64. Shapes are right, the checker passes the
# file, and a classifier behind a normalization may hardly notice. Nothing warns. OpenVINO's own conversion of the network is right.
#
# Seen 2026-11-30 with torch 2.15.0 (CPU), onnxscript 0.7.2, onnx 1.23.2, onnxruntime 1.32.0, NumPy 2.4.6, Python 3.11.7; a mask of
# ones, 8x8, the first value:
#   sum over 8x8 (divisor_override=1): torch 64, ONNX 1, with dynamo=False 1
#   sum over 1x8x8 (divisor_override=1): torch 64, ONNX 1, with dynamo=False 1
#   AvgPool2d(8, divisor_override=32): torch 2, ONNX 1, with dynamo=False 1
#   AvgPool2d(8) * 64: torch 64, ONNX 64, with dynamo=False 64
# A guess that fails: "what ONNX can't say is refused, or written with more nodes".
# What works: the mean times the number of pixels.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch==2.15.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
cat > "$folder/sums.py" <<'PY'
import io
import sys
import warnings
from collections.abc import Callable

import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import nn

warnings.filterwarnings("ignore", message=".*legacy TorchScript-based ONNX export.*")
warnings.filterwarnings("error", message=".*divisor.*")
mask = torch.ones(1, 1, 8, 8)


class Network(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def exported(network: nn.Module, dynamo: bool) -> float:
    if dynamo:
        model = torch.onnx.export(network, (mask,), dynamo=True, verbose=False).model_proto
    else:
        file = io.BytesIO()
        torch.onnx.export(network, (mask,), file, dynamo=False)
        model = onnx.load_from_string(file.getvalue())
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: mask.numpy()})[0].flat[0].item()


right = []
for name, function in {
    "sum over 8x8 (divisor_override=1)": lambda x: F.avg_pool2d(x, 8, divisor_override=1),
    "sum over 1x8x8 (divisor_override=1)": lambda x: F.avg_pool3d(x[None], (1, 8, 8), divisor_override=1),
    "AvgPool2d(8, divisor_override=32)": nn.AvgPool2d(8, divisor_override=32),
    "AvgPool2d(8) * 64": lambda x: F.avg_pool2d(x, 8) * 64,
}.items():
    network = Network(function).eval()
    values = [network(mask).flatten()[0].item(), exported(network, True), exported(network, False)]
    print("{}: torch {:.4g}, ONNX {:.4g}, with dynamo=False {:.4g}".format(name, *values))
    right.append([values[0] == value for value in values[1:]])
sys.exit(right != [[False, False]] * 3 + [[True, True]])
PY
"$folder/venv/bin/python" "$folder/sums.py"
