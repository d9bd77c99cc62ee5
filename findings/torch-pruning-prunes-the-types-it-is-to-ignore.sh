#!/usr/bin/env bash
# Torch-Pruning's pruners take ignored_layers, documented as a list of modules or of types. A type in it is not looked at: with
# ignored_layers=[nn.Linear], the pruner prunes all linear layers, the classifier with them. A network of 1,000 classes then answers
# for 500, which are not those with these numbers before, and nothing warns. In ConvNeXt, whose blocks are mostly linear layers, the
# option does nothing at all.
#
# Seen 2026-12-01 with torch-pruning 1.6.1, torchvision 0.29.2 (convnext_tiny), torch 2.15.0, Python 3.11.7, pruning_ratio 0.5:
#   ignored_layers=[nn.Linear]                classifier 384 → 500, a block's linear layer 48 → 192
#   ignored_layers=[all modules of the type]  classifier 768 → 1000, a block's linear layer 96 → 384
# A guess that fails: "no linear layer is pruned".
# What works: ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear)].
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch-pruning==1.6.1 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/prune.py" <<'PY'
import sys

import torch
import torch_pruning
import torchvision
from torch import nn


def pruned(ignored_of):
    torch.manual_seed(0)
    model = torchvision.models.convnext_tiny(weights=None)
    importance = torch_pruning.importance.MagnitudeImportance()
    torch_pruning.pruner.MagnitudePruner(
        *(model, torch.randn(1, 3, 64, 64), importance), pruning_ratio=0.5, ignored_layers=ignored_of(model)
    ).step()
    layers = model.classifier[2], model.features[1][0].block[3]
    return [(layer.in_features, layer.out_features) for layer in layers]


found = {
    "[nn.Linear]": pruned(lambda model: [nn.Linear]),
    "[all modules of the type]": pruned(lambda model: [m for m in model.modules() if isinstance(m, nn.Linear)]),
}
for ignored, ((a, b), (c, d)) in found.items():
    print(f"ignored_layers={ignored:26} classifier {a} → {b}, a block's linear layer {c} → {d}")
sys.exit(list(found.values()) != [[(384, 500), (48, 192)], [(768, 1000), (96, 384)]])
PY
"$folder/venv/bin/python" "$folder/prune.py"
