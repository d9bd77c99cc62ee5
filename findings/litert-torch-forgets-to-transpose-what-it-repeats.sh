#!/usr/bin/env bash
# litert-torch (Google's converter of torch models to LiteRT) loses a transposition that stands behind a repeat along the
# batch. positions.repeat(batch, 1, 1).transpose(1, 2), by which learned positions (1, tokens, channels) become one map
# (batch, channels, tokens) for every image, comes out with the right shape and its numbers in the order before: tokens and
# channels are mixed. The same with permute, and if what is repeated depends on the input. With a batch of 1, with the
# transposition first, or with cat in place of repeat, it is right; expand in place of repeat does not run. Nothing warns.
#
# Seen 2026-11-30 with litert-torch 0.10.0, ai-edge-litert 2.3.0, torch 2.14.1, NumPy 2.4.6, Python 3.11.7, CPU; positions
# [[0, 1, 2], [3, 4, 5]], the first image's map:
#   repeat(2, 1, 1).transpose(1, 2): torch [[0, 3], [1, 4], [2, 5]], LiteRT [[0, 1], [2, 3], [4, 5]]
#   repeat(2, 1, 1).permute(0, 2, 1): torch [[0, 3], [1, 4], [2, 5]], LiteRT [[0, 1], [2, 3], [4, 5]]
#   repeat(1, 1, 1).transpose(1, 2): torch [[0, 3], [1, 4], [2, 5]], LiteRT [[0, 3], [1, 4], [2, 5]]
#   transpose(1, 2).repeat(2, 1, 1): torch [[0, 3], [1, 4], [2, 5]], LiteRT [[0, 3], [1, 4], [2, 5]]
#   cat([p, p]).transpose(1, 2): torch [[0, 3], [1, 4], [2, 5]], LiteRT [[0, 3], [1, 4], [2, 5]]
#   transpose(1, 2): torch [[0, 3], [1, 4], [2, 5]], LiteRT [[0, 3], [1, 4], [2, 5]]
#   x.repeat(2, 1, 1).transpose(1, 2): torch [[0, 3], [1, 4], [2, 5]], LiteRT [[0, 1], [2, 3], [4, 5]]
#   196 tokens of 64 channels, 4 images: 100.0 % of the numbers stand elsewhere
# A guess that fails: "a converter that runs the network has the network's order of axes".
# What works: transpose first and repeat then, or leave the repetition to broadcasting (x + positions.transpose(1, 2)).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check litert-torch==0.10.0 ai-edge-litert==2.3.0 litert-converter==0.5.0 torch==2.14.1 torchao==0.18.0 numpy==2.4.6
cat > "$folder/repeat.py" <<'PY'
import os
import sys
import warnings
from collections.abc import Callable

warnings.filterwarnings("ignore")
out = os.fdopen(os.dup(1), "w")  # converter and runtime write to the standard output by themselves
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
import litert_torch
import numpy as np
import torch
from torch import Tensor, nn


class Positions(nn.Module):
    def __init__(self, map_of: Callable[[Tensor], Tensor], tokens: int, channels: int) -> None:
        super().__init__()
        self.map_of = map_of
        self.register_buffer("positions", torch.arange(float(tokens * channels)).reshape(1, tokens, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.map_of(self.positions)


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(2, 1, 1).transpose(1, 2) + 0.0


ok = []
for name, batch, map_of, same in (
    ("repeat(2, 1, 1).transpose(1, 2)", 2, lambda p: p.repeat(2, 1, 1).transpose(1, 2), False),
    ("repeat(2, 1, 1).permute(0, 2, 1)", 2, lambda p: p.repeat(2, 1, 1).permute(0, 2, 1), False),
    ("repeat(1, 1, 1).transpose(1, 2)", 1, lambda p: p.repeat(1, 1, 1).transpose(1, 2), True),
    ("transpose(1, 2).repeat(2, 1, 1)", 2, lambda p: p.transpose(1, 2).repeat(2, 1, 1), True),
    ("cat([p, p]).transpose(1, 2)", 2, lambda p: torch.cat([p, p]).transpose(1, 2), True),
    ("transpose(1, 2)", 2, lambda p: p.transpose(1, 2), True),
):
    x = torch.zeros(batch, 3, 2)
    network = Positions(map_of, 2, 3).eval()
    right, got = network(x).numpy(), np.asarray(litert_torch.convert(network, (x,))(x))
    ok += [got.shape == right.shape, np.array_equal(got, right) == same]
    print(f"  {name}: torch {right[0].astype(int).tolist()}, LiteRT {got[0].astype(int).tolist()}", file=out)
x = torch.arange(6.0).reshape(1, 2, 3)
right, got = Turned()(x).numpy(), np.asarray(litert_torch.convert(Turned().eval(), (x,))(x))
ok += [got.shape == right.shape, not np.array_equal(got, right)]
print(f"  x.repeat(2, 1, 1).transpose(1, 2): torch {right[0].astype(int).tolist()}, LiteRT {got[0].astype(int).tolist()}", file=out)
network = Positions(lambda p: p.repeat(4, 1, 1).transpose(1, 2), 196, 64).eval()
x = torch.zeros(4, 64, 196)
right, got = network(x).numpy(), np.asarray(litert_torch.convert(network, (x,))(x))
wrong = 100 * (got != right).mean()
ok.append(wrong > 90)
print(f"  196 tokens of 64 channels, 4 images: {wrong:.1f} % of the numbers stand elsewhere", file=out)
out.flush()
sys.exit(not all(ok))
PY
"$folder/venv/bin/python" "$folder/repeat.py" 2> "$folder/errors" || { tail -5 "$folder/errors" >&2; exit 1; }
