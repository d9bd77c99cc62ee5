#!/usr/bin/env bash
# grad-cam's AblationCAM is described as zeroing channels and measuring how the score drops. Where a layer has negative values, as in
# every ConvNeXt, it sets the channel to the smallest value less 10,000,000 in its place. The layer norm behind the pooling then sees
# that one channel alone, and the weights no longer depend on the image. In networks without such a norm they grow with the place in
# the batch, as each channel's smallest value is that of those before.
#
# Seen 2026-12-01 with grad-cam 1.5.7, torch 2.15.0, torchvision 0.29.2 (a ConvNeXt of three stages), Python 3.11.7; two images:
#   correlation of the two images' weights   library 1.00   zeroed channels 0.23
#   library's weights with those of zeroed channels: 0.06, 0.14
# A guess that fails: "zero out activations", as the README has it.
# What works: the difference of scores with each channel set to 0, six lines of torch; or GradCAM, HiResCAM.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  grad-cam==1.5.7 torch==2.15.0 torchvision==0.29.2 opencv-python-headless==4.12.0.88 numpy==2.2.6
cat > "$folder/ablation.py" <<'PY'
import sys

import numpy as np
import torch
from pytorch_grad_cam import AblationCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

torch.manual_seed(0)
stages = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, 64, 1), CNBlockConfig(64, None, 1)]
network = ConvNeXt(stages, num_classes=10, layer_scale=1.0).eval()
channels, layer, label = 64, network.features[-1], 3


def library(images):
    cam, found = AblationCAM(network, [layer]), []
    weights = cam.get_cam_weights
    cam.get_cam_weights = lambda *given: found.append(weights(*given)) or found[-1]
    cam(images, [ClassifierOutputTarget(label)])
    return found[0][0]


def zeroed(images):
    with torch.no_grad():
        maps = network.features(images)
        without = maps.repeat(channels, 1, 1, 1)
        without[range(channels), range(channels)] = 0
        score, scores = (network.classifier(network.avgpool(m))[:, label] for m in (maps, without))
        return ((score - scores) / score).numpy()


def correlation(a, b):
    return float(np.corrcoef(a, b)[0, 1])


images = torch.randn(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
theirs, right = ([way(x) for x in images] for way in (library, zeroed))
same = correlation(*theirs), correlation(*right)
print(f"correlation of the two images' weights   library {same[0]:.2f}   zeroed channels {same[1]:.2f}")
agree = [correlation(a, b) for a, b in zip(theirs, right)]
print(f"library's weights with those of zeroed channels: {agree[0]:.2f}, {agree[1]:.2f}")
sys.exit(not (same[0] > 0.99 and same[1] < 0.5 and max(agree) < 0.5))
PY
"$folder/venv/bin/python" "$folder/ablation.py"
