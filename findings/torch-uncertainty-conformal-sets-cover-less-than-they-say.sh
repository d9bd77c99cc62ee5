#!/usr/bin/env bash
# torch-uncertainty's conformal classifiers document that their sets hold the true class with a probability of at least 1 - alpha.
# That guarantee needs the ceil((n + 1)(1 - alpha))-th smallest of the n calibration scores; they take
# torch.quantile(scores, 1 - alpha), which leaves out the + 1 and interpolates downwards on top. With few calibration images the
# sets cover much less than they say, and for n < 1 / alpha - 1, where no threshold can keep the promise, they still give one.
#
# Seen 2026-12-01 with torch-uncertainty 0.13.0, torch 2.15.0, Python 3.11.7, CPU, alpha 0.1, 20 classes, probabilities that are
# right, 400 calibrations each, 500 test images (standard error at most 0.6 points):
#   10 calibration images: ConformalClsTHR covers 82.6 %, ConformalClsAPS 83.3 %; by the rank with + 1 91.2 %
#   20 calibration images: ConformalClsTHR covers 86.7 %, ConformalClsAPS 86.0 %; by the rank with + 1 91.2 %
#   50 calibration images: ConformalClsTHR covers 88.1 %, ConformalClsAPS 88.6 %; by the rank with + 1 90.1 %
#   1000 calibration images: ConformalClsTHR covers 89.9 %, ConformalClsAPS 90.1 %; by the rank with + 1 90.0 %
# A guess that fails: "a conformal predictor covers at least 1 - alpha for any number of calibration images".
# What works: set q_hat to the ceil((n + 1)(1 - alpha))-th smallest score, or calibrate on thousands.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch-uncertainty==0.13.0 torchmetrics==1.9.0 lightning==2.6.6 rich==13.9.4 scikit-learn==1.9.1 timm==1.0.31 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/cover.py" <<'PY'
import logging
import math
import sys

import torch
from torch import nn
from torch_uncertainty.post_processing import ConformalClsAPS, ConformalClsTHR

logging.disable()
torch.manual_seed(0)


def draw(n):
    logits = 2 * torch.randn(n, 20)
    return logits, torch.multinomial(logits.softmax(-1), 1)[:, 0]


def covers(one):
    logits, labels = draw(500)
    return (one(logits)[torch.arange(500), labels] > 0).float().mean()


wrong = False
for n in (10, 20, 50, 1000):
    found, right = {ConformalClsTHR: [], ConformalClsAPS: []}, []
    for kind, shares in found.items():
        for _ in range(400):
            one = kind(alpha=0.1, model=nn.Identity(), enable_ts=False)
            logits, labels = draw(n)
            one.fit([(logits, labels)])
            shares.append(covers(one))
            if kind is ConformalClsTHR:
                scores = 1 - logits.softmax(-1)[torch.arange(n), labels]
                one.q_hat = scores.sort().values[math.ceil((n + 1) * 0.9) - 1]
                right.append(covers(one))
    thr, aps, plus = (100 * torch.stack(shares).mean().item() for shares in (*found.values(), right))
    print(f"{n} calibration images: ConformalClsTHR covers {thr:.1f} %, ConformalClsAPS {aps:.1f} %; by the rank with + 1 {plus:.1f} %")
    wrong |= n == 10 and not (thr < 86 and aps < 86 and plus > 89.5)
sys.exit(wrong)
PY
"$folder/venv/bin/python" "$folder/cover.py"
