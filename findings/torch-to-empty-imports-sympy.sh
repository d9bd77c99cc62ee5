#!/usr/bin/env bash
# The first Module.to_empty() of a network built on torch's meta device imports sympy, several hundred modules, whatever
# the network: empty_like of a meta tensor onto a real device runs torch's Python reference, which loads the symbolic
# shapes. The recipe "build on meta, then to_empty, then load_state_dict" thus costs a cold process about half a second.
# load_state_dict(assign=True) gives the same network without, in less than a millisecond.
#
# Seen 2026-11-29 with torch 2.15.0 on an AMD EPYC, Python 3.11.7:
#   assign: 0.000 s, sympy imported: False
#   to_empty: 0.512 s, sympy imported: True
#   to_empty again: 0.000 s
# A guess that fails: "to_empty only allocates".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy
cat > "$folder/measure.py" <<'PY'
import sys
import time
from collections.abc import Callable

import torch
from torch import nn


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))


def seconds(run: Callable[[nn.Module], object]) -> float:
    network = on_meta()
    start = time.perf_counter()
    run(network)
    assert not any(parameter.is_meta for parameter in network.parameters())
    return time.perf_counter() - start


values = {name: torch.empty(tensor.shape) for name, tensor in on_meta().state_dict().items()}
assigned = seconds(lambda network: network.load_state_dict(values, assign=True))
print(f"assign: {assigned:.3f} s, sympy imported: {'sympy' in sys.modules}")
assert "sympy" not in sys.modules
emptied = seconds(lambda network: network.to_empty(device="cpu"))
print(f"to_empty: {emptied:.3f} s, sympy imported: {'sympy' in sys.modules}")
assert "sympy" in sys.modules, "to_empty no longer imports sympy"
print(f"to_empty again: {seconds(lambda network: network.to_empty(device='cpu')):.3f} s")
PY
"$folder/venv/bin/python" "$folder/measure.py"
