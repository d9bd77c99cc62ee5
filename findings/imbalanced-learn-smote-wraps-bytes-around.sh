#!/usr/bin/env bash
# imbalanced-learn's SMOTE makes noise of images of bytes. A new sample of a rare class is to lie on the line between two
# real ones, x + step * (neighbour - x). The difference is taken in the type of the data: in uint8, a pixel that is darker
# by 30 in the neighbour gives not -30 but 226, so the new pixel becomes brighter by a share of 226, and what passes 255
# wraps around when the sample is converted back. The array keeps its type, each value is a valid pixel, and labels and
# counts are right. BorderlineSMOTE does the same; RandomOverSampler(shrinkage=...) and ClusterCentroids go over to floats
# by themselves. Nothing warns.
#
# Seen 2026-11-30 with imbalanced-learn 0.14.2, scikit-learn 1.9.1, NumPy 2.4.6, Python 3.11.7, CPU; scikit-learn's digits
# as 0 to 255, with 20 images of the digit 8 left:
#   SMOTE, 163 new eights; on a line through two real ones: of uint8 0%, of float32 100%; same seed, uint8 against float32: 26 apart on average, 255 at most
#   BorderlineSMOTE, 163 new eights; on a line through two real ones: of uint8 1%, of float32 100%; same seed, uint8 against float32: 26 apart on average, 255 at most
# A guess that fails: "what leaves SMOTE lies between the images that went in".
# What works: SMOTE on images.astype("float32"), rounded back to bytes afterwards.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check imbalanced-learn==0.14.2 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
cat > "$folder/smote.py" <<'PY'
import sys

import numpy as np
from imblearn.over_sampling import SMOTE, BorderlineSMOTE
from sklearn.datasets import load_digits

images, digits = load_digits(return_X_y=True)
images = np.rint(images * 255 / 16)  # 0 to 255, 8 x 8
rare = np.flatnonzero(digits == 8)[20:]
images, digits = np.delete(images, rare, 0), np.delete(digits, rare)
eights = images[digits == 8]  # 20 of them


def between(made: np.ndarray) -> float:
    """The share of new images that lie, to 1 in every pixel, on the line through two real eights."""
    lines = eights[None] - eights[:, None]  # (from, to, pixel)
    found = []
    for image in made:
        offsets = image - eights[:, None]
        steps = (lines * offsets).sum(-1) / np.maximum((lines**2).sum(-1), 1)
        found.append(np.abs(offsets - steps[..., None] * lines).max(-1).min() <= 1)
    return float(np.mean(found))


shares = {}
for sampler in (SMOTE, BorderlineSMOTE):
    new = {}
    for kind in ("uint8", "float32"):
        out, labels = sampler(random_state=0).fit_resample(images.astype(kind), digits)
        made = out[len(images) :][labels[len(images) :] == 8]
        assert out.dtype == kind
        new[kind] = made.astype(float)
        shares[sampler.__name__, kind] = between(new[kind])
    told = ", ".join(f"of {kind} {shares[sampler.__name__, kind]:.0%}" for kind in new)
    apart = np.abs(new["uint8"] - new["float32"])
    print(f"{sampler.__name__}, {len(made)} new eights; on a line through two real ones: {told}; ", end="")
    print(f"same seed, uint8 against float32: {apart.mean():.0f} apart on average, {apart.max():.0f} at most")
sys.exit(any((share > 0.05) if kind == "uint8" else (share < 0.95) for (_, kind), share in shares.items()))
PY
"$folder/venv/bin/python" "$folder/smote.py"
