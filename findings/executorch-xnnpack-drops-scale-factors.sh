#!/usr/bin/env bash
# ExecuTorch's XNNPACK delegate resizes by another factor than the network asks for. interpolate(scale_factor=0.5) of 15 rows
# gives 7 rows, and torch samples them 2 rows apart, as the factor says. The delegate is handed the output size alone and
# samples 15 / 7 = 2.14 rows apart: nothing moves at the top left, 0.9 pixels of the input at the bottom right, 2.9 where 63
# columns are reduced by 0.3. Maps that are added or concatenated behind it lie askew. With factors whose output sizes are
# whole numbers, and with size=, both agree; without the delegate ExecuTorch does as torch. Nothing warns.
#
# Seen 2026-11-30 with executorch 1.5.1, torch 2.15.0, torchao 0.18.0, NumPy 2.4.6, Python 3.11.7, CPU; a ramp whose values are
# the column numbers, bilinear without align_corners, the last values of a row:
#   16 columns, {'scale_factor': 0.5}: torch [12.5, 14.5], ExecuTorch [12.5, 14.5], with XNNPACK [12.5, 14.5]
#   15 columns, {'scale_factor': 0.5}: torch [10.5, 12.5], ExecuTorch [10.5, 12.5], with XNNPACK [11.29, 13.43]
#   15 columns, {'scale_factor': 0.5, 'recompute_scale_factor': True}: torch [11.29, 13.43], ExecuTorch [11.29, 13.43], with XNNPACK [11.29, 13.43]
#   15 columns, {'size': (7, 7)}: torch [11.29, 13.43], ExecuTorch [11.29, 13.43], with XNNPACK [11.29, 13.43]
#   7 columns, {'scale_factor': 1.5}: torch [5.17, 5.83], ExecuTorch [5.17, 5.83], with XNNPACK [5.45, 6.0]
#   63 columns, {'scale_factor': 0.3}: torch [54.5, 57.83], ExecuTorch [54.5, 57.83], with XNNPACK [57.25, 60.75]
# A guess that fails: "a delegate that accepts an operator accepts its arguments".
# What works: size= in place of scale_factor=, or recompute_scale_factor=True, in training too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check executorch==1.5.1 torch==2.15.0 torchao==0.18.0 numpy==2.4.6
cat > "$folder/resize.py" <<'PY'
import os
import sys
import warnings

warnings.filterwarnings("ignore")
out = os.fdopen(os.dup(1), "w")  # the runtime writes to the standard output by itself
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.extension.pybindings.portable_lib import _load_for_executorch_from_buffer


class Resize(torch.nn.Module):
    def __init__(self, **asked: object) -> None:
        super().__init__()
        self.asked = asked

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(x, mode="bilinear", **self.asked)


def run(network: torch.nn.Module, x: torch.Tensor, partitioners: list) -> torch.Tensor:
    program = to_edge_transform_and_lower(torch.export.export(network, (x,)), partitioner=partitioners).to_executorch()
    return _load_for_executorch_from_buffer(program.buffer).forward([x])[0]


ok = []
for width, asked, same in (
    (16, {"scale_factor": 0.5}, True),
    (15, {"scale_factor": 0.5}, False),
    (15, {"scale_factor": 0.5, "recompute_scale_factor": True}, True),
    (15, {"size": (7, 7)}, True),
    (7, {"scale_factor": 1.5}, False),
    (63, {"scale_factor": 0.3}, False),
):
    x = torch.arange(float(width)).expand(1, 1, width, width).contiguous()
    network = Resize(**asked).eval()
    right, plain, delegated = network(x), run(network, x, []), run(network, x, [XnnpackPartitioner()])
    ok += [torch.allclose(plain, right, atol=1e-4), torch.allclose(delegated, right, atol=1e-4) == same]
    shown = [[round(value, 2) for value in row[0, 0, 0, -2:].tolist()] for row in (right, plain, delegated)]
    print(f"  {width} columns, {asked}: torch {shown[0]}, ExecuTorch {shown[1]}, with XNNPACK {shown[2]}", file=out)
out.flush()
sys.exit(not all(ok))
PY
"$folder/venv/bin/python" "$folder/resize.py" 2> "$folder/errors" || { tail -5 "$folder/errors" >&2; exit 1; }
