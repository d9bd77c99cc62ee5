#!/usr/bin/env bash
# A network that takes an image of bytes and begins with `x / 255` sees a black image in TVM: 0 everywhere, and 1 where a pixel
# is 255. The importer of exported torch programs (relax.frontend.torch.from_exported_program) gives a number in the code the type
# of the tensor beside it and divides bytes as bytes, where torch turns both into floats. So integers times 0.5 are 0,
# plus 0.5 they stay what they were, and divided by each other they lose their fractions. As soon as a float weight follows, the
# result has the right type as well as the right shape. No error, no warning.
#
# Seen 2026-11-30 with apache-tvm 0.27.0.post1 (LLVM, CPU), torch 2.15.0, NumPy 2.4.6, Python 3.11.7; of 0, 64, 128, 255:
#   x.float() / 255: torch [0.0, 0.25, 0.5, 1.0], TVM [0.0, 0.25, 0.5, 1.0] (float32)
#   x / 255: torch [0.0, 0.25, 0.5, 1.0], TVM [0, 0, 0, 1] (uint8)
#   x * 0.5: torch [0.0, 32.0, 64.0, 127.5], TVM [0, 0, 0, 0] (uint8)
#   x.long() + 0.5: torch [0.5, 64.5, 128.5, 255.5], TVM [0, 64, 128, 255] (int64)
#   x.long() / (x.long() + 1): torch [0.0, 0.9800000190734863, 0.9900000095367432, 1.0], TVM [0, 0, 0, 0] (int64)
#   x / 255 * weight, all 10.0: torch [0.0, 2.509999990463257, 5.019999980926514, 10.0], TVM [0.0, 0.0, 0.0, 10.0] (float32)
# A guess that fails: "x / 255 is a division of floats in every compiler that reads torch programs".
# What works: x.float() / 255.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check apache-tvm==0.27.0.post1 torch==2.15.0 numpy==2.4.6
cat > "$folder/compile.py" <<'PY'
import sys
from collections.abc import Callable

import numpy as np
import torch
import tvm
from torch import Tensor, nn
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program


class Network(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def compiled(network: nn.Module, x: Tensor) -> np.ndarray:
    module = from_exported_program(torch.export.export(network, (x,)))
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(x.numpy()))[0].numpy()


image, passed = torch.tensor([0, 64, 128, 255], dtype=torch.uint8), True
weight = torch.full((4,), 10.0)
for name, function, right in (
    ("x.float() / 255", lambda x: x.float() / 255, True),
    ("x / 255", lambda x: x / 255, False),
    ("x * 0.5", lambda x: x * 0.5, False),
    ("x.long() + 0.5", lambda x: x.long() + 0.5, False),
    ("x.long() / (x.long() + 1)", lambda x: x.long() / (x.long() + 1), False),
    ("x / 255 * weight, all 10.0", lambda x: x / 255 * weight, False),
):
    network = Network(function).eval()
    expected, found = network(image).numpy(), compiled(network, image)
    print(f"{name}: torch {expected.round(2).tolist()}, TVM {found.round(2).tolist()} ({found.dtype})")
    passed &= np.allclose(expected, found, atol=1e-4) == right
sys.exit(not passed)
PY
"$folder/venv/bin/python" "$folder/compile.py"
