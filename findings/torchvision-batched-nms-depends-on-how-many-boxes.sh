#!/usr/bin/env bash
# torchvision's batched_nms keeps other boxes if there are at most 1000 of them than if there are more. Up to 4000 coordinates on a
# CPU (100,000 on a GPU) it moves each class to a place of its own and suppresses once; beyond, it goes class by class. The move
# is done in the boxes' own float32: class 79 of an image of 20,000 pixels, as satellites and scanners of slides make, lies
# 1,600,000 pixels away, where float32 has steps of 1/8, and boxes of 12 pixels overlap by other shares. The two ways were
# put in as equal. So one more box far away, or a lower threshold of scores, brings back a box that was gone elsewhere.
# Nothing warns. On photographs only pairs that overlap by the threshold to the third digit are concerned, unless there are
# a thousand classes.
#
# Seen 2026-11-30 with torchvision 0.29.2, torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; 10 times 500 pairs of boxes of 6 to 18
# pixels that overlap by about a half, and how many of them come out otherwise than in float64, alone and with 100 more boxes:
#   80 classes, 1333 pixels: 1000 boxes 6, of the same among 1100 0
#   1203 classes, 1333 pixels: 1000 boxes 41, of the same among 1100 0
#   80 classes, 20000 pixels: 1000 boxes 49, of the same among 1100 0
# A guess that fails: "how many boxes there are decides how fast it is, not what it says".
# What works: batched_nms(boxes.double(), scores.double(), classes, threshold).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/nms.py" <<'PY'
import sys

import torch
from torchvision.ops import batched_nms


def kept(boxes, scores, classes, n):
    return {i for i in batched_nms(boxes[:n], scores[:n], classes[:n], 0.5).tolist() if i < 1000}


found = {}
for classes, pixels in ((80, 1333), (1203, 1333), (80, 20_000)):
    off = {1000: 0, 1100: 0}
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        corner = torch.rand(550, 2, generator=generator) * pixels
        size = 6 + 12 * torch.rand(550, 2, generator=generator)
        moved = size[:, :1] * (0.23 + 0.2 * torch.rand(550, 1, generator=generator)) * torch.tensor([1.0, 0.0])
        pairs = [torch.cat([start, start + size], 1) for start in (corner, corner + moved)]
        boxes, scores = torch.stack(pairs, 1).flatten(0, 1), torch.rand(1100, generator=generator)
        kinds = torch.randint(classes, (550,), generator=generator).repeat_interleave(2)
        for n in off:
            exact = kept(boxes.double(), scores.double(), kinds, n)
            off[n] += len(kept(boxes, scores, kinds, n) ^ exact)
    found[classes, pixels] = off
    print(f"{classes} classes, {pixels} pixels: 1000 boxes {off[1000]}, of the same among 1100 {off[1100]}")
none = all(off[1100] == 0 for off in found.values())
sys.exit(not (none and found[80, 1333][1000] < 20 and found[1203, 1333][1000] > 20 and found[80, 20_000][1000] > 20))
PY
"$folder/venv/bin/python" "$folder/nms.py"
