#!/usr/bin/env bash
# lightly's pool_masked reduces feature maps over the regions of an index mask, by `reduce`: the mean, the sum, the maximum, as
# torch's scatter_reduce. A batch (B, C, H, W), which is what a training has, is always averaged: `reduce` is not handed on. Nothing
# warns, and the shape is right. (For a single map (C, H, W), two arguments change places and it raises a TypeError.)
#
# Seen 2026-12-01 with lightly 1.6.0, torch 2.15.0, Python 3.11.7, values 1, 2, 3 and 6 of one region:
#   mean: 3.0 (scatter_reduce 3.0); sum: 3.0 (12.0); amax: 3.0 (6.0); amin: 3.0 (1.0)
# A guess that fails: "a parameter that is documented by its values is used".
# What works: torch.Tensor.scatter_reduce.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  lightly==1.6.0 pytorch-lightning==2.6.6 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/pool.py" <<'PY'
import sys

import torch
from lightly.models.utils import pool_masked

features, mask = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]), torch.zeros(1, 2, 2, dtype=torch.long)
found = {}
for reduce in ("mean", "sum", "amax", "amin"):
    plain = torch.zeros(1).scatter_reduce(0, mask.flatten(), features.flatten(), reduce, include_self=False)
    found[reduce] = pool_masked(features, mask, 1, reduce).item(), plain.item()
print("; ".join(f"{name}: {got} ({'scatter_reduce ' * (name == 'mean')}{right})" for name, (got, right) in found.items()))
sys.exit(found != {"mean": (3, 3), "sum": (3, 12), "amax": (3, 6), "amin": (3, 1)})
PY
"$folder/venv/bin/python" "$folder/pool.py"
