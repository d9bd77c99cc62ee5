#!/usr/bin/env bash
# pytorch-toolbelt's FlatCosineAnnealingLR keeps the learning rate for T_flat epochs and then lowers it along a cosine. Step by step it
# multiplies the rate by a ratio of cosines in the flat part too, so the rate grows there by a constant factor per epoch: with 90 flat
# epochs of 100, to nine times what was asked for. Its closed form, used where an epoch is passed to step(), is flat.
#
# Seen 2026-12-01 with pytorch-toolbelt 0.8.0, torch 2.15.0, Python 3.11.7; learning rate 1, the largest rate on the way:
#   T_max 100, T_flat 90   9.30
#   T_max 100, T_flat 70   1.21
#   T_max  30, T_flat 20   1.64
# A guess that fails: "flat".
# What works: torch.optim.lr_scheduler.SequentialLR of ConstantLR(factor=1) and CosineAnnealingLR.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  pytorch_toolbelt==0.8.0 torch==2.15.0 torchvision==0.29.2 opencv-python-headless==4.12.0.88 numpy==2.2.6
cat > "$folder/flat.py" <<'PY'
import sys

import torch
from pytorch_toolbelt.optimization.lr_schedules import FlatCosineAnnealingLR


def largest(epochs, flat):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = FlatCosineAnnealingLR(optimizer, T_max=epochs, T_flat=flat)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return max(rates)


found = {(epochs, flat): largest(epochs, flat) for epochs, flat in ((100, 90), (100, 70), (30, 20))}
for (epochs, flat), rate in found.items():
    print(f"T_max {epochs:3d}, T_flat {flat}   {rate:.2f}")
sys.exit(not all(abs(a - b) < 0.01 for a, b in zip(found.values(), (9.30, 1.21, 1.64))))
PY
"$folder/venv/bin/python" "$folder/flat.py"
