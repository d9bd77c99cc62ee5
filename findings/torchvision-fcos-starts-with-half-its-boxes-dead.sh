#!/usr/bin/env bash
# torchvision's FCOS predicts a cell's four distances to the sides of its box with a ReLU behind a convolution whose bias
# starts at 0 (the paper has an exponential, which is never 0). In a fresh detector some half of all distances are therefore
# exactly 0, and nearly every cell has such a side, so that its box has no area. Those outputs have no gradient: their
# sides move only as other cells move the shared weights. Nothing warns; the loss is finite and falls. A bias of half a
# level's object size brings all of them to life.
#
# Seen 2026-11-28 with torchvision 0.29.2, torch 2.15.0 (CPU), seeds 0 to 4, a 256x256 image of noise:
#   distances that are exactly 0: 40% to 77% of 5,456
#   cells with at least one: 91% to 100%
#   outputs of the box layer without any gradient: 40% to 77%
#   with a bias of 2: 0%
# A guess that fails: "a fresh FCOS proposes small boxes everywhere and learns from all of them".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2
cat > "$folder/fcos.py" <<'PY'
import sys

import torch
from torchvision.models.detection import fcos_resnet50_fpn


def dead(bias, seed):
    """Shares: of the distances that are 0, of cells with such a one, of the box layer's outputs without gradient."""
    torch.manual_seed(seed)
    model = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    layer = model.head.regression_head.bbox_reg
    torch.nn.init.constant_(layer.bias, bias)
    raw = []
    layer.register_forward_hook(lambda module, inputs, output: (output.retain_grad(), raw.append(output))[0])
    levels = list(model.backbone(torch.randn(1, 3, 256, 256)).values())
    distances = model.head(levels)["bbox_regression"][0]
    distances.sum().backward()  # every output that can learn anything has a gradient of this
    grads = torch.cat([output.grad.flatten() for output in raw])
    return len(distances) * 4, (distances == 0).float().mean(), (distances == 0).any(1).float().mean(), (grads == 0).float().mean()


found = [dead(0.0, seed) for seed in range(5)]
zero, cells, without = ([float(one[i]) for one in found] for i in (1, 2, 3))
print(f"distances that are exactly 0: {min(zero):.0%} to {max(zero):.0%} of {found[0][0]:,}")
print(f"cells with at least one: {min(cells):.0%} to {max(cells):.0%}")
print(f"outputs of the box layer without any gradient: {min(without):.0%} to {max(without):.0%}")
mended = max(float(dead(2.0, seed)[1]) for seed in range(5))
print(f"with a bias of 2: {mended:.0%}")
sys.exit(not (0.3 < sum(zero) / 5 < 0.8 and min(without) > 0.2 and min(cells) > 0.5 and mended == 0))
PY
"$folder/venv/bin/python" "$folder/fcos.py"
