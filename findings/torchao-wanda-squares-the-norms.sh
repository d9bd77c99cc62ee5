#!/usr/bin/env bash
# Wanda keeps the weights with the largest |weight| × norm of the input. torchao's WandaSparsifier multiplies by the squared norm: its
# observer adds up squares and the root is never taken. Weights of strong inputs win that should not.
#
# Seen 2026-12-01 with torchao 0.18.0, torch 2.15.0, Python 3.11.7; a row of weights 1 and 3, inputs of norms 4 and 2, half is kept:
#   kept    [1, 0]   (1 × 4² = 16 against 3 × 2² = 12)
#   Wanda's [0, 3]   (1 × 4 = 4 against 3 × 2 = 6)
# A guess that fails: "the metric is that of the paper".
# What works: a mask of one's own, weight.abs() * inputs.norm(dim=0), row by row.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torchao==0.18.0 torch==2.15.0 numpy==2.4.6
cat > "$folder/wanda.py" <<'PY'
import sys
import warnings

import torch
from torch import nn
from torchao.sparsity.wanda import WandaSparsifier

warnings.filterwarnings("ignore")
model = nn.Sequential(nn.Linear(2, 1, bias=False))
model[0].weight.data = torch.tensor([[1.0, 3.0]])
inputs = torch.tensor([[4.0, 2.0]])
metric = model[0].weight.detach().abs() * inputs.norm(dim=0)
right = torch.where(metric == metric.max(), model[0].weight.detach(), 0)
sparsifier = WandaSparsifier(sparsity_level=0.5)
sparsifier.prepare(model, config=[{"tensor_fqn": "0.weight"}])
model(inputs)
sparsifier.step()
sparsifier.squash_mask()
kept = model[0].weight.detach()
print("kept   ", kept[0].tolist())
print("Wanda's", right[0].tolist())
sys.exit(not (kept.tolist() == [[1.0, 0.0]] and right.tolist() == [[0.0, 3.0]]))
PY
"$folder/venv/bin/python" "$folder/wanda.py"
