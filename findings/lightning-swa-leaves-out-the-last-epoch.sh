#!/usr/bin/env bash
# Lightning's StochasticWeightAveraging averages weights "from swa_epoch_start on". It takes them at the start of each epoch: weights of
# before it began are in the average, and the last epoch's training is in none. A training of one epoch ends with the weights that it
# started with.
#
# Seen 2026-12-01 with lightning 2.6.6, torch 2.15.0, Python 3.11.7; a weight that grows by 1 in each epoch, averages from 80 % on:
#   epochs   average   of the epochs   right, from each epoch's end
#   1        0.0       0               1.0 (1)
#   5        3.5       3, 4            4.5 (4, 5)
#   10       8.0       7, 8, 9         9.0 (8, 9, 10)
# A guess that fails: "the average is of the last epochs".
# What works: torch.optim.swa_utils.AveragedModel, updated at the end of an epoch, and update_bn.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  lightning==2.6.6 torch==2.15.0 numpy==2.4.6
cat > "$folder/average.py" <<'PY'
import logging
import sys
import warnings

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Growing(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, number):
        return -self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


found = []
print("epochs   average")
for epochs in (1, 5, 10):
    model = Growing()
    pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        callbacks=[StochasticWeightAveraging(1.0, swa_epoch_start=0.8)],
    ).fit(model, torch.utils.data.DataLoader([0.0]))
    found.append(float(model.weight))
    print(f"{epochs:<8} {found[-1]}")
sys.exit(found != [0.0, 3.5, 8.0])
PY
"$folder/venv/bin/python" "$folder/average.py"
