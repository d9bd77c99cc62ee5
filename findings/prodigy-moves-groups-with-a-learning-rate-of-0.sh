#!/usr/bin/env bash
# Prodigy finds the learning rate by itself; its groups may have other learning rates than 1 "only for values of 0", says its own
# message, which is how a part of a network is frozen. The step size is one for all groups, and whether a group's own is 0 is not
# asked when weights are updated: weight decay shrinks the frozen part to nothing, and in a part that is frozen later the old momentum
# drives the weights away.
#
# Seen 2026-12-01 with prodigyopt 1.1.2, torch 2.15.0, Python 3.11.7; two vectors of 1,000 weights, the second with lr=0:
#   from the start, weight decay 0.05, 400 steps   norm of the frozen weights × 0.0003
#   from step 50, no weight decay, 150 steps       norm of the frozen weights × 9.28
#   grad=None instead, weight decay 0.05           norm of the frozen weights × 1
# A guess that fails: "lr=0 freezes a group", as with torch's optimizers.
# What works: leave the frozen parameters out, or requires_grad_(False) on them, so that they have no gradient.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  prodigyopt==1.1.2 torch==2.15.0 numpy==2.4.6
cat > "$folder/freeze.py" <<'PY'
import sys

import torch
from prodigyopt import Prodigy


def grown(at, decay, steps, without_grad=False):
    """How many times longer the second vector is after it was frozen."""
    torch.manual_seed(0)
    head, body = (torch.nn.Parameter(torch.randn(1000)) for _ in range(2))
    target = torch.randn(1000)
    optimizer = Prodigy([{"params": [head]}, {"params": [body]}], lr=1.0, weight_decay=decay)
    for step in range(steps):
        if step == at:
            optimizer.param_groups[1]["lr"] = 0.0
            before = body.detach().norm()
        optimizer.zero_grad()
        (((head - target) ** 2).mean() + ((body - target) ** 2).mean()).backward()
        if without_grad:
            body.grad = None
        optimizer.step()
    return float(body.detach().norm() / before)


found = grown(0, 0.05, 400), grown(50, 0.0, 150), grown(0, 0.05, 400, without_grad=True)
titles = (
    "from the start, weight decay 0.05, 400 steps",
    "from step 50, no weight decay, 150 steps",
    "grad=None instead, weight decay 0.05",
)
for title, value in zip(titles, found):
    print(f"{title:46} norm of the frozen weights × {value:.3g}")
sys.exit(not (found[0] < 0.01 and found[1] > 2 and found[2] == 1))
PY
"$folder/venv/bin/python" "$folder/freeze.py"
