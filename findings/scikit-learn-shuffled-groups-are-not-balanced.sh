#!/usr/bin/env bash
# scikit-learn's GroupKFold balances its folds only without shuffle; its documentation says "when shuffle is True". Without,
# each group goes to the fold with fewest samples, the largest first. With shuffle=True (since 1.6) the groups are shuffled
# and cut into equal numbers of groups, whatever their sizes: two of the large groups may fall into one fold, and a fold may
# be left with small ones only. A cross-validation of patients, scenes or cameras with very different numbers of images
# then averages accuracies of hundreds of images and of a handful with equal weight. Nothing warns.
#
# Seen 2026-11-29 with scikit-learn 1.9.1, NumPy 2.4.6, Python 3.11.7, CPU; 5 groups of 100 samples and 5 of 4, 5 folds:
#   the documentation says that shuffled folds are balanced: True
#   shuffle=False: folds of 104 to 104 samples
#   shuffle=True, 20 seeds: folds of 8 to 200 samples; 17 of 20 seeds have one of 8
#   StratifiedGroupKFold, shuffle=True: folds of 100 to 116 samples
# A guess that fails: "shuffle=True changes which groups meet, not how large the folds are".
# What works: StratifiedGroupKFold(shuffle=True), which shuffles and still weighs the groups.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
cat > "$folder/folds.py" <<'PY'
import sys

import numpy as np
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

groups = np.repeat(np.arange(10), 5 * [100, 4])
labels = np.arange(len(groups)) % 2
stated = "approximately the same in each test fold when `shuffle` is True" in " ".join((GroupKFold.__doc__ or "").split())
print("the documentation says that shuffled folds are balanced:", stated)


def sizes(splitter: GroupKFold | StratifiedGroupKFold) -> list[int]:
    return [len(held) for _, held in splitter.split(labels, labels, groups)]


plain = sizes(GroupKFold(5))
print(f"shuffle=False: folds of {min(plain)} to {max(plain)} samples")
shuffled = [sizes(GroupKFold(5, shuffle=True, random_state=seed)) for seed in range(20)]
least, most = min(map(min, shuffled)), max(map(max, shuffled))
small = sum(8 in found for found in shuffled)
print(f"shuffle=True, 20 seeds: folds of {least} to {most} samples; {small} of 20 seeds have one of 8")
weighed = [sizes(StratifiedGroupKFold(5, shuffle=True, random_state=seed)) for seed in range(20)]
print(f"StratifiedGroupKFold, shuffle=True: folds of {min(map(min, weighed))} to {max(map(max, weighed))} samples")
sys.exit(not (stated and max(plain) - min(plain) <= 4 and most - least > 100))
PY
"$folder/venv/bin/python" "$folder/folds.py"
