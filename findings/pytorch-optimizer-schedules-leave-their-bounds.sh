#!/usr/bin/env bash
# pytorch-optimizer's schedules leave the bounds that they are given. "poly" multiplies max_lr by the square root of the steps since
# the warm-up instead of by a share of what is left: it rises, to 30 times max_lr after 900 steps, and the network is NaN. The
# docstring states the formula; that max_lr is no maximum follows from it. "linear" goes on at the same slope when t_max is over: the
# rate becomes negative, so that the optimizer climbs, and torch, which refuses a negative rate from the caller, is not asked.
# "cosine" rises again. Epochs that are not a whole number of batches, or one epoch more, suffice. torch's LinearLR and PolynomialLR
# stop at their end. Nothing warns.
#
# Seen 2026-11-30 with pytorch-optimizer 4.1.0, torch 2.15.0, NumPy 2.4.6, Python 3.11.7; max_lr 0.1, min_lr 0.001, 100 steps of
# warm-up, t_max 1000:
#   linear: rate at steps 100, 101, 550, 999, 1100, 1199: 0.1000, 0.0999, 0.0505, 0.0011, -0.0100, -0.0209
#   cosine: rate at steps 100, 101, 550, 999, 1100, 1199: 0.1000, 0.1000, 0.0505, 0.0010, 0.0040, 0.0125
#   poly: rate at steps 100, 101, 550, 999, 1100, 1199: 0.1000, 0.1000, 2.1011, 2.9693, 3.1317, 3.2830
#   a weight whose loss is its square, trained with poly from 1: nan
# A guess that fails: "max_lr and min_lr bound the rate".
# What works: torch's PolynomialLR after its LinearLR, in a SequentialLR; for the others t_max that is not passed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pytorch-optimizer==4.1.0 torch==2.15.0 numpy==2.4.6
cat > "$folder/schedules.py" <<'PY'
import sys

import torch
from pytorch_optimizer import load_lr_scheduler

WARM, TOTAL, TRAINED = 100, 1000, 1200


def rates(name):
    weight = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    schedule = load_lr_scheduler(name)(optimizer, t_max=TOTAL, max_lr=0.1, min_lr=0.001, warmup_steps=WARM)
    found = []
    for _ in range(TRAINED):
        weight.grad = 2 * weight.detach()
        schedule.step()
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
    return found, float(weight.detach())


found = {}
for name in ("linear", "cosine", "poly"):
    found[name], weight = rates(name)
    shown = ", ".join(f"{found[name][step]:.4f}" for step in (100, 101, 550, 999, 1100, 1199))
    print(f"{name}: rate at steps 100, 101, 550, 999, 1100, 1199: {shown}")
print(f"a weight whose loss is its square, trained with poly from 1: {weight}")
sys.exit(not (min(found["linear"]) < 0 and max(found["poly"]) > 2 and found["cosine"][1199] > 2 * found["cosine"][1000]))
PY
"$folder/venv/bin/python" "$folder/schedules.py"
