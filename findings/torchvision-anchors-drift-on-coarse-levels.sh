#!/usr/bin/env bash
# torchvision lays a level's anchors at steps of the image's size // the map's size, which is not the level's stride where the
# map was rounded up. Images are padded to multiples of 32, but P6 and P7 have strides of 64 and 128: of 800 pixels P7 has 7
# rows, and its anchors go down by 114. Each row lies further above what its cells see, with RetinaNet and FCOS by 84 pixels at
# the last row of the usual 800x1344, and nothing large is expected at the lower and right edges. How far depends on the
# padded size, so a network that is trained on several sizes is told other places for the same cell. Nothing warns.
#
# Seen 2026-11-30 with torchvision 0.29.2, torch 2.15.0, Python 3.11.7, CPU; an image's height and width, the steps down and
# across, and how much further off the last cell's anchor is than the first one's, of cells that do not touch the padding;
# where a cell looks is the middle of its gradient:
#   800x1344, P5: steps 32 and 32, off by +0 and +0
#   800x1344, P6: steps 61 and 64, off by -30 and +0
#   800x1344, P7: steps 114 and 122, off by -56 and -48
#   896x1408, P5: steps 32 and 32, off by +0 and +0
#   896x1408, P6: steps 64 and 64, off by +0 and +0
#   896x1408, P7: steps 128 and 128, off by +0 and +0
# A guess that fails: "an anchor lies over its cell".
# What works: sides that are multiples of 128, by GeneralizedRCNNTransform(..., size_divisible=128).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --disable-pip-version-check --quiet torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/drift.py" <<'PY'
import sys

import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

torch.set_num_threads(1)
# In place of a backbone a mean over 32x32 pixels, then torchvision's P6 and P7 with even weights.
last = LastLevelP6P7(1, 1)
for convolution in (last.p6, last.p7):
    nn.init.ones_(convolution.weight)
    nn.init.zeros_(convolution.bias)


def drift(height: int, width: int) -> dict[str, tuple[list[int], list[int]]]:
    """Of P5 to P7, down and across: the steps, and how much further off the last inner cell's anchor is than the first's."""
    image = torch.ones(1, 1, height, width, requires_grad=True)
    p5 = nn.functional.avg_pool2d(image, 32)
    maps = dict(zip(("P5", "P6", "P7"), last([p5], [p5], ["5"])[0], strict=True))
    generator = AnchorGenerator(((128,), (256,), (512,)), ((1.0,),) * 3)
    anchors = generator(ImageList(image, [(height, width)]), list(maps.values()))[0]
    found = {}
    for (name, level), boxes in zip(maps.items(), anchors.split([m.numel() for m in maps.values()]), strict=True):
        rows, columns = level.shape[-2:]
        places = ((boxes[:, :2] + boxes[:, 2:]) / 2).view(rows, columns, 2).flip(-1)
        off = []
        for row, column in ((1, 1), (rows - 2, columns - 2)):
            seen = torch.autograd.grad(level[0, 0, row, column], image, retain_graph=True)[0][0, 0].nonzero().float()
            off.append(places[row, column] - (seen.amin(0) + seen.amax(0) + 1) / 2)
        found[name] = (places[1, 1] - places[0, 0]).int().tolist(), (off[1] - off[0]).int().tolist()
    return found


found = {size: drift(*size) for size in ((800, 1344), (896, 1408))}
for (height, width), levels in found.items():
    for name, (steps, off) in levels.items():
        print(f"{height}x{width}, {name}: steps {steps[0]} and {steps[1]}, off by {off[0]:+} and {off[1]:+}")
right = all(off == [0, 0] for _, off in found[896, 1408].values())
sys.exit(not (right and found[800, 1344]["P7"] == ([114, 122], [-56, -48])))
PY
"$folder/venv/bin/python" "$folder/drift.py"
