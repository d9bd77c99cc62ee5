#!/usr/bin/env bash
# torch's FlopCounterMode counts the gradient of a depthwise convolution's weight as that of a dense convolution: too much by
# the number of groups. Forward it is right, and so is the gradient of the input, since a depthwise weight has one input
# channel. The weight's gradient is counted as a convolution of two maps with all their channels, where each channel of one
# meets each of the other. So backward is 1 + C times forward instead of twice, and a network of depthwise convolutions
# seems to spend nearly all of its training in them: a utilization (MFU) from this counter can exceed 100 %, and "training is
# three times the forward pass" seems to hold for a ResNet and to fail for a ConvNeXt.
#
# Seen 2026-11-29 with torch 2.15.0, torchvision 0.29.2, Python 3.11.7, on torch's meta device, one image of 224x224;
# counted GFLOPs:
#   3x3 convolution, 64 channels, groups 1: backward is 2 times forward
#   3x3 convolution, 64 channels, groups 8: backward is 9 times forward
#   3x3 convolution, 64 channels, groups 64: backward is 65 times forward
#   resnet50: forward 8.2, backward 16.1
#   convnext_tiny: forward 8.9, backward 68.6
#   efficientnet_b0: forward 0.8, backward 31.4
# A guess that fails: "what counts the forward pass right counts the backward pass right".
# What works: count the forward pass alone, and take the backward pass for twice that.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2
cat > "$folder/count.py" <<'PY'
import sys

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models


def flops(network: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Forward and backward."""
    counters = [FlopCounterMode(display=False) for _ in range(2)]
    with counters[0]:
        loss = network(x).sum()
    with counters[1]:
        loss.backward()
    return counters[0].get_total_flops(), counters[1].get_total_flops()


torch.set_default_device("meta")  # shapes only
passed = True
for groups in (1, 8, 64):
    x = torch.empty(1, 64, 56, 56, requires_grad=True)
    forward, backward = flops(nn.Conv2d(64, 64, 3, padding=1, groups=groups), x)
    print(f"3x3 convolution, 64 channels, groups {groups}: backward is {backward / forward:.0f} times forward")
    passed &= forward == 2 * 56 * 56 * 9 * 64 * 64 // groups and backward == (1 + groups) * forward
for name, wrong in {"resnet50": False, "convnext_tiny": True, "efficientnet_b0": True}.items():
    forward, backward = flops(models.get_model(name), torch.empty(1, 3, 224, 224))
    print(f"{name}: forward {forward / 1e9:.1f}, backward {backward / 1e9:.1f}")
    passed &= (backward > 7 * forward) == wrong
sys.exit(not passed)
PY
"$folder/venv/bin/python" "$folder/count.py"
