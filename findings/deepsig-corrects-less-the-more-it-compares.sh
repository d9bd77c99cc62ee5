#!/usr/bin/env bash
# deepsig's Bonferroni correction grows weaker with the number of comparisons. aso(num_comparisons=n) and multi_aso, which
# corrects by default, raise the confidence level from 0.95 by 0.05 / n: to 0.975 for two comparisons, where Bonferroni has
# 0.975 too, and to 0.9505 for 100, where it has 0.9995. So who compares many models corrects nothing, and the more, the
# less. With one comparison the same formula gives a level of 1, so multi_aso of two models answers 1, "not better", however
# far apart they are, where aso answers 0. The documentation calls it Bonferroni. Nothing warns.
#
# Seen 2026-11-30 with deepsig 1.2.8, NumPy 2.4.6, SciPy 1.17.1, Python 3.11.7; ten scores of each model, the bound of the
# violation ratio, below 0.5 or, more strictly, 0.2 where the first is better:
#   num_comparisons: bound of aso, and by Bonferroni's level
#       1: 0.096, 0.096
#       2: 0.114, 0.114
#      10: 0.099, 0.150
#     100: 0.096, 0.191
#   models: bound of multi_aso for the first, two points better, against the second
#      2: 1.000
#      3: 0.000
#      6: 0.000
#     10: 0.000
#     aso of these two: 0.000
# A guess that fails: "use_bonferroni=True guards against finding a difference among many models by chance".
# What works: aso(a, b, confidence_level=1 - 0.05 / n) for each pair.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check deepsig==1.2.8 numpy==2.4.6 scipy==1.17.1 pandas==2.3.3
cat > "$folder/compare.py" <<'PY'
import sys

import numpy as np
from deepsig import aso, multi_aso

draw = np.random.default_rng(0)
options = dict(seed=1, num_bootstrap_iterations=500, dt=0.01, show_progress=False)
a, b = draw.normal(80.3, 1, 10), draw.normal(80, 1, 10)
print("num_comparisons: bound of aso, and by Bonferroni's level")
found, right = [], []
for count in (1, 2, 10, 100):
    found.append(aso(a, b, num_comparisons=count, **options))
    right.append(aso(a, b, confidence_level=1 - 0.05 / count, **options))
    print(f"  {count:3d}: {found[-1]:.3f}, {right[-1]:.3f}")
best = list(draw.normal(82, 1, 10))
others = [list(draw.normal(80, 1, 10)) for _ in range(9)]
print("models: bound of multi_aso for the first, two points better, against the second")
many = []
for count in (2, 3, 6, 10):
    bounds = multi_aso([best, *others[: count - 1]], **options)
    many.append(bounds[0, 1])
    print(f"  {count:2d}: {many[-1]:.3f}")
print(f"  aso of these two: {aso(best, others[0], **options):.3f}")
sys.exit(not (found[1] > found[2] > found[3] and abs(found[3] - found[0]) < 0.01 and right == sorted(right) and many[0] == 1 and max(many[1:]) < 0.1))
PY
"$folder/venv/bin/python" "$folder/compare.py"
