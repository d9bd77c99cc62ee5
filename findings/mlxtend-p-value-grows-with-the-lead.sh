#!/usr/bin/env bash
# mlxtend's proportion_difference gives a p-value that grows with the lead of the first model. It is to test whether two
# accuracies differ; its guide rejects "equal performance" where p is below 0.05, or z above 1.96. What it returns is the
# area of the normal distribution to the left of z: half the two-sided p where the second model is better, and nearly 1
# where the first one is. A model that is better by six points is never found better if it is named first. The example of
# the guide, z = -1.754, is significant by p (0.040) and not by z (two-sided 0.079). The package's other tests (mcnemar,
# cochrans_q, the paired t-tests) do not depend on the order. Nothing warns.
#
# Seen 2026-11-30 with mlxtend 0.25.0, SciPy 1.17.1, NumPy 2.4.6, Python 3.11.7; test sets of 1000 images:
#   accuracies 0.87 and 0.90: z -2.105, p 0.018; by hand, two-sided 0.035
#   accuracies 0.90 and 0.87: z +2.105, p 0.982; by hand, two-sided 0.035
#   accuracies 0.90 and 0.90: z +0.000, p 0.500; by hand, two-sided 1.000
#   2000 pairs of models of true accuracies 0.90 and 0.90: p < 0.05 in 5.0%
#   2000 pairs of models of true accuracies 0.93 and 0.87: p < 0.05 in 0.0%
#   2000 pairs of models of true accuracies 0.87 and 0.93: p < 0.05 in 99.8%
# A guess that fails: "the order in which two models are named does not matter to a test of their difference".
# What works: 2 * scipy.stats.norm.sf(abs(z)); for two models on the same images mcnemar, which looks at pairs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlxtend==0.25.0 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
cat > "$folder/proportions.py" <<'PY'
import sys
from math import sqrt

import numpy as np
from mlxtend.evaluate import proportion_difference
from scipy.stats import norm

IMAGES, RUNS = 1000, 2000
found = {}
for first, second in ((0.87, 0.90), (0.90, 0.87), (0.90, 0.90)):
    z, p = proportion_difference(first, second, IMAGES)
    spread = sqrt((first * (1 - first) + second * (1 - second)) / IMAGES)
    by_hand = 2 * norm.sf(abs(first - second) / spread)
    found[first, second] = p
    print(f"accuracies {first:.2f} and {second:.2f}: z {z:+.3f}, p {p:.3f}; by hand, two-sided {by_hand:.3f}")
draw = np.random.default_rng(0)
share = {}
for truth in ((0.90, 0.90), (0.93, 0.87), (0.87, 0.93)):
    pairs = draw.binomial(IMAGES, truth, (RUNS, 2)) / IMAGES
    share[truth] = np.mean([proportion_difference(*pair, IMAGES)[1] < 0.05 for pair in pairs])
    print(f"{RUNS} pairs of models of true accuracies {truth[0]:.2f} and {truth[1]:.2f}: p < 0.05 in {share[truth]:.1%}")
sys.exit(not (found[0.90, 0.87] > 0.95 and share[0.93, 0.87] == 0 and share[0.87, 0.93] > 0.99))
PY
"$folder/venv/bin/python" "$folder/proportions.py"
