#!/usr/bin/env bash
# MONAI's FROC score is the mean sensitivity at ¼ to 8 false positives per image. Its curve leaves out the lowest of the detector's
# probabilities as a threshold. The lesion with that probability is never found: a detector that finds its only lesion, with nothing
# else, scores 0, and one that finds both of two scores ½.
#
# Seen 2026-12-01 with monai 1.6.1, torch 2.15.0, Python 3.11.7; no false positives:
#   1 of 1 lesions found   FROC 0.00
#   2 of 2                 FROC 0.50
#   4 of 4                 FROC 0.75
# A guess that fails: "a perfect detector scores 1".
# What works: one more false positive with the least probability of all, such as 0, in fp_probs: the scores are then 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  monai==1.6.1 torch==2.15.0 numpy==2.4.6
cat > "$folder/froc.py" <<'PY'
import sys

import numpy as np
from monai.metrics import compute_froc_curve_data, compute_froc_score


def score(lesions, false=()):
    found = 0.5 + 0.1 * np.arange(lesions)
    curve = compute_froc_curve_data(np.array(false), found, lesions, num_images=1)
    return float(compute_froc_score(*curve))


values = {lesions: score(lesions) for lesions in (1, 2, 4)}
for lesions, value in values.items():
    print(f"{lesions} of {lesions} lesions found   FROC {value:.2f}")
print("with a false positive of probability 0:", *(f"{score(lesions, [0.0]):.2f}" for lesions in values))
sys.exit(not np.allclose(list(values.values()), [0, 0.5, 0.75]))
PY
"$folder/venv/bin/python" "$folder/froc.py"
