#!/usr/bin/env bash
# segmentation_models_pytorch's SoftCrossEntropyLoss, "Drop-in replacement for torch.nn.CrossEntropyLoss", divides by the pixels
# that it is told to ignore. Their loss is set to 0 and the mean is taken over all, so an image of which a tenth is annotated
# has a tenth of the loss and of the gradient that it has in torch, and a batch of padded or sparsely labelled images trains
# at a lower rate than a full one: each batch at its own. SoftBCEWithLogitsLoss does the same; the package's FocalLoss leaves
# ignored pixels out, as torch does. Nothing warns, and with no ignored pixel all agree.
#
# Seen 2026-11-30 with segmentation-models-pytorch 0.6.0, torch 2.15.0, torchvision 0.29.2, timm 1.0.31, Python 3.11.7, CPU; 2 images
# of 16x16 pixels, 5 classes, random logits and labels:
#   100% annotated: SoftCrossEntropyLoss 1.985, gradient 0.0391
#   100% annotated: torch 1.985, gradient 0.0391
#   100% annotated, one class: SoftBCEWithLogitsLoss 0.852, FocalLoss with gamma 0 0.852, torch 0.852
#   47% annotated: SoftCrossEntropyLoss 0.954, gradient 0.0270
#   47% annotated: torch 2.034, gradient 0.0575
#   47% annotated, one class: SoftBCEWithLogitsLoss 0.412, FocalLoss with gamma 0 0.879, torch 0.879
#   10% annotated: SoftCrossEntropyLoss 0.185, gradient 0.0121
#   10% annotated: torch 1.897, gradient 0.1243
#   10% annotated, one class: SoftBCEWithLogitsLoss 0.074, FocalLoss with gamma 0 0.759, torch 0.759
# A guess that fails: "a drop-in replacement has the same mean".
# What works: reduction="sum" and a division by the number of pixels that count.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check segmentation-models-pytorch==0.6.0 torch==2.15.0 torchvision==0.29.2 timm==1.0.31
cat > "$folder/ignored.py" <<'PY'
import sys

import torch
from segmentation_models_pytorch import losses

torch.manual_seed(0)
logits = torch.randn(2, 5, 16, 16, requires_grad=True)
labels = torch.randint(5, (2, 16, 16))
draw = torch.rand(labels.shape)
ok = []
for share in (0.0, 0.5, 0.9):
    partly = labels.masked_fill(draw < share, 255)
    known = (partly != 255).float().mean().item()
    values = {}
    for name, loss in (
        ("SoftCrossEntropyLoss", losses.SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=255)),
        ("torch", torch.nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=255)),
    ):
        value = loss(logits, partly)
        (gradient,) = torch.autograd.grad(value, logits)
        values[name] = torch.stack([value.detach(), gradient.norm()])
        print(f"{known:.0%} annotated: {name} {value:.3f}, gradient {gradient.norm():.4f}")
    ratio = values["SoftCrossEntropyLoss"] / values["torch"]
    ok.append(bool((ratio - known).abs().max() < 1e-3))
    mask = (labels == 0).float()
    mask[draw < share] = 255
    soft = losses.SoftBCEWithLogitsLoss(ignore_index=255)(logits[:, 0], mask).item()
    focal = losses.FocalLoss("binary", gamma=0.0, ignore_index=255)(logits[:, 0], mask).item()
    true = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0][mask != 255], mask[mask != 255]).item()
    print(f"{known:.0%} annotated, one class: SoftBCEWithLogitsLoss {soft:.3f}, FocalLoss with gamma 0 {focal:.3f}, torch {true:.3f}")
    ok += [abs(soft / true - known) < 1e-3, abs(focal - true) < 1e-3]
sys.exit(not (all(ok) and known < 0.15))
PY
"$folder/venv/bin/python" "$folder/ignored.py"
