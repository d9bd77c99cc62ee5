#!/usr/bin/env bash
# MONAI's FocalLoss(use_softmax=True, include_background=False) is documented to leave the background out of the loss. It leaves the
# background's channel out before the softmax. Of two classes, one channel remains, whose softmax is 1: the loss is exactly 0, as is
# its gradient, and the network does not train. Of more classes, background pixels teach nothing. DiceLoss of the same package takes
# the softmax first.
#
# Seen 2026-12-01 with monai 1.6.1, torch 2.15.0, Python 3.11.7; random logits:
#               MONAI    of the softmax's other channels
#   2 classes   0.0000   0.2658
#   3 classes   0.1661   0.3373
# A guess that fails: "without the background's term".
# What works: include_background=True, reduction="none", and the mean of [:, 1:].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  monai==1.6.1 torch==2.15.0 numpy==2.4.6
cat > "$folder/focal.py" <<'PY'
import sys

import torch
from monai.losses import FocalLoss

print("            MONAI    of the softmax's other channels")
found = []
for classes in (2, 3):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, classes, 8, 8), torch.randint(0, classes, (2, 1, 8, 8))
    given = {"to_onehot_y": True, "use_softmax": True}
    theirs = float(FocalLoss(**given, include_background=False)(logits, labels))
    right = float(FocalLoss(**given, reduction="none")(logits, labels)[:, 1:].mean())
    found.append((theirs, right))
    print(f"{classes} classes   {theirs:.4f}   {right:.4f}")
sys.exit(not (found[0][0] == 0 and found[0][1] > 0.2 and found[1][1] > 1.5 * found[1][0]))
PY
"$folder/venv/bin/python" "$folder/focal.py"
