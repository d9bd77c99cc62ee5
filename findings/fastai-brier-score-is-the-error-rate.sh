#!/usr/bin/env bash
# fastai's BrierScore is scikit-learn's brier_score_loss as a metric, which takes probabilities. It is made with the setting that takes
# the most probable class first: what is squared are zeros and ones, and the "Brier score" is the error rate. How sure the network is
# does not count at all.
#
# Seen 2026-12-01 with fastai 2.8.12, scikit-learn 1.8.0, torch 2.15.0, Python 3.11.7; 6 images, one of them wrong:
#   fastai 0.1667   scikit-learn 0.1094   error rate 0.1667
# A guess that fails: "it measures calibration".
# What works: scikit-learn's brier_score_loss on get_preds().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  fastai==2.8.12 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 scikit-learn==1.8.0
cat > "$folder/brier.py" <<'PY'
import sys

import torch
from fastai.metrics import BrierScore
from sklearn.metrics import brier_score_loss


class Learner:
    """What a metric reads of fastai's."""

    def __init__(self, pred, y):
        self.pred, self.y, self.yb, self.xb, self.to_detach = pred, y, (y,), (pred,), lambda tensor: tensor


logits = torch.tensor([[2.0, 0], [1.0, 0], [0.5, 0], [0, 1.0], [0, 2.0], [0, 0.8]])
labels = torch.tensor([0, 0, 1, 1, 1, 1])
probabilities = logits.softmax(1)
metric = BrierScore()
metric.reset()
metric.accumulate(Learner(probabilities, labels))
theirs = float(metric.value)
right = float(brier_score_loss(labels, probabilities[:, 1]))
errors = float((logits.argmax(1) != labels).float().mean())
print(f"fastai {theirs:.4f}   scikit-learn {right:.4f}   error rate {errors:.4f}")
sys.exit(not (abs(theirs - errors) < 1e-6 and abs(theirs - right) > 0.01))
PY
"$folder/venv/bin/python" "$folder/brier.py"
