#!/usr/bin/env bash
# mapie's top_label_ece is the top-label calibration error of Gupta and Ramdas: an expectation over images, in which a predicted class
# counts as often as it is predicted. mapie divides the sum over classes by how many there are. A handful of images that are predicted
# as a rare class decide the figure.
#
# Seen 2026-12-01 with mapie 1.6.0, scikit-learn 1.8.0, Python 3.11.7; 990 images predicted as class 0 with 0.9, of which 90 % are
# right, and 10 predicted as class 1 with 0.9, of which 50 % are:
#   mapie 0.200   0.99 × 0 + 0.01 × 0.4 = 0.004
# A guess that fails: "it is an average over images".
# What works: the errors of the predicted classes, weighted by how often each is predicted.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  mapie==1.6.0 scikit-learn==1.8.0 numpy==2.4.6
cat > "$folder/ece.py" <<'PY'
import sys

import numpy as np
from mapie.metrics.calibration import top_label_ece

predicted = np.r_[np.zeros(990, int), np.ones(10, int)]
labels = predicted.copy()
labels[:99], labels[990:995] = 1, 0
probabilities = np.where(predicted[:, None] == np.arange(2), 0.9, 0.1)
theirs = float(top_label_ece(labels, probabilities, num_bins=10))
right = sum(
    np.mean(predicted == k) * abs(0.9 - np.mean(labels[predicted == k] == k)) for k in range(2)
)
print(f"mapie {theirs:.3f}   weighted by images {right:.3f}")
sys.exit(not (abs(theirs - 0.2) < 1e-3 and abs(right - 0.004) < 1e-4))
PY
"$folder/venv/bin/python" "$folder/ece.py"
