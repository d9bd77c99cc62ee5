#!/usr/bin/env bash
# uncertainty-calibration reads alpha as percent. get_calibration_error_uncertainties and its top-label form have alpha=0.1 as
# their default and are documented to return 1 - alpha confidence intervals, which is 90 %; the function below takes the
# percentiles alpha / 2 and 100 - alpha / 2, so the default is an interval of 99.9 %, and with its 100 samples just the smallest
# and the largest of them. alpha=0.05, meant for a wider interval, gives nothing wider. Intervals come out about 1.8 times as
# wide as stated, and networks that differ in calibration do not seem to.
#
# Seen 2026-11-30 with uncertainty-calibration 0.1.4, NumPy 2.4.6, Python 3.11.7; 2000 images of ten classes, expected
# calibration error of a network that is too sharp:
#   alpha=0.1: 0.0562 to 0.1157, width 0.0595
#   alpha=0.05: 0.0611 to 0.1150, width 0.0539
#   alpha=10: 0.0714 to 0.1048, width 0.0334
#   alpha=5: 0.0676 to 0.1039, width 0.0363
#   90 % by hand, of 1000 samples with replacement: width 0.0330
# A guess that fails: "alpha=0.1 is a 90 % interval, as documented".
# What works: alpha=10 for 90 %, alpha=5 for 95 %.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check uncertainty-calibration==0.1.4 numpy==2.4.6 scikit-learn==1.9.1 scipy==1.17.1 parameterized
cat > "$folder/interval.py" <<'PY'
import sys

import calibration
import numpy as np

draw = np.random.default_rng(0)
np.random.seed(0)
images, classes = 2000, 10
logits = draw.normal(0, 2, (images, classes))
p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
sharp = p**1.3 / (p**1.3).sum(1, keepdims=True)
labels = np.array([draw.choice(classes, p=row) for row in p])
width = {}
for alpha in (0.1, 0.05, 10, 5):
    low, _, high = calibration.get_top_calibration_error_uncertainties(sharp, labels, p=1, alpha=alpha)
    width[alpha] = high - low
    print(f"alpha={alpha}: {low:.4f} to {high:.4f}, width {width[alpha]:.4f}")
values = [calibration.get_calibration_error(sharp[rows], labels[rows], p=1, debias=False, mode="top-label") for rows in draw.integers(images, size=(1000, images))]
by_hand = np.subtract(*np.percentile(values, (95, 5)))
print(f"90 % by hand, of 1000 samples with replacement: width {by_hand:.4f}")
sys.exit(not (width[0.1] > 1.25 * by_hand and 0.75 < width[10] / by_hand < 1.25))
PY
"$folder/venv/bin/python" "$folder/interval.py"
