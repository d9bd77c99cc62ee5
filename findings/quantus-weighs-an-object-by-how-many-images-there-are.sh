#!/usr/bin/env bash
# Quantus's AttributionLocalisation gives the share of a heat map that lies on the object; `weighted=True` multiplies it by the
# object's share of the image, and `max_size` warns of objects that are larger than that share. For the image's size it takes
# x_batch[2:].size, the pixels of all images of the batch but the first two, instead of the pixels of one. The same map then scores
# differently beside other images: infinite where there are two, and the less the more there are.
#
# Seen 2026-12-01 with quantus 0.6.0, numpy 2.4.6, Python 3.11.7, a map that lies wholly on an object of a quarter of the image,
# where the weighted share is 0.25:
#   among 2 images inf; among 3 images 0.25; among 4 images 0.125; among 10 images 0.03125
# A guess that fails: "what a metric says of one image does not depend on the others".
# What works: weighted=False, and weigh yourself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  quantus==0.6.0 numpy==2.4.6 pandas==3.1.1 scikit-image==0.26.0 opencv-python==5.0.0.93 torch==2.15.0
cat > "$folder/weigh.py" <<'PY'
import sys
import warnings

warnings.simplefilter("ignore")
import numpy as np
import quantus

found = {}
for n in (2, 3, 4, 10):
    images, maps, masks = np.ones((n, 1, 8, 8)), np.zeros((n, 1, 8, 8)), np.zeros((n, 1, 8, 8), bool)
    maps[:, 0, 0, 3], masks[:, 0, :2] = 1, True
    metric = quantus.AttributionLocalisation(weighted=True, disable_warnings=True)
    found[n] = float(metric(model=None, x_batch=images, y_batch=np.zeros(n, int), a_batch=maps, s_batch=masks, channel_first=True)[0])
print("; ".join(f"among {n} images {one:.4g}" for n, one in found.items()))
sys.exit(not np.allclose([*found.values()], [np.inf, 0.25, 0.125, 0.03125], rtol=1e-6))
PY
"$folder/venv/bin/python" "$folder/weigh.py"
