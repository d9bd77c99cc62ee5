#!/usr/bin/env bash
# fastai's FocalLoss says that the paper's class factor α is its argument weight. It takes the probability back out of the weighted
# cross entropy, as exp(−loss), and so uses pʷ in place of p: images of a class with a large weight that are already right are no
# longer weighed down, which is what the focal loss is for.
#
# Seen 2026-12-01 with fastai 2.8.12, torch 2.15.0, Python 3.11.7; gamma 2, one image, p the probability of its class:
#   weight 3    p 0.82   fastai 0.1243   α (1 − p)² (−log p) 0.0201
#   weight 10   p 0.90   fastai 0.4445   α (1 − p)² (−log p) 0.0105
# A guess that fails: "weight is α".
# What works: FocalLossFlat(reduction="none") without weight, times weight[target].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  fastai==2.8.12 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/focal.py" <<'PY'
import sys

import torch
from fastai.losses import FocalLossFlat

ratios = []
for weight, logit in ((3.0, 1.5), (10.0, 2.2)):
    logits, target, weights = torch.tensor([[logit, 0.0]]), torch.tensor([0]), torch.tensor([weight, 1.0])
    p = logits.softmax(1)[0, 0]
    theirs = float(FocalLossFlat(weight=weights, gamma=2.0)(logits, target))
    paper = float(weight * (1 - p) ** 2 * -p.log())
    ratios.append(theirs / paper)
    print(f"weight {weight:<4g} p {float(p):.2f}   fastai {theirs:.4f}   α (1 − p)² (−log p) {paper:.4f}")
sys.exit(not (ratios[0] > 4 and ratios[1] > 20))
PY
"$folder/venv/bin/python" "$folder/focal.py"
