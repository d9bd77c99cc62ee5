#!/usr/bin/env bash
# Reduced focal loss leaves hard samples, those with a probability below a threshold, as they are, and weighs down the others.
# pytorch-toolbelt's CrossEntropyFocalLoss(reduced_threshold=…) does it the other way round: a sample that is right with 0.9997 keeps
# its whole loss, and one that is wrong as surely counts four times (of threshold 0.5). BinaryFocalLoss of the same package is right.
#
# Seen 2026-12-01 with pytorch-toolbelt 0.8.0, torch 2.15.0, Python 3.11.7; gamma 2, threshold 0.5, factor of the cross entropy:
#                             easy     hard
#   CrossEntropyFocalLoss     1.0000   3.9973
#   BinaryFocalLoss           0.0013   1.0000
# A guess that fails: "the easy ones are reduced".
# What works: BinaryFocalLoss on one-hot targets; or CrossEntropyFocalLoss without reduced_threshold.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  pytorch_toolbelt==0.8.0 torch==2.15.0 torchvision==0.29.2 opencv-python-headless==4.12.0.88 numpy==2.2.6
cat > "$folder/focal.py" <<'PY'
import sys

import torch
import torch.nn.functional as F
from pytorch_toolbelt.losses import BinaryFocalLoss, CrossEntropyFocalLoss

target = torch.tensor([0])
found = {"CrossEntropyFocalLoss": [], "BinaryFocalLoss": []}
for logits in (torch.tensor([[4.0, -4.0]]), torch.tensor([[-4.0, 4.0]])):  # easy, hard
    one_hot = F.one_hot(target, 2)
    plain = F.binary_cross_entropy_with_logits(logits, one_hot.float(), reduction="none").sum()
    found["CrossEntropyFocalLoss"].append(float(CrossEntropyFocalLoss(gamma=2.0, reduced_threshold=0.5)(logits, target) / plain))
    found["BinaryFocalLoss"].append(float(2 * BinaryFocalLoss(gamma=2.0, reduced_threshold=0.5)(logits, one_hot) / plain))
print(" " * 25, "easy     hard")
for name, (easy, hard) in found.items():
    print(f"{name:25} {easy:.4f}   {hard:.4f}")
(a, b), (c, d) = found.values()
sys.exit(not (abs(a - 1) < 0.01 and b > 2 and c < 0.01 and abs(d - 1) < 0.01))
PY
"$folder/venv/bin/python" "$folder/focal.py"
