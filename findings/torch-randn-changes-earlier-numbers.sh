#!/usr/bin/env bash
# From one seed, torch.randn(17) does not begin with torch.randn(16): one more number changes 15 of those before it. On a
# CPU, 16 numbers or more are made in blocks of 16, and if the last block is not full, the last 16 numbers are all drawn
# again. Fewer than 16 are made one by one, from other draws. So one more class, or one more channel of a small layer, gives
# other initial weights to the rest. torch.rand keeps what comes before, and so does NumPy's standard_normal.
#
# Seen 2026-11-28 with torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; how many of the first n numbers stay:
#   torch.randn 8 -> 9: 8 of 8
#   torch.randn 15 -> 16: 0 of 15
#   torch.randn 16 -> 17: 1 of 16
#   torch.randn 16 -> 32: 16 of 16
#   torch.rand 16 -> 17: 16 of 16
#   numpy standard_normal 16 -> 17: 16 of 16
# A guess that fails: "a seeded generator's first n numbers do not depend on how many are drawn".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cat > "$folder/first.py" <<'PY'
import sys

import numpy as np
import torch


def torchs(draw):
    return lambda n: draw(n, generator=torch.Generator().manual_seed(0)).numpy()


def numpys(n):
    return np.random.default_rng(0).standard_normal(n)


seen = []
for name, draw, n, more in (
    ("torch.randn", torchs(torch.randn), 8, 9),
    ("torch.randn", torchs(torch.randn), 15, 16),
    ("torch.randn", torchs(torch.randn), 16, 17),
    ("torch.randn", torchs(torch.randn), 16, 32),
    ("torch.rand", torchs(torch.rand), 16, 17),
    ("numpy standard_normal", numpys, 16, 17),
):
    seen.append(int((draw(n) == draw(more)[:n]).sum()))
    print(f"{name} {n} -> {more}: {seen[-1]} of {n}")
sys.exit(seen != [8, 0, 1, 16, 16, 16])
PY
"$folder/venv/bin/python" "$folder/first.py"
