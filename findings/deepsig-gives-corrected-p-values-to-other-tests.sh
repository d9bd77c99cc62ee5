#!/usr/bin/env bash
# deepsig's bonferroni_correction sorts p-values, corrects them, and puts them back in the wrong places: it indexes the
# corrected values by the order of sorting instead of by its inverse. With two tests both are the same; with three or more the
# smallest corrected value lands on a test that may show nothing, and the one effect there is loses its significance. The
# comment beside the line says that it makes it easier to check which hypotheses can be rejected. It also omits Holm's running
# maximum, so that a larger p can get a smaller corrected one (0.4 stays 0.4 below 0.6).
#
# Seen 2026-11-30 with deepsig 1.2.8, NumPy 2.4.6, statsmodels 0.14.6, Python 3.11.7:
#   [0.001, 0.2, 0.3, 0.4] corrected [0.004, 0.6, 0.6, 0.4] by Holm in statsmodels [0.004, 0.6, 0.6, 0.6]
#   [0.2, 0.3, 0.4, 0.001] corrected [0.4, 0.004, 0.6, 0.6] by Holm in statsmodels [0.6, 0.6, 0.6, 0.004]
#   [0.2, 0.001, 0.3, 0.4] corrected [0.6, 0.004, 0.6, 0.4] by Holm in statsmodels [0.6, 0.004, 0.6, 0.6]
#   2 tests, one of them with p 0.0005: another one gets the smallest corrected p in 0.0% of 1000 orders
#   3 tests, one of them with p 0.0005: another one gets the smallest corrected p in 36.0% of 1000 orders
#   5 tests, one of them with p 0.0005: another one gets the smallest corrected p in 61.5% of 1000 orders
#   13 tests, one of them with p 0.0005: another one gets the smallest corrected p in 85.5% of 1000 orders
# A guess that fails: "the second corrected value belongs to the second test".
# What works: statsmodels' multipletests(p, method="holm"), or scipy.stats.false_discovery_control for the other rate.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check deepsig==1.2.8 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3 statsmodels==0.14.6
cat > "$folder/correct.py" <<'PY'
import sys
from itertools import permutations

import numpy as np
from deepsig import bonferroni_correction
from statsmodels.stats.multitest import multipletests

ok = []
for p in ([0.001, 0.2, 0.3, 0.4], [0.2, 0.3, 0.4, 0.001], [0.2, 0.001, 0.3, 0.4]):
    found, right = bonferroni_correction(np.array(p)), multipletests(p, method="holm")[1]
    print(p, "corrected", [round(float(value), 3) for value in found], "by Holm in statsmodels", [round(float(value), 3) for value in right])
    ok.append(int(np.argmin(found)) == int(np.argmin(p)))
draw = np.random.default_rng(0)
wrong = {}
for tests in (2, 3, 5, 13):
    misplaced = 0
    for _ in range(1000):
        p = draw.uniform(0.2, 0.9, tests)
        p[draw.integers(tests)] = 0.0005
        misplaced += np.argmin(bonferroni_correction(p)) != np.argmin(p)
    wrong[tests] = misplaced / 1000
    print(f"{tests} tests, one of them with p 0.0005: another one gets the smallest corrected p in {wrong[tests]:.1%} of 1000 orders")
sys.exit(not (ok[0] and not ok[1] and wrong[2] == 0 and wrong[3] > 0.2 and wrong[13] > 0.8))
PY
"$folder/venv/bin/python" "$folder/correct.py"
