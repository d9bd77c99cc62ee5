#!/usr/bin/env bash
# onnx2torch turns running sums around. ONNX' CumSum runs from the start unless its attribute reverse is 1; onnx2torch takes 1
# where the attribute is missing, and torch's exporter to TorchScript (dynamo=False, the default before 2.9) leaves it out. So
# a model that went from torch to ONNX comes back counting from the other end. Position embeddings by cumsum of a mask (DETR
# and its kin: rows and columns of the picture counted as 1, 2, 3) come back mirrored in both directions. Shapes and ranges
# are right, nothing warns.
#
# Seen 2026-11-30 with onnx2torch 1.5.15, onnx 1.23.2, torch 2.15.0, torchvision 0.29.2, NumPy 2.4.6, Python 3.11.7;
# CumSum along a row of four ones, run by onnx's ReferenceEvaluator and by onnx2torch, written by hand and by torch:
#   no attribute: ONNX [1, 2, 3, 4], onnx2torch [4, 3, 2, 1]
#   reverse=0: ONNX [1, 2, 3, 4], onnx2torch [1, 2, 3, 4]
#   reverse=1: ONNX [4, 3, 2, 1], onnx2torch [4, 3, 2, 1]
#   torch.onnx.export, dynamo=False: ONNX [1, 2, 3, 4], onnx2torch [4, 3, 2, 1]
# A guess that fails: "an attribute left out has the default that the format names".
# What works: reverse=0 written into each CumSum before the conversion.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx2torch==1.5.15 onnx==1.23.2 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/sums.py" <<'PY'
import io
import sys
import warnings

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx2torch import convert


def written(**attributes: int) -> onnx.ModelProto:
    axis = numpy_helper.from_array(np.array(1), "axis")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    node = helper.make_node("CumSum", ["x", "axis"], ["y"], **attributes)
    graph = helper.make_graph([node], "sum", ends[:1], ends[1:], [axis])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


class Positions(torch.nn.Module):
    """Count the pixels of a mask from the left, as DETR does before it takes sines."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(1)


ones = np.ones((1, 4), np.float32)
file = io.BytesIO()
warnings.simplefilter("ignore")  # the exporter is deprecated
torch.onnx.export(Positions().eval(), (torch.from_numpy(ones),), file, dynamo=False, opset_version=17)
models = {
    "no attribute": written(),
    "reverse=0": written(reverse=0),
    "reverse=1": written(reverse=1),
    "torch.onnx.export, dynamo=False": onnx.load_from_string(file.getvalue()),
}
found = []
for name, model in models.items():
    start = model.graph.input[0].name
    right = ReferenceEvaluator(model).run(None, {start: ones})[0][0].astype(int).tolist()
    back = convert(model).eval()(torch.from_numpy(ones))[0].int().tolist()
    print(f"{name}: ONNX {right}, onnx2torch {back}")
    found.append((right, back))
up, down = [1, 2, 3, 4], [4, 3, 2, 1]
sys.exit(found != [(up, down), (up, up), (down, down), (up, down)])
PY
"$folder/venv/bin/python" "$folder/sums.py"
