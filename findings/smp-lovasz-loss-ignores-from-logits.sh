#!/usr/bin/env bash
# segmentation_models_pytorch's LovaszLoss takes from_logits=False, as the package's other losses do, and does as if it were
# True. Probabilities go through a second softmax (several classes) or are taken for margins of a hinge (two classes). A
# perfect prediction then costs 0.88 of 1 with 21 classes, and as no probabilities can bring it to 0, the loss goes on pulling
# at pixels that are right. DiceLoss, JaccardLoss and TverskyLoss give 0 there, and so does this one with logits. The
# docstring does not list the argument, nothing warns.
#
# Seen 2026-11-30 with segmentation-models-pytorch 0.6.0, torch 2.15.0, torchvision 0.29.2, timm 1.0.31, Python 3.11.7, CPU; the
# loss of a perfect prediction of 2 images of 16x16 pixels:
#   binary, 1 channels, probabilities: DiceLoss 0.00, JaccardLoss 0.00, TverskyLoss 0.00, LovaszLoss 0.48; LovaszLoss of logits: 0.00
#   multiclass, 5 channels, probabilities: DiceLoss 0.00, JaccardLoss 0.00, TverskyLoss 0.00, LovaszLoss 0.60; LovaszLoss of logits: 0.00
#   multiclass, 21 channels, probabilities: DiceLoss 0.00, JaccardLoss 0.00, TverskyLoss 0.00, LovaszLoss 0.88; LovaszLoss of logits: 0.00
#   multiclass, 150 channels, probabilities: DiceLoss 0.00, JaccardLoss 0.00, TverskyLoss 0.00, LovaszLoss 0.98; LovaszLoss of logits: 0.00
# A guess that fails: "losses of one package that take the same argument do the same with it".
# What works: the network without its last activation and from_logits=True, or the logarithm of probabilities of several classes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check segmentation-models-pytorch==0.6.0 torch==2.15.0 torchvision==0.29.2 timm==1.0.31
cat > "$folder/losses.py" <<'PY'
import math
import sys

import torch
from segmentation_models_pytorch import losses

torch.manual_seed(0)
ok = []
for classes in (1, 5, 21, 150):
    if classes == 1:
        mode, labels = "binary", torch.randint(2, (2, 1, 16, 16))
        perfect = labels.float()
        logits = 100 * (2 * perfect - 1)
    else:
        mode, labels = "multiclass", torch.randint(classes, (2, 16, 16))
        perfect = torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()
        logits = 100 * perfect
    found = {}
    for name in ("DiceLoss", "JaccardLoss", "TverskyLoss", "LovaszLoss"):
        found[name] = getattr(losses, name)(mode, from_logits=False)(perfect.clone(), labels).item()
    raw = losses.LovaszLoss(mode)(logits, labels).item()
    text = ", ".join(f"{name} {loss:.2f}" for name, loss in found.items())
    print(f"{mode}, {classes} channels, probabilities: {text}; LovaszLoss of logits: {raw:.2f}")
    lovasz = found.pop("LovaszLoss")
    if classes > 1:  # by hand: after a second softmax every pixel is wrong by the same amount
        again = 1 - math.e / (math.e + classes - 1)
        ok.append(abs(lovasz - again) < 1e-3)
    ok += [lovasz > 0.4, max(found.values()) < 1e-3, raw < 1e-3]
sys.exit(not all(ok))
PY
"$folder/venv/bin/python" "$folder/losses.py"
