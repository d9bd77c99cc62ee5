#!/usr/bin/env bash
# torchinfo counts the multiply-adds of a convolution at every place of its output, and those of a linear layer once per
# image, however many places or tokens it is applied to. So a 1x1 convolution and the linear layer that computes the same
# numbers are 3,136 times apart on a map of 56x56. Networks of convolutions are counted right, which is where one looks first;
# a ConvNeXt, whose blocks are linear layers over the channels, gets a fourteenth of its cost, a Swin a seventieth, and a ViT-S
# seems to cost little more than a small MobileNet. Attention's own products are no layers and are not counted either. The
# figure is called "Total mult-adds" in all cases.
#
# Seen 2026-11-30 with torchinfo 1.8.0, timm 1.0.31, torch 2.15.0, Python 3.11.7, CPU; one image of 224x224, billions:
#   96 to 384 channels on 56x56, the same results: True; convolution 115,605,504, linear layer 36,864
#   resnet18: torchinfo 1.814, torch 1.814
#   mobilenetv3_small_100: torchinfo 0.057, torch 0.057
#   convnext_tiny: torchinfo 0.322, torch 4.456
#   swin_tiny_patch4_window7_224: torchinfo 0.063, torch 4.491
#   vit_small_patch16_224: torchinfo 0.080, torch 4.599
# A guess that fails: "two layers with the same weights and the same results have the same multiply-adds".
# What works: torch.utils.flop_counter on the meta device, halved.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torchinfo==1.8.0 timm==1.0.31 torch==2.15.0 torchvision==0.29.2
cat > "$folder/count.py" <<'PY'
import sys

import timm
import torch
import torchinfo
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def counts(network: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """By torchinfo, and by torch on the meta device."""
    found = torchinfo.summary(network.eval(), input_data=x, verbose=0).total_mult_adds
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network.to("meta")(x.to("meta"))
    return found, counter.get_total_flops() // 2


torch.manual_seed(0)
maps = torch.randn(1, 96, 56, 56)
convolution, linear = nn.Conv2d(96, 384, 1, bias=False), nn.Linear(96, 384, bias=False)
linear.weight.data = convolution.weight.data[:, :, 0, 0].clone()
same = torch.allclose(linear(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), convolution(maps), atol=1e-4)
(conv, conv_true), (line, line_true) = counts(convolution, maps), counts(linear, maps.permute(0, 2, 3, 1))
print(f"96 to 384 channels on 56x56, the same results: {same}; convolution {conv:,}, linear layer {line:,}")
passed = same and conv == conv_true == line_true and line * 56 * 56 == conv
right = "resnet18", "mobilenetv3_small_100"
for name in (*right, "convnext_tiny", "swin_tiny_patch4_window7_224", "vit_small_patch16_224"):
    found, true = counts(timm.create_model(name), torch.zeros(1, 3, 224, 224))
    print(f"{name}: torchinfo {found / 1e9:.3f}, torch {true / 1e9:.3f}")
    passed &= (0.9 < found / true < 1.1) if name in right else found / true < 0.1
sys.exit(not passed)
PY
"$folder/venv/bin/python" "$folder/count.py"
