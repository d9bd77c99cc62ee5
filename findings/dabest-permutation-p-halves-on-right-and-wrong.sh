#!/usr/bin/env bash
# dabest's permutation p-value is documented as the probability of the observed effect "or greater". It counts greater effects alone. On
# right and wrong answers of two networks, most permutations tie with what was observed, and p is about half of what it should be: of two
# equal networks, one in eight comparisons is "significant at 5 %".
#
# Seen 2026-12-01 with dabest 2025.10.20, SciPy 1.15.3, Python 3.11.7; right answers of two networks:
#   of 20: 10 and 16       dabest 0.018   Fisher's exact test 0.096
#   of 100: 60 and 73      dabest 0.037   Fisher's exact test 0.072
#   of 200: 150 and 166    dabest 0.036   Fisher's exact test 0.065
# A guess that fails: "a permutation test is exact".
# What works: scipy.stats.permutation_test, or fisher_exact; for the same images, McNemar's exact test.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  dabest==2025.10.20 scipy==1.15.3 numpy==2.1.3
cat > "$folder/permute.py" <<'PY'
import sys
import warnings

warnings.filterwarnings("ignore")
import numpy as np
from dabest import PermutationTest
from scipy.stats import fisher_exact

found = []
for n, first, second in ((20, 10, 16), (100, 60, 73), (200, 150, 166)):
    x, y = (np.r_[np.ones(right), np.zeros(n - right)] for right in (first, second))
    theirs = float(PermutationTest(x, y, "mean_diff").pvalue)
    exact = float(fisher_exact([[first, n - first], [second, n - second]])[1])
    found.append((theirs, exact))
    print(f"of {n}: {first} and {second}".ljust(22), f"dabest {theirs:.3f}   Fisher's exact test {exact:.3f}")
sys.exit(not all(theirs < 0.7 * exact for theirs, exact in found))
PY
"$folder/venv/bin/python" "$folder/permute.py"
