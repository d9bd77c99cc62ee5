#!/usr/bin/env bash
# heavyball.NAdam has weight decay added to the gradient by default, as torch.optim.NAdam. It subtracts the decayed weight from the
# gradient in place of adding it: weights grow with weight decay, the more of it the faster.
#
# Seen 2026-12-01 with heavyball 3.2.1, torch 2.15.0, Python 3.11.7; one weight of 1, gradient 1, lr 1e-3, 300 steps:
#   weight decay   heavyball   torch    heavyball, decoupled   torch, decoupled
#   0              0.7033      0.7033   0.7033                 0.7033
#   0.1            0.7311      0.7052   0.6781                 0.6781
#   1              1.0043      0.7138   0.4839                 0.4839
# A guess that fails: "weight decay makes weights smaller".
# What works: decoupled_weight_decay=True, which agrees with torch's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  heavyball==3.2.1 torch==2.15.0 numpy==2.4.6
cat > "$folder/decay.py" <<'PY'
import sys

import heavyball
import torch


def after(kind, decay, **more):
    weight = torch.nn.Parameter(torch.ones(8))
    optimizer = kind([weight], lr=1e-3, weight_decay=decay, **more)
    for _ in range(300):
        weight.grad = torch.ones(8)
        optimizer.step()
    return float(weight.mean())


kinds = heavyball.NAdam, torch.optim.NAdam
print("weight decay   heavyball   torch    heavyball, decoupled   torch, decoupled")
found = {}
for decay in (0.0, 0.1, 1.0):
    coupled, apart = ([after(k, decay, **more) for k in kinds] for more in ({}, {"decoupled_weight_decay": True}))
    found[decay] = coupled, apart
    print(f"{decay:<14g} {coupled[0]:<11.4f} {coupled[1]:<8.4f} {apart[0]:<22.4f} {apart[1]:.4f}")
ours = [found[decay][0][0] for decay in found]
agrees = all(abs(apart[0] - apart[1]) < 2e-3 for _, apart in found.values())
sys.exit(not (ours[0] < ours[1] < ours[2] and ours[2] > 1 and found[1.0][0][1] < 0.72 and agrees))
PY
TORCHDYNAMO_DISABLE=1 "$folder/venv/bin/python" "$folder/decay.py"
