#!/usr/bin/env bash
# Three of Captum's methods change what passes an activation backwards: DeepLift, GuidedBackprop and Deconvolution. In a
# network of GELU, such as ConvNeXt or a ViT, or of SiLU, such as EfficientNet, none of them changes anything.
# GuidedBackprop and Deconvolution return the plain gradient bit by bit, and DeepLift the gradient times the distance
# from the baseline, so that its sum is not the difference of the two outputs, which is what DeepLift is for. The first
# two know nn.ReLU alone; DeepLift's table lacks GELU, SiLU, Hardswish and ReLU6. What they do not know they pass over,
# and the warning is the same as ever ("Setting backward hooks on ReLU activations"). A study of these methods on such
# networks compares one map with itself.
#
# Seen 2026-11-30 with captum 0.9.0, timm 1.0.31, torch 2.15.0, Python 3.11.7, CPU; random weights, image and baseline.
# Whether a method's map is that of the plain gradient (the ResNet's sum is off for another reason:
# captum-deeplift-skips-a-rule-beside-another.sh):
#   resnet18: GuidedBackprop False, Deconvolution False, DeepLift False; DeepLift's sum -0.055, difference -0.0042
#   convnext_atto: GuidedBackprop True, Deconvolution True, DeepLift True; DeepLift's sum 0.13, difference -0.16
#   vit_tiny_patch16_224: GuidedBackprop True, Deconvolution True, DeepLift True; DeepLift's sum 0.088, difference 0.073
#   efficientnet_b0: GuidedBackprop True, Deconvolution True, DeepLift True; DeepLift's sum 1.5e-05, difference -4.4e-05
# A guess that fails: "a method that cannot treat a network's activations says so".
# What works: IntegratedGradients, which asks nothing of the activations.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check captum==0.9.0 timm==1.0.31 torch==2.15.0 torchvision==0.29.2
cat > "$folder/attribute.py" <<'PY'
import sys
import warnings

import timm
import torch
from captum.attr import Deconvolution, DeepLift, GuidedBackprop, Saliency

warnings.filterwarnings("ignore")
passed = True
for name in ("resnet18", "convnext_atto", "vit_tiny_patch16_224", "efficientnet_b0"):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10).eval()
    for module in network.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            module.inplace = False
    image, baseline = torch.randn(2, 1, 3, 224, 224)
    gradient = Saliency(network).attribute(image, target=0, abs=False)
    plain = gradient * (image - baseline)
    lifted = DeepLift(network).attribute(image, baseline, target=0)
    same = torch.allclose(lifted, plain, rtol=0, atol=1e-4 * plain.abs().max().item())
    guided, deconvolved = (
        torch.equal(method(network).attribute(image, target=0), gradient) for method in (GuidedBackprop, Deconvolution)
    )
    difference = (network(image) - network(baseline))[0, 0].item()
    print(f"{name}: GuidedBackprop {guided}, Deconvolution {deconvolved}, DeepLift {same}", end="; ")
    print(f"DeepLift's sum {lifted.sum().item():.2g}, difference {difference:.2g}")
    passed &= {same, guided, deconvolved} == {name != "resnet18"}
sys.exit(not passed)
PY
"$folder/venv/bin/python" "$folder/attribute.py"
