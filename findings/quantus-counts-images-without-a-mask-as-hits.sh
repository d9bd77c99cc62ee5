#!/usr/bin/env bash
# Quantus's PointingGame asks whether a heat map's highest pixel lies on the object. An image without a mask has no answer, and the
# code says NaN for it, as the other localisation metrics do (RelevanceRankAccuracy gives NaN and warns). But its answers are an
# array of bool, where NaN becomes True: each image without a mask counts as a hit, and without a warning. In a data set
# of which some images have no annotations, the score rises with every one of them.
#
# Seen 2026-12-01 with quantus 0.6.0, numpy 2.4.6, Python 3.11.7, three maps with their peak in the first row:
#   PointingGame: on the object True, beside it False, without a mask True
#   RelevanceRankAccuracy: on the object 1.0, beside it 0.0, without a mask nan
# A guess that fails: "what cannot be measured is NaN".
# What works: leave images without a mask out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  quantus==0.6.0 numpy==2.4.6 pandas==3.1.1 scikit-image==0.26.0 opencv-python==5.0.0.93 torch==2.15.0
cat > "$folder/point.py" <<'PY'
import sys
import warnings

warnings.simplefilter("ignore")
import numpy as np
import quantus

images, labels = np.random.default_rng(0).random((3, 1, 8, 8)), np.zeros(3, int)
maps, masks = np.zeros((3, 1, 8, 8)), np.zeros((3, 1, 8, 8), bool)
maps[:, 0, 0, 3] = 1
masks[0, 0, :2] = masks[1, 0, 6:] = True  # a quarter of the first, another one of the second, none of the third


def measured(metric):
    return metric(model=None, x_batch=images, y_batch=labels, a_batch=maps, s_batch=masks, channel_first=True)


hits = measured(quantus.PointingGame(disable_warnings=True))
ranks = measured(quantus.RelevanceRankAccuracy(disable_warnings=True))
for name, found in (("PointingGame", hits), ("RelevanceRankAccuracy", ranks)):
    print(f"{name}: on the object {found[0]}, beside it {found[1]}, without a mask {found[2]}")
sys.exit(not ([bool(one) for one in hits] == [True, False, True] and np.isnan(ranks[2])))
PY
"$folder/venv/bin/python" "$folder/point.py"
