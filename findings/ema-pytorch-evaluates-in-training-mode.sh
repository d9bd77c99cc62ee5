#!/usr/bin/env bash
# ema-pytorch's forward_eval computes in training mode. Its comment calls it a handy function to invoke the averaged network
# with no_grad and eval; it turns gradients off, remembers the mode and restores it, but never sets it. The averaged network is a
# copy of the one in training, so dropout drops, batch norm normalizes by the batch, and its running statistics, which are
# averaged weights too, move with every image that is evaluated. Calling the average itself does the same. Nothing warns.
#
# Seen 2026-11-30 with ema-pytorch 0.8.3, torch 2.15.0, Python 3.11.7, CPU:
#   forward_eval: two answers differ by up to 2.15; running mean of the batch norm moved by up to 0.24
#     two images alone and among 64 differ by up to 0.49
#   after eval(): the same answer twice, and the norm at rest: True
# A guess that fails: "forward_eval evaluates".
# What works: average.eval() once after it is made; update() does not change the mode.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ema-pytorch==0.8.3 torch==2.15.0 numpy==2.4.6
cat > "$folder/evaluate.py" <<'PY'
import sys

import torch
from ema_pytorch import EMA
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
average = EMA(model, update_after_step=0, update_every=1)
norm = average.ema_model[1]
images = torch.randn(64, 8) * 3 + 1
before = norm.running_mean.clone()
first, second = average.forward_eval(images), average.forward_eval(images)
moved = (norm.running_mean - before).abs().max().item()
print(f"forward_eval: two answers differ by up to {(first - second).abs().max():.2f}; running mean of the batch norm moved by up to {moved:.2f}")
alone, together = average.forward_eval(images[:2]), average.forward_eval(images)[:2]
print(f"  two images alone and among 64 differ by up to {(alone - together).abs().max():.2f}")
average.eval()
before = norm.running_mean.clone()
same = torch.equal(average.forward_eval(images), average.forward_eval(images)) and torch.equal(norm.running_mean, before)
print(f"after eval(): the same answer twice, and the norm at rest: {same}")
sys.exit(not (moved > 0.1 and (first - second).abs().max() > 0.1 and same))
PY
"$folder/venv/bin/python" "$folder/evaluate.py"
