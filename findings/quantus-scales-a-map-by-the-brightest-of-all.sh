#!/usr/bin/env bash
# Quantus's metrics normalize heat maps before they measure them (`normalise=True`, by the largest absolute value), and do so for
# all images that are given at once: each map is divided by the largest value of any of them. Metrics with a threshold, such as
# EffectiveComplexity (how many pixels matter) or NonSensitivity, then say of an image what depends on the others: beside one map
# in other units, as gradients of a sure and an unsure image are, all the rest counts as zero. Computed in other batches, the same
# maps score differently.
#
# Seen 2026-12-01 with quantus 0.6.0, numpy 2.4.6, Python 3.11.7, two maps of 64 pixels with equal proportions, one 10,000 times the
# other:
#   each by itself: 64 and 64 pixels matter; both together: 64 and 0
#   normalise_axes of one image: 64 and 64
# A guess that fails: "normalising a map makes its scale meaningless".
# What works: normalise_func_kwargs={"normalise_axes": (1, 2, 3)}.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  quantus==0.6.0 numpy==2.4.6 pandas==3.1.1 scikit-image==0.26.0 opencv-python==5.0.0.93 torch==2.15.0
cat > "$folder/scale.py" <<'PY'
import sys
import warnings

warnings.simplefilter("ignore")
import numpy as np
import quantus

one = 0.1 + 0.9 * np.random.default_rng(0).random((1, 1, 8, 8))
maps = np.concatenate([10000 * one, one])


def pixels(which, **settings):
    metric = quantus.EffectiveComplexity(eps=0.01, disable_warnings=True, **settings)
    images, labels = np.ones_like(which), np.zeros(len(which), int)
    return [int(found) for found in metric(model=None, x_batch=images, y_batch=labels, a_batch=which.copy(), channel_first=True)]


alone = pixels(maps[:1]) + pixels(maps[1:])
together, each = pixels(maps), pixels(maps, normalise_func_kwargs={"normalise_axes": (1, 2, 3)})
print("each by itself: {} and {} pixels matter; both together: {} and {}".format(*alone, *together))
print("normalise_axes of one image: {} and {}".format(*each))
sys.exit((alone, together, each) != ([64, 64], [64, 0], [64, 64]))
PY
"$folder/venv/bin/python" "$folder/scale.py"
