#!/usr/bin/env bash
# FPGM prunes the filters that are nearest to all others, by the sum of Euclidean distances between weights. Torch-Pruning's
# FPGMImportance squares the weights first. A filter and its negative, which are as far apart as any two, have distance 0 and look
# redundant, and the order of the scores is another.
#
# Seen 2026-12-01 with torch-pruning 1.6.1, torch 2.15.0, Python 3.11.7; filters 3, −3, 1 and 1.5, sums of distances:
#   torch-pruning  14.75 14.75 17.25 14.75   pruned first: 3, −3 or 1.5
#   the paper's     9.50 14.50  6.50  6.50   pruned first: 1 or 1.5
# A guess that fails: "FPGMImportance is FPGM".
# What works: torch.cdist(weights, weights).sum(1) as an importance of one's own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch-pruning==1.6.1 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/median.py" <<'PY'
import sys

import torch
import torch_pruning
from torch import nn

model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False))
model[0].weight.data = torch.tensor([3.0, -3.0, 1.0, 1.5]).view(4, 1, 1, 1)
graph = torch_pruning.DependencyGraph().build_dependency(model, torch.randn(1, 1, 4, 4))
group = graph.get_pruning_group(model[0], torch_pruning.prune_conv_out_channels, list(range(4)))
found = torch_pruning.importance.FPGMImportance(normalizer=None)(group)
weights = model[0].weight.data.flatten(1)
right = torch.cdist(weights, weights).sum(1)
print("torch-pruning ", *(f"{value:5.2f}" for value in found))
print("the paper's   ", *(f"{value:5.2f}" for value in right))
expected = torch.tensor([14.75, 14.75, 17.25, 14.75]), torch.tensor([9.5, 14.5, 6.5, 6.5])
sys.exit(not all(torch.allclose(*pair, atol=1e-4) for pair in zip((found, right), expected)))
PY
"$folder/venv/bin/python" "$folder/median.py"
