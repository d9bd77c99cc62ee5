#!/usr/bin/env bash
# sahi loses whole objects while it merges boxes. Its merging is to unite boxes "instead of discarding overlapping boxes".
# Which boxes belong to a kept one is found first, from the boxes as they came. Then they are united one by one, each time
# asking again whether the next one overlaps the box as it has grown by then. One that no longer does is not united, and
# not put back either: it is in no output. By default (GREEDYNMM by IOS of 0.5) a box around the best one is lost if a
# neighbour is united before it, or the neighbour is lost if it comes second, so that scores decide which car is found.
# NMM, which also unites boxes that only touch through a third one, loses a second car to a small box between the two.
# Nothing warns; recall falls where objects are dense.
#
# Seen 2026-11-30 with sahi 0.12.8, NumPy 2.4.6, shapely 2.2.0, Python 3.11.7, CPU:
#   a car, a part of it, a neighbour at 0.6
#     GREEDYNMM: 1 boxes left; share of the two cars within a box 100 % and 28 %
#     NMM: 1 boxes left; share of the two cars within a box 100 % and 28 %
#     NMS by IOU: 3 boxes left; share of the two cars within a box 100 % and 100 %
#   a car, a part of it, a neighbour at 0.8
#     GREEDYNMM: 1 boxes left; share of the two cars within a box 11 % and 100 %
#     NMM: 1 boxes left; share of the two cars within a box 100 % and 28 %
#     NMS by IOU: 3 boxes left; share of the two cars within a box 100 % and 100 %
#   two cars, a small box between them
#     GREEDYNMM: 2 boxes left; share of the two cars within a box 100 % and 100 %
#     NMM: 1 boxes left; share of the two cars within a box 100 % and 10 %
#     NMS by IOU: 3 boxes left; share of the two cars within a box 100 % and 100 %
# A guess that fails: "after a merge, each box lies in one that is left".
# What works: postprocess_type="NMS" with postprocess_match_metric="IOU", which discards only what overlaps a box that is
# left.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check sahi==0.12.8 opencv-python==5.0.0.93 shapely==2.2.0 numpy==2.4.6
cat > "$folder/merge.py" <<'PY'
import sys

from sahi.postprocess.combine import GreedyNMMPostprocess, NMMPostprocess, NMSPostprocess
from sahi.prediction import ObjectPrediction

Box = tuple[int, int, int, int]


def merged(merger: NMMPostprocess | NMSPostprocess, found: dict[Box, float]) -> list[Box]:
    """What is left of boxes of one class, with their scores, as get_sliced_prediction merges them."""
    made = [
        ObjectPrediction(bbox=[float(v) for v in box], score=score, category_id=0, category_name="car", full_shape=[800, 800])
        for box, score in found.items()
    ]
    return [tuple(round(v) for v in one.bbox.to_xyxy()) for one in merger(made)]


def kept(box: Box, boxes: list[Box]) -> float:
    """The largest share of a box that lies in one of the others."""
    left, top, right, bottom = box
    shares = [max(0, min(right, c) - max(left, a)) * max(0, min(bottom, d) - max(top, b)) for a, b, c, d in boxes]
    return max(shares) / ((right - left) * (bottom - top))


settings = {"match_threshold": 0.5, "match_metric": "IOS", "class_agnostic": False}  # the defaults of get_sliced_prediction
mergers = {
    "GREEDYNMM": GreedyNMMPostprocess(**settings),
    "NMM": NMMPostprocess(**settings),
    "NMS by IOU": NMSPostprocess(**settings | {"match_metric": "IOU"}),
}
whole, part, neighbour = (300, 250, 600, 550), (300, 300, 400, 400), (155, 300, 355, 400)
first, small, second = (100, 100, 300, 400), (280, 200, 310, 240), (290, 100, 490, 400)
ok = True
for scene, found, cars, expected in (
    ("a car, a part of it, a neighbour at 0.6", {part: 0.9, whole: 0.7, neighbour: 0.6}, (whole, neighbour), (28, 28, 100)),
    ("a car, a part of it, a neighbour at 0.8", {part: 0.9, whole: 0.7, neighbour: 0.8}, (whole, neighbour), (11, 28, 100)),
    ("two cars, a small box between them", {first: 0.9, small: 0.8, second: 0.7}, (first, second), (100, 10, 100)),
):
    print(scene)
    for (name, merger), least in zip(mergers.items(), expected, strict=True):
        left = merged(merger, found)
        shares = [round(100 * kept(car, left)) for car in cars]
        print(f"  {name}: {len(left)} boxes left; share of the two cars within a box {shares[0]} % and {shares[1]} %")
        ok &= min(shares) == least
sys.exit(not ok)
PY
"$folder/venv/bin/python" "$folder/merge.py"
