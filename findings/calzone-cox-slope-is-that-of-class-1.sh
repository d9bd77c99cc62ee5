#!/usr/bin/env bash
# calzone reports the Cox calibration slope of class 1 for every class. The slope is that of a logistic regression of "is
# it this class" on the logit of the class's stated probability: 1 if calibrated, below 1 if overconfident.
# CalibrationMetrics(class_to_calculate=k) does not hand k on to it, so that slope, intercept and their intervals are
# those of class 1 whatever is asked. Called by itself, cox_regression_analysis(class_to_calculate=k) takes the labels of
# class k with the probabilities of class 1, and the slope is negative. "COX ICI" applies the slope of class 1 to the
# probabilities of class k. The other metrics follow k. With two classes both slopes are equal, and it goes unnoticed.
# Nothing warns.
#
# Seen 2026-11-30 with calzone-tool 0.1.0 (from the FDA), statsmodels 0.15.0, NumPy 2.4.6, Python 3.11.7; 5000 images of 3
# classes, of which class 1 is calibrated and classes 0 and 2 are overconfident:
#   class 0: slope by hand 0.54, by CalibrationMetrics 1.01, by cox_regression_analysis -0.36
#   class 1: slope by hand 1.01, by CalibrationMetrics 1.01, by cox_regression_analysis 1.01
#   class 2: slope by hand 0.57, by CalibrationMetrics 1.01, by cox_regression_analysis -0.35
# A guess that fails: "class_to_calculate chooses the class of all metrics".
# What works: asking for class 1 of two columns, 1 - p and p of the class, with labels == class.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check calzone-tool==0.1.0 statsmodels==0.15.0 scipy==1.17.1 numpy==2.4.6
cat > "$folder/cox.py" <<'PY'
import sys

import numpy as np
import statsmodels.api as sm
from calzone.metrics import CalibrationMetrics, cox_regression_analysis

IMAGES = 5000
draw = np.random.default_rng(0)
scores = 1.5 * draw.standard_normal((IMAGES, 3))
true = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
labels = (true.cumsum(1) > draw.random((IMAGES, 1))).argmax(1)
# Class 1 is stated as it is; classes 0 and 2 share the rest with 2.5 times too large a logit.
share = 1 / (1 + (true[:, 0] / true[:, 2]) ** 2.5)
rest = 1 - true[:, 1]
stated = np.stack([rest * (1 - share), true[:, 1], rest * share], 1)
found = []
for chosen in range(3):
    metrics = CalibrationMetrics(class_to_calculate=chosen)
    inside = metrics.calculate_metrics(labels, stated, metrics=["COX"])["COX coef"]
    alone, *_ = cox_regression_analysis(labels, stated, class_to_calculate=chosen)
    p = np.clip(stated[:, chosen], 1e-7, 1 - 1e-7)
    model = sm.Logit((labels == chosen).astype(int), sm.add_constant(np.log(p / (1 - p)))).fit(disp=0)
    two, *_ = cox_regression_analysis(labels == chosen, np.stack([1 - p, p], 1))
    assert abs(two - model.params[1]) < 1e-6  # what works
    found.append((inside, alone, model.params[1]))
    print(
        f"class {chosen}: slope by hand {model.params[1]:.2f}, by CalibrationMetrics {inside:.2f}, "
        f"by cox_regression_analysis {alone:.2f}"
    )
inside, alone, expected = np.array(found).T
same = np.ptp(inside) == 0 and abs(inside[0] - expected[1]) < 1e-6
sys.exit(not (same and abs(alone[1] - expected[1]) < 1e-6 and min(abs(alone - expected)[[0, 2]]) > 0.5))
PY
"$folder/venv/bin/python" "$folder/cox.py"
