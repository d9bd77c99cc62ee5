#!/usr/bin/env bash
# pingouin's ttest reports the power of the test beside its p. With paired=True, t and p are those of the differences within
# pairs, but the power is computed from Cohen's d of the two groups as if each pair had nothing in common (d-avg, the mean
# difference over the mean spread), where the noncentrality of a paired test needs the difference over the spread of the differences
# (d-z). Networks trained from the same seeds, or patients before and after, differ much more between pairs than within: a test
# that could not fail is reported to have hardly any power, and a study planned by it becomes far too large.
#
# Seen 2026-12-01 with pingouin 0.7.0, scipy 1.17.1, numpy 2.4.6, Python 3.11.7, 10 pairs, the second 0.5 ± 0.2 above the first, which
# spread by 3:
#   ttest: T 7.1, p 0.00006, d 0.18, power 0.08
#   power_ttest of the differences (d-z 2.2): 1.00; simulated, 4,000 times: 1.00
# A guess that fails: "p = 0.00006 and power = 0.08 cannot stand in one row".
# What works: power_ttest(d=compute_effsize(x, y, paired=True, eftype="cohen_dz"), n=n, contrast="paired").
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pingouin==0.7.0 scipy==1.17.1 numpy==2.4.6 pandas==3.1.1
cat > "$folder/pairs.py" <<'PY'
import sys

import numpy as np
from pingouin import compute_effsize, power_ttest, ttest
from scipy import stats

rng = np.random.default_rng(0)


def draw(*shape):
    first = 3 * rng.standard_normal(shape)
    return first, first + 0.5 + 0.2 * rng.standard_normal(shape)


first, second = draw(10)
row = ttest(second, first, paired=True).iloc[0]
dz = compute_effsize(second, first, paired=True, eftype="cohen_dz")
right = power_ttest(d=dz, n=10, contrast="paired")
simulated = (stats.ttest_rel(*draw(10, 4000)).pvalue < 0.05).mean()
print(f"ttest: T {row['T']:.1f}, p {row['p_val']:.5f}, d {row['cohen_d']:.2f}, power {row['power']:.2f}")
print(f"power_ttest of the differences (d-z {dz:.1f}): {right:.2f}; simulated, 4,000 times: {simulated:.2f}")
sys.exit(not (row["p_val"] < 0.001 and row["power"] < 0.2 and right > 0.99 and simulated > 0.99))
PY
"$folder/venv/bin/python" "$folder/pairs.py"
