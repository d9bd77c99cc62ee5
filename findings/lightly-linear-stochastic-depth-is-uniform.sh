#!/usr/bin/env bash
# lightly's update_drop_path_rate gives a ViT of timm stochastic depth; "linear" is documented to grow from 0 to the given rate
# over the depth, as in DeiT, Swin and ConvNeXt, and is the default. It computes those rates, asks of each whether it is above 0,
# and then gives the full rate to every block but the first. "linear" and "uniform" differ in that one block: of a ViT with 12, the
# expected depth falls by twice as much as meant, and nothing warns.
#
# Seen 2026-12-01 with lightly 1.6.0, timm 1.0.31, torch 2.15.0, Python 3.11.7, rate 0.3, rates of the 12 blocks:
#   linear  0.00 0.30 0.30 0.30 0.30 0.30 0.30 0.30 0.30 0.30 0.30 0.30
#   uniform 0.30 0.30 0.30 0.30 0.30 0.30 0.30 0.30 0.30 0.30 0.30 0.30
#   timm    0.00 0.03 0.05 0.08 0.11 0.14 0.16 0.19 0.22 0.25 0.27 0.30
# A guess that fails: "linear is linear".
# What works: timm.create_model(…, drop_path_rate=0.3).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  lightly==1.6.0 pytorch-lightning==2.6.6 timm==1.0.31 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/depth.py" <<'PY'
import sys

import timm
from lightly.models.utils import update_drop_path_rate


def rates(model):
    return [round(getattr(block.drop_path1, "drop_prob", 0.0) or 0.0, 2) for block in model.blocks]


found = {}
for mode in ("linear", "uniform"):
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    update_drop_path_rate(model, 0.3, mode=mode)
    found[mode] = rates(model)
found["timm"] = rates(timm.create_model("vit_tiny_patch16_224", pretrained=False, drop_path_rate=0.3))
for name, values in found.items():
    print(f"{name:8}" + " ".join(f"{value:.2f}" for value in values))
sys.exit(not (found["linear"] == [0.0] + [0.3] * 11 and found["timm"][1] < 0.05))
PY
"$folder/venv/bin/python" "$folder/depth.py"
