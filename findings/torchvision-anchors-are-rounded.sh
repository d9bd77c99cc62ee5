#!/usr/bin/env bash
# torchvision's AnchorGenerator rounds half of each anchor's width and height to whole pixels, halves to the even one. At the
# usual 32 pixels and more nobody notices. For small objects, scales that were chosen a third of an octave apart become the
# same anchor, others grow by up to two fifths of their area, and an odd size is never made: of nine anchors asked for, fewer are left,
# each of the doubles trained and scored twice. Nothing warns, and num_anchors_per_location() still says nine.
#
# Seen 2026-11-28 with torchvision 0.29.2, torch 2.15.0 (CPU):
#   RetinaNet's three scales from 32 pixels: 9 asked for, 9 different
#   RetinaNet's three scales from 4 pixels: 9 asked for, 6 different
#   squares asked for 4, 5, 6, 7 pixels wide: 4, 4, 6, 8
# A guess that fails: "an anchor of size 5 and ratio 1 is 5 pixels wide".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2
cat > "$folder/anchors.py" <<'PY'
import sys

from torchvision.models.detection.anchor_utils import AnchorGenerator

different = {}
for size in (32, 4):
    scales = tuple(size * 2 ** (i / 3) for i in range(3))
    generator = AnchorGenerator((scales,), ((0.5, 1.0, 2.0),))
    assert generator.num_anchors_per_location() == [9]
    different[size] = len(generator.cell_anchors[0].unique(dim=0))
    print(f"RetinaNet's three scales from {size} pixels: 9 asked for, {different[size]} different")
squares = AnchorGenerator(((4, 5, 6, 7),), ((1.0,),)).cell_anchors[0]
widths = (squares[:, 2] - squares[:, 0]).int().tolist()
print("squares asked for 4, 5, 6, 7 pixels wide:", ", ".join(map(str, widths)))
sys.exit(not (different[32] == 9 and different[4] < 9 and widths != [4, 5, 6, 7]))
PY
"$folder/venv/bin/python" "$folder/anchors.py"
