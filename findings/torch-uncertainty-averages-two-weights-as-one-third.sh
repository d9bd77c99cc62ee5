#!/usr/bin/env bash
# torch-uncertainty's SWA, stochastic weight averaging, counts its first weights twice: after copying them it sets the number of
# averaged models to 1 and then adds 1 to it. The next weights therefore count a third instead of a half, the ones after them a
# quarter instead of a third, and the average lags behind for good: the first weights, the least trained, count double.
#
# Seen 2026-12-01 with torch-uncertainty 0.13.0, torch 2.15.0, Python 3.11.7, CPU, weights 0, 3, 6 and 9:
#   after 1: 0.00 (mean 0.00); after 2: 1.00 (mean 1.50); after 3: 2.25 (mean 3.00); after 4: 3.60 (mean 4.50)
#   torch.optim.swa_utils.AveragedModel: 4.50
# A guess that fails: "SWA is the mean of the weights it is given".
# What works: torch.optim.swa_utils.AveragedModel.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch-uncertainty==0.13.0 torchmetrics==1.9.0 lightning==2.6.6 rich==13.9.4 timm==1.0.31 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/swa.py" <<'PY'
import sys

from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch_uncertainty.methods import SWA

weights = [0.0, 3.0, 6.0, 9.0]
model = nn.Linear(1, 1, bias=False)
swa, plain = SWA(model, cycle_start=0, cycle_length=1), AveragedModel(model)
found = []
for epoch, weight in enumerate(weights):
    nn.init.constant_(model.weight, weight)
    swa.update_wrapper(epoch)
    plain.update_parameters(model)
    found.append(swa.swa_model.weight.item())
means = [sum(weights[: i + 1]) / (i + 1) for i in range(4)]
print("; ".join(f"after {i}: {one:.2f} (mean {mean:.2f})" for i, (one, mean) in enumerate(zip(found, means), 1)))
print(f"torch.optim.swa_utils.AveragedModel: {plain.module.weight.item():.2f}")
sys.exit([round(one, 2) for one in found] != [0, 1, 2.25, 3.6] or plain.module.weight.item() != 4.5)
PY
"$folder/venv/bin/python" "$folder/swa.py"
