#!/usr/bin/env bash
# ema-pytorch's power-function averages (KarrasEMA, PostHocEMA) are right only where they are updated at every step. Their decay at
# step t is (1 - 1 / t) ** (gamma + 1), which is the paper's for one step; with update_every=k it is applied once per k steps and
# not k times, so the exponent of the profile becomes (gamma + 1) / k. KarrasEMA's default is update_every=100, so that sigma_rel
# is without effect: asked to average the last 5 % of the training, it returns weights that are 85 % of the training old, nearly
# the initial ones. PostHocEMA takes its stored averages for what their gammas say and solves for a width that they do not have.
# The package's EMA with a constant beta has the same property, but there beta is per update by definition.
#
# Seen 2026-11-30 with ema-pytorch 0.8.3, torch 2.15.0, NumPy 2.4.6, Python 3.11.7; the only weight is the number of the step:
#   mean age of what is averaged after 5000 steps, in shares of the training, for sigma_rel=0.05
#     KarrasEMA, update_every=1: 0.053
#     KarrasEMA, update_every=10: 0.358
#     KarrasEMA, update_every=100: 0.850
#     by the paper's formula, 1 / (gamma + 2): 0.053
#     PostHocEMA, synthesized for 0.15, update_every=1: 0.180; by the formula 0.180
#     PostHocEMA, synthesized for 0.15, update_every=10: 0.758; by the formula 0.180
# A guess that fails: "update_every saves time, and changes the average little".
# What works: update_every=1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ema-pytorch==0.8.3 torch==2.15.0 numpy==2.4.6
cat > "$folder/power.py" <<'PY'
import sys
from pathlib import Path
from tempfile import mkdtemp

import torch
from ema_pytorch import KarrasEMA, PostHocEMA
from torch import nn

STEPS = 5000


class Clock(nn.Module):
    """Its only weight is the number of the step."""

    def __init__(self):
        super().__init__()
        self.time = nn.Parameter(torch.zeros(()))


def run(make, **options):
    clock = Clock()
    average = make(clock, **options)
    for step in range(1, STEPS + 1):
        clock.time.data.fill_(step)
        average.update()
    return average


print(f"mean age of what is averaged after {STEPS} steps, in shares of the training, for sigma_rel=0.05")
found = {}
for every in (1, 10, 100):
    average = run(KarrasEMA, sigma_rel=0.05, update_every=every)
    found[every] = 1 - average.ema_model.time.item() / STEPS
    print(f"  KarrasEMA, update_every={every}: {found[every]:.3f}")
right = 1 / (average.gamma + 2)
print(f"  by the paper's formula, 1 / (gamma + 2): {right:.3f}")
folder = Path(mkdtemp(dir=sys.argv[1]))
options = dict(sigma_rels=(0.05, 0.28), checkpoint_every_num_steps=500, checkpoint_dtype=torch.float64)
for every in (1, 10):
    average = run(PostHocEMA, update_every=every, checkpoint_folder=folder / str(every), **options)
    made = average.synthesize_ema_model(sigma_rel=0.15)
    found["post hoc", every] = 1 - made.ema_model.time.item() / STEPS
    print(f"  PostHocEMA, synthesized for 0.15, update_every={every}: {found['post hoc', every]:.3f}; by the formula {1 / (made.gamma + 2):.3f}")
sys.exit(not (abs(found[1] - right) < 0.01 and found[10] > 5 * right and found[100] > 10 * right))
PY
"$folder/venv/bin/python" "$folder/power.py" "$folder"
