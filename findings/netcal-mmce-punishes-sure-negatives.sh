#!/usr/bin/env bash
# netcal's MMCE (maximum mean calibration error) compares each prediction's confidence with whether it is right. For a binary
# classifier it takes the probabilities of class 1, one number per image, and takes these for the confidence, also where class 0 is
# predicted: an image that is rightly given 0.02 counts as right with a confidence of 2 %. A classifier that is never wrong and
# always sure gets 0.49; the same predictions as two columns get 0.02. Its ECE takes both forms and gives the same for both.
#
# Seen 2026-12-01 with netcal 1.4.0, torch 2.15.0, numpy 2.4.6, Python 3.11.7, 200 images, half of each class, all right at 98 %:
#   MMCE: one column 0.49, two columns 0.02
#   ECE: one column 0.02, two columns 0.02
# A guess that fails: "[p] and [1 - p, p] are the same classifier".
# What works: np.column_stack([1 - p, p]).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check netcal==1.4.0 torch==2.15.0 numpy==2.4.6
cat > "$folder/mmce.py" <<'PY'
import sys

import numpy as np
from netcal.metrics import ECE, MMCE

labels = np.arange(200) % 2
p = np.where(labels == 1, 0.98, 0.02)
found = {}
for name, metric in (("MMCE", MMCE()), ("ECE", ECE(10))):
    found[name] = tuple(round(float(metric.measure(x, labels)), 2) for x in (p, np.column_stack([1 - p, p])))
    print(f"{name}: one column {found[name][0]:.2f}, two columns {found[name][1]:.2f}")
sys.exit(not (found["MMCE"][0] > 0.4 and found["MMCE"][1] == 0.02 and found["ECE"] == (0.02, 0.02)))
PY
"$folder/venv/bin/python" "$folder/mmce.py"
