#!/usr/bin/env bash
# MONAI's MeanIoU(ignore_index=…) leaves pixels of that label "excluded from the score". Of one-hot maps, it clears that class's
# channel and no more: what is predicted on those pixels still counts against the classes that were predicted there, as false
# positives. DiceMetric with the same argument leaves them out. ConfusionMatrixMetric does as MeanIoU.
#
# Seen 2026-12-01 with monai 1.6.1, torch 2.15.0, Python 3.11.7; label 2 ignored, and everything right outside of it:
#                           class 0  class 1
#   MeanIoU                 1.000    0.667
#   precision               1.000    0.667
#   Dice                    1.000    1.000
# A guess that fails: "ignored pixels are ignored".
# What works: all zeros in the one-hot label of pixels to be ignored, with an ignore_index that is no class, such as 255.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  monai==1.6.1 torch==2.15.0 numpy==2.4.6
cat > "$folder/ignored.py" <<'PY'
import sys

import torch
from monai.metrics import ConfusionMatrixMetric, DiceMetric, MeanIoU
from monai.networks import one_hot

label = one_hot(torch.tensor([[2, 0, 1, 1]] * 4)[None, None], 3)
prediction = one_hot(torch.tensor([[1, 0, 1, 1]] * 4)[None, None], 3)
precision = ConfusionMatrixMetric(metric_name="precision", reduction="mean_batch", ignore_index=2)
precision(prediction, label)
found = {
    "MeanIoU": MeanIoU(reduction="none", ignore_index=2)(prediction, label).flatten()[:2],
    "precision": precision.aggregate()[0].flatten()[:2],
    "Dice": DiceMetric(reduction="none", ignore_index=2)(prediction, label).flatten()[:2],
}
print(" " * 22, "class 0  class 1")
for name, (first, second) in found.items():
    print(f"{name:22} {first:.3f}    {second:.3f}")
expected = [[1, 0.6667], [1, 0.6667], [1, 1]]
values = torch.stack([value.float() for value in found.values()])
sys.exit(not torch.allclose(values, torch.tensor(expected), atol=1e-3))
PY
"$folder/venv/bin/python" "$folder/ignored.py"
