#!/usr/bin/env bash
# torchio holds a 2-D image as a volume one voxel deep, and RandomAffine knows it: it turns such images in their plane alone. It does
# shift them across it. By translation=5, a shift of up to 5 voxels is drawn for the third axis too, and more than half a voxel leaves
# nothing of the only slice: nearly all images, with their label maps, become empty.
#
# Seen 2026-12-01 with torchio 1.2.1, torch 2.15.0, Python 3.11.7; 100 shifts of a full label map of 64×64 pixels by up to 5:
#   translation=5           92 empty
#   translation=(5, 5, 0)    0 empty
# A guess that fails: "2-D images are shifted in 2-D".
# What works: translation=(5, 5, 0).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torchio==1.2.1 torch==2.15.0 numpy==2.4.6
cat > "$folder/shift.py" <<'PY'
import sys

import torch
import torchio


def empty(translation):
    torch.manual_seed(0)
    transform = torchio.RandomAffine(scales=0, degrees=0, translation=translation)
    labels = torchio.LabelMap(tensor=torch.ones(1, 64, 64, 1))
    return sum(not transform(labels).data.any() for _ in range(100))


found = {translation: empty(translation) for translation in (5, (5, 5, 0))}
for translation, count in found.items():
    print(f"translation={translation!s:10} {count:3d} empty")
sys.exit(not (found[5] > 70 and found[5, 5, 0] == 0))
PY
"$folder/venv/bin/python" "$folder/shift.py"
