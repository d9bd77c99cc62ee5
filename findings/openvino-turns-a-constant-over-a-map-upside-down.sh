#!/usr/bin/env bash
# OpenVINO computes x / c where a torch network says c / x, if c is a parameter or a buffer and x comes from a convolution, a
# linear layer, an interpolation or a mean, with or without something added. The CPU plugin fuses the division into the layer
# before it and takes its operands in the wrong order. Usually no division gets that far, since a division is first turned into
# a product with a power of -1; the torch front end marks its divisions to be left alone. The mark is not saved: the same
# model, written to a file and read again, is right, so that whoever checks the file finds nothing. A depth from a disparity
# (focal length / disparity), a learned temperature, or a norm written as gain / (mean + 1) is silently inverted. Neither
# converting nor compiling warns, shapes are right, and so are c - x, c ** x, and c / x with a Python number for c.
#
# Seen 2026-11-30 with openvino 2026.4.1, torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; the first value of each map:
#   buffer / conv: torch 0.2276, traced 4.3935, exported 4.3935, traced, saved and read 0.2276
#   buffer / linear: torch 0.2235, traced 4.4744, exported 4.4744, traced, saved and read 0.2235
#   buffer / mean: torch 0.2112, traced 4.7351, exported 4.7351, traced, saved and read 0.2112
#   buffer - conv: torch -6.7869, traced -6.7869, exported -6.7869, traced, saved and read -6.7869
#   2.0 / conv: torch 0.2276, traced 0.2276, exported 0.2276, traced, saved and read 0.2276
# A guess that fails: "the model that is compiled is the one that is saved".
# What works: save and read before compiling, the way over ONNX, or c * x.reciprocal().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 openvino==2026.4.1 packaging==26.3 numpy==2.4.6
cat > "$folder/division.py" <<'PY'
import sys
import warnings
from collections.abc import Callable

import openvino
import torch
from torch import nn

warnings.filterwarnings("ignore")
torch.manual_seed(0)


class Network(nn.Module):
    def __init__(self, layer: nn.Module, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.function = layer, function
        self.register_buffer("two", torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.two, self.layer(x) + 9)


def run(model: openvino.Model) -> float:
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    return float(openvino.compile_model(model, "CPU", options)([x.numpy()])[0].flat[0])


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


x, conv, right = torch.rand(1, 3, 8, 8), nn.Conv2d(3, 4, 3), {}
file = sys.argv[1]
for name, layer, function in (
    ("buffer / conv", conv, lambda two, x: two / x),
    ("buffer / linear", nn.Linear(8, 4), lambda two, x: two / x),
    ("buffer / mean", Mean(), lambda two, x: two / x),
    ("buffer - conv", conv, lambda two, x: two - x),
    ("2.0 / conv", conv, lambda two, x: 2.0 / x),
):
    network = Network(layer, function).eval()
    expected = network(x).flatten()[0].item()
    traced = openvino.convert_model(network, example_input=(x,))
    openvino.save_model(traced, file, compress_to_fp16=False)
    ways = {
        "traced": run(traced),
        "exported": run(openvino.convert_model(torch.export.export(network, (x,)))),
        "traced, saved and read": run(openvino.Core().read_model(file)),
    }
    print(f"{name}: torch {expected:.4f}, " + ", ".join(f"{way} {value:.4f}" for way, value in ways.items()))
    right[name] = [abs(value - expected) < 1e-2 * abs(expected) for value in ways.values()]
wrong = ("buffer / conv", "buffer / linear", "buffer / mean")
sys.exit(any(right[name] != ([False, False, True] if name in wrong else [True] * 3) for name in right))
PY
"$folder/venv/bin/python" "$folder/division.py" "$folder/model.xml"
