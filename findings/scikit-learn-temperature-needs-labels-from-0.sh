#!/usr/bin/env bash
# scikit-learn's temperature scaling (new in 1.8) is wrong where classes have numbers that do not count from 0, such as 1 to
# 10, or -1 and 1. CalibratedClassifierCV encodes labels for it only if they are strings; numbers are taken for columns of
# the scores as they are. Labels from 1 on thus fit the temperature to the class next to each image's own: the best one for
# that is without bound, and every image gets nearly the same probability for all classes. Nothing warns, and accuracy
# stays as it was. The same labels are fine for the other methods, sigmoid and isotonic.
#
# Seen 2026-11-30 with scikit-learn 1.9.1, NumPy 2.4.6, Python 3.11.7, CPU; 10 digits, the same images and classifier, only
# the names of the classes differ; log loss of the test images (ln 10 is 2.303):
#   temperature, classes 0 to 9: log loss 0.123 before, 0.122 after, accuracy 0.960
#   temperature, classes 1 to 10: log loss 0.123 before, 2.302 after, accuracy 0.960
#   temperature, classes '0' to '9': log loss 0.123 before, 0.122 after, accuracy 0.960
#   sigmoid, classes 0 to 9: log loss 0.123 before, 0.223 after, accuracy 0.958
#   sigmoid, classes 1 to 10: log loss 0.123 before, 0.223 after, accuracy 0.958
#   sigmoid, classes '0' to '9': log loss 0.123 before, 0.223 after, accuracy 0.958
# A guess that fails: "how the classes are named does not matter".
# What works: labels from 0 on without gaps, or strings.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
cat > "$folder/temperature.py" <<'PY'
import sys

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

images, digits = load_digits(return_X_y=True)
fit, calibrate, test = np.array_split(np.random.default_rng(0).permutation(len(digits)), 3)


def losses(labels: np.ndarray, method: str) -> tuple[float, float, float]:
    """Log loss of the test images before and after calibration, and the accuracy after it."""
    model = LogisticRegression(C=100, max_iter=1000).fit(images[fit] / 16, labels[fit])
    calibrated = CalibratedClassifierCV(FrozenEstimator(model), method=method)
    calibrated.fit(images[calibrate] / 16, labels[calibrate])
    before, after = (log_loss(labels[test], each.predict_proba(images[test] / 16)) for each in (model, calibrated))
    return before, after, calibrated.score(images[test] / 16, labels[test])


found = {}
for method in ("temperature", "sigmoid"):
    for name, labels in {"0 to 9": digits, "1 to 10": digits + 1, "'0' to '9'": digits.astype(str)}.items():
        before, after, accuracy = found[method, name] = losses(labels, method)
        print(f"{method}, classes {name}: log loss {before:.3f} before, {after:.3f} after, accuracy {accuracy:.3f}")
right, wrong, text = (found["temperature", name] for name in ("0 to 9", "1 to 10", "'0' to '9'"))
others = [found["sigmoid", name][1] for name in ("0 to 9", "1 to 10")]
ok = right[1] < right[0] and abs(text[1] - right[1]) < 1e-3 and abs(wrong[1] - np.log(10)) < 0.01
sys.exit(not (ok and abs(others[0] - others[1]) < 1e-3 and wrong[2] == right[2]))
PY
"$folder/venv/bin/python" "$folder/temperature.py"
