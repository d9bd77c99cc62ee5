#!/usr/bin/env bash
# torch-uncertainty's CrossEntropyMaxSupLoss is a cross-entropy with another penalty on sure answers, and takes `weight`, a
# rescaling weight for each class. Where max_sup is not 0, it multiplies the losses (N, 1) by the weights (K): every image is
# weighted by every class, whatever its own class is. All weights do then is to scale the loss by their mean; a weight on a class
# that no image has counts like any other. With max_sup=0 the same weights weigh classes. `reduction="none"` gives (N, 1) whose
# cross-entropy is the batch's mean for each image.
#
# Seen 2026-12-01 with torch-uncertainty 0.13.0, torch 2.15.0, Python 3.11.7, CPU, two images of the classes 0 and 1 of three:
#   weights 1 9 1: max_sup 0.1 gives 1.8168, max_sup 0 gives 0.5203
#   weights 1 1 9: max_sup 0.1 gives 1.8168, max_sup 0 gives 0.3955
# A guess that fails: "a loss that inherits from nn.CrossEntropyLoss weights classes as it does".
# What works: add the penalty to nn.CrossEntropyLoss(weight=weight) yourself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch-uncertainty==0.13.0 torchmetrics==1.9.0 lightning==2.6.6 rich==13.9.4 timm==1.0.31 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/weigh.py" <<'PY'
import sys

import torch
from torch_uncertainty.losses import CrossEntropyMaxSupLoss

logits, labels = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 1])
found = []
for weights in ([1.0, 9.0, 1.0], [1.0, 1.0, 9.0]):
    one, plain = (CrossEntropyMaxSupLoss(max_sup=m, weight=torch.tensor(weights))(logits, labels).item() for m in (0.1, 0.0))
    print(f"weights {' '.join(f'{w:.0f}' for w in weights)}: max_sup 0.1 gives {one:.4f}, max_sup 0 gives {plain:.4f}")
    found.append((one, plain))
(present, plain_present), (absent, plain_absent) = found
sys.exit(not (abs(present - absent) < 1e-6 and plain_present > plain_absent + 0.1))
PY
"$folder/venv/bin/python" "$folder/weigh.py"
