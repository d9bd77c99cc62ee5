#!/usr/bin/env bash
# torch-uncertainty's EMA averages parameters only. The averaged network is a copy made before the training, and nothing ever
# writes its buffers: batch norm evaluates with mean 0 and variance 1 for ever, whatever the images are, while the weights beside
# it are trained. Its SWA has a bn_update for that; its EMA has none, and its training routine calls none. In training the other
# network answers, so the loss looks right; only evaluation is wrong. Nothing warns.
#
# Seen 2026-12-01 with torch-uncertainty 0.13.0, torch 2.15.0, Python 3.11.7, CPU, a batch norm after 100 batches around 5:
#   running mean of the network 5.0, of its average 0.0; an input of 5 gives 0.0 and 5.0
#   batches counted: 100 and 0
# A guess that fails: "the average of a network's weights evaluates like the network, a little better".
# What works: copy the buffers (for name, buffer in model.named_buffers()) after each update, or
# torch.optim.swa_utils.update_bn on ema.ema_model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch-uncertainty==0.13.0 torchmetrics==1.9.0 lightning==2.6.6 rich==13.9.4 timm==1.0.31 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/ema.py" <<'PY'
import sys

import torch
from torch import nn
from torch_uncertainty.methods import EMA

torch.manual_seed(0)
model = nn.BatchNorm1d(1)
ema = EMA(model, momentum=0.5).train()
for _ in range(100):
    ema(5 + torch.randn(64, 1))
    ema.update_wrapper()
ema.eval()
average, image = ema.ema_model, torch.full((1, 1), 5.0)
means = model.running_mean.item(), average.running_mean.item()
answers = model.eval()(image).item(), ema(image).item()
print(f"running mean of the network {means[0]:.1f}, of its average {means[1]:.1f}; an input of 5 gives {abs(answers[0]):.1f} and {answers[1]:.1f}")
print(f"batches counted: {model.num_batches_tracked} and {average.num_batches_tracked}")
sys.exit(not (means[0] > 4.8 and means[1] == 0 and abs(answers[0]) < 0.1 and answers[1] > 4.9))
PY
"$folder/venv/bin/python" "$folder/ema.py"
