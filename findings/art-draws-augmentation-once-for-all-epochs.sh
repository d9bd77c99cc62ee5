#!/usr/bin/env bash
# The adversarial robustness toolbox has Cutout, Mixup and CutMix as "data augmentation" to be given to a classifier. Its fit() applies
# them once, to all images, before the first epoch: every epoch sees the same cut-outs, and Mixup and CutMix draw one λ for the whole
# training. CutMix's labels moreover keep the λ that was drawn where its box was cut off at the border.
#
# Seen 2026-12-01 with adversarial-robustness-toolbox 1.20.1, torch 2.15.0, Python 3.11.7; 32 images, 20 epochs:
#   CutoutPyTorch   640 images shown, 32 of them different
#   MixupPyTorch    640 images shown, 32 of them different
#   CutMixPyTorch   640 images shown, 32 of them different
# A guess that fails: "augmentation is drawn anew for each batch".
# What works: augmentation in the data loader (torchvision.transforms.v2), and a plain training loop.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  adversarial-robustness-toolbox==1.20.1 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 requests packaging
cat > "$folder/augment.py" <<'PY'
import sys

import numpy as np
import torch
from art.defences.preprocessor import CutMixPyTorch, CutoutPyTorch, MixupPyTorch
from art.estimators.classification import PyTorchClassifier


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.seen = torch.nn.Linear(3072, 4), []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.linear(x.flatten(1))


np.random.seed(0)
torch.manual_seed(0)
images = np.random.rand(32, 3, 32, 32).astype("float32")
labels = np.eye(4, dtype="float32")[np.random.randint(0, 4, 32)]
found = []
for defence in (
    CutoutPyTorch(8, channels_first=True, device_type="cpu"),
    MixupPyTorch(4, device_type="cpu"),
    CutMixPyTorch(4, probability=1.0, channels_first=True, device_type="cpu"),
):
    network = Network()
    classifier = PyTorchClassifier(
        *(network, torch.nn.CrossEntropyLoss(), (3, 32, 32), 4),
        optimizer=torch.optim.SGD(network.parameters(), 0.1), preprocessing_defences=defence, device_type="cpu",
    )
    network.seen.clear()
    classifier.fit(images, labels, batch_size=8, nb_epochs=20)
    shown = torch.cat(network.seen).flatten(1)
    found.append((len(shown), len(torch.unique(shown, dim=0))))
    print(f"{type(defence).__name__:15} {found[-1][0]} images shown, {found[-1][1]} of them different")
sys.exit(found != [(640, 32)] * 3)
PY
"$folder/venv/bin/python" "$folder/augment.py"
