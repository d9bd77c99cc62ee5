#!/usr/bin/env bash
# Composer's layer freezing takes layers out of the training from the first to the last but one, so that their backward passes are
# saved. By layers it means modules without children. A parameter that lies beside children is in none of them: torchvision's
# ConvNeXt keeps its layer scale so, its ViT the class token, the positions and the projections of torch's attention, its Swin the
# tables of relative positions. With all layers frozen, each block's scale still trains, from the first on, and its gradient needs
# the backward pass through every frozen block behind it: the network goes on changing and hardly anything is saved. ResNet freezes
# as documented.
#
# Seen 2026-12-01 with composer 0.32.1, torch 2.7.0, torchvision 0.22.0, Python 3.11.7, freeze_level 1 at the end of a training:
#   resnet50: 2 tensors train: 1 weight, 1 bias
#   convnext_tiny: 20 tensors train: 18 layer_scale, 1 weight, 1 bias
#   vit_b_16: 28 tensors train: 1 class_token, 1 pos_embedding, 12 in_proj_weight, 12 in_proj_bias, 1 weight, 1 bias
#   swin_t: 14 tensors train: 12 relative_position_bias_table, 1 weight, 1 bias
# A guess that fails: "all layers are frozen, so all weights are".
# What works: requires_grad = False by name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check composer==0.32.1 torch==2.7.0 torchvision==0.22.0
cat > "$folder/freeze.py" <<'PY'
import sys
from collections import Counter

import torch
import torchvision
from composer.functional import freeze_layers

found = {}
for name in ("resnet50", "convnext_tiny", "vit_b_16", "swin_t"):
    model = getattr(torchvision.models, name)()
    freeze_layers(model, torch.optim.SGD(model.parameters(), lr=0.1), current_duration=1.0, freeze_start=0.0, freeze_level=1.0)
    kinds = [key.rpartition(".")[2] for key, value in model.named_parameters() if value.requires_grad]
    found[name] = Counter(kinds)
    print(f"{name}: {len(kinds)} tensors train: " + ", ".join(f"{n} {kind}" for kind, n in found[name].items()))
ok = found["resnet50"] == {"weight": 1, "bias": 1} and found["convnext_tiny"]["layer_scale"] == 18
sys.exit(not (ok and found["vit_b_16"]["class_token"] == 1 and found["swin_t"]["relative_position_bias_table"] == 12))
PY
"$folder/venv/bin/python" "$folder/freeze.py"
