#!/usr/bin/env bash
# Captum's Grad-CAM of the last stage, before its ReLU: for a ResNet the map's pixels add up to the class's logit (less the
# classifier's bias), for a ConvNeXt they add up to zero, for every image, class and set of weights. ConvNeXt has a layer norm
# between pooling and classifier, which undoes any scaling, so that the gradient is orthogonal to the pooled features.
# Evidence that dominates the image cancels itself: whatever the ReLU keeps is balanced by as much that it cuts away.
# Nothing warns; the map has the right shape and looks like any other. Holding the norm's deviation constant mends it.
#
# Seen 2026-11-28 with captum 0.9.0, timm 1.0.31, torch 2.15.0 (CPU), random weights and images:
#   resnet18 sum of the map is the logit; it is not zero within 0.1 % of the map's absolute values
#   convnext_atto sum of the map is not the logit; it is zero within 0.1 % of the map's absolute values
# A guess that fails: "Grad-CAM of the last stage shows how much each place adds to the logit, as in a ResNet".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 timm==1.0.31 captum==0.9.0
cat > "$folder/cam.py" <<'PY'
import sys

import timm
import torch
from captum.attr import LayerGradCam

shares = {}
for name, layer in (("resnet18", "layer4"), ("convnext_atto", "stages")):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    images = torch.randn(3, 3, 224, 224)
    maps = LayerGradCam(model, getattr(model, layer)).attribute(images, 7).detach()
    logits = model(images)[:, 7].detach() - model.get_classifier().bias[7].detach()
    sums, kept = maps.sum((1, 2, 3)), maps.abs().sum((1, 2, 3))
    shares[name] = (sums.abs() / kept).max().item(), (sums - logits).abs().max().item() < 1e-3 * logits.abs().max().item()
    print(name, "sum of the map is", "the logit" if shares[name][1] else "not the logit", end="; ")
    print("it is", "zero" if shares[name][0] < 1e-3 else "not zero", "within 0.1 % of the map's absolute values")
right = shares["resnet18"][1] and shares["resnet18"][0] > 0.05
sys.exit(not (right and not shares["convnext_atto"][1] and shares["convnext_atto"][0] < 1e-3))
PY
"$folder/venv/bin/python" "$folder/cam.py"
