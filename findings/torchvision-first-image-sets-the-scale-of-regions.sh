#!/usr/bin/env bash
# The first image that torchvision's Faster or Mask R-CNN sees decides where it looks in all images after it. MultiScaleRoIAlign
# guesses the strides of its maps at the first call, from the map's height over the image's, to the nearest power of two, and
# keeps them. The maps are those of the image padded to a multiple of 32, so for a flat image the guess is twice too
# large, 1/2 for a stride of 4. FasterRCNN makes a strip of 1000x50 pixels 1333 wide and 67 high, which is padded to 96. From
# then on, until the process ends, it pools every region of every image at twice its coordinates. Nothing warns: shapes
# fit, state_dict does not hold the scale, and a flat image that comes second does no harm.
#
# Seen 2026-11-30 with torchvision 0.29.2, torch 2.15.0, Python 3.11.7, CPU; random weights, and maps whose cells hold their own
# position, so that pooling the middle of a region, at (400, 250), gives the place that was looked at (half a cell is 8):
#   after 500x400: scale of the first map 0.25, the middle at (408, 258)
#   after 1000x50: scale of the first map 0.5, the middle at (816, 516)
#   largest difference of the scores of one image: 0.079
# A guess that fails: "in eval mode, what a network says of an image does not depend on those before it".
# What works: one square image before all others.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --disable-pip-version-check --quiet torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/regions.py" <<'PY'
import copy
import sys

import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

torch.manual_seed(0)
torch.set_num_threads(1)
few = {"rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 20, "box_score_thresh": 0.0}  # which makes it quick
model = FasterRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None), 2, **few).eval()
image, strip = torch.rand(3, 400, 500), torch.rand(3, 50, 1000)


def middle(pool: torch.nn.Module) -> tuple[int, ...]:
    """Where the pooling looks for the middle of a region from (200, 100) to (600, 400) in an image of 800x1000."""
    maps = {}
    for level, stride in enumerate((4, 8, 16, 32)):
        y, x = ((torch.arange(-(-side // 32) * 32 // stride) + 0.5) * stride for side in (800, 1000))
        maps[str(level)] = torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]
    region = torch.tensor([[200.0, 100.0, 600.0, 400.0]])
    return tuple(round(place) for place in pool(maps, [region], [(800, 1000)])[0, :, 3, 3].tolist())


found = {}
with torch.no_grad():
    for name, first in {"500x400": image, "1000x50": strip}.items():
        network = copy.deepcopy(model)
        network(first[None])
        pool = network.roi_heads.box_roi_pool
        found[name] = pool.scales[0], middle(pool), network([image])[0]["scores"].sort()[0]
        print(f"after {name}: scale of the first map {found[name][0]}, the middle at {found[name][1]}")
before, after = found.values()
print(f"largest difference of the scores of one image: {(before[2] - after[2]).abs().max():.3f}")
sys.exit(not (before[0] == 0.25 and after[0] == 0.5 and before[1] != after[1] and not before[2].equal(after[2])))
PY
"$folder/venv/bin/python" "$folder/regions.py"
