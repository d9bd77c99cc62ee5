#!/usr/bin/env bash
# pytorch-metric-learning's AccuracyCalculator turns labels into float32. Whole numbers from 16,777,216 on, as ids of products or persons
# often are, become equal to their neighbours: images of different ids count as hits.
#
# Seen 2026-12-01 with pytorch-metric-learning 2.9.0, torch 2.15.0, Python 3.11.7; random features, precision at 1:
#   ids from 0 on            0.140
#   ids from 108,775,000 on  0.545
# A guess that fails: "ids are compared as they are".
# What works: torch.unique(labels, return_inverse=True)[1] first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  pytorch-metric-learning==2.9.0 torch==2.15.0 numpy==2.4.6
cat > "$folder/ids.py" <<'PY'
import sys

import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from pytorch_metric_learning.distances import LpDistance

torch.manual_seed(0)
features, ids = torch.randn(200, 16), torch.arange(200) % 8
found = []
for first in (0, 108_775_000):
    calculator = AccuracyCalculator(include=("precision_at_1",), knn_func=CustomKNN(LpDistance()), device=torch.device("cpu"))
    found.append(calculator.get_accuracy(features, first + ids)["precision_at_1"])
    print(f"ids from {first:,} on".ljust(24), f"{found[-1]:.3f}")
sys.exit(not found[1] > 2 * found[0])
PY
"$folder/venv/bin/python" "$folder/ids.py"
