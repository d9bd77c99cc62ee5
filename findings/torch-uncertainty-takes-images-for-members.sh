#!/usr/bin/env bash
# torch-uncertainty's VariationRatio, how much the members of an ensemble disagree about an image, documents its input as (B, N,
# C): images, members, classes, as its Disagreement, MutualInformation and Entropy have it. It swaps the first two axes, so
# members and images change places: what it measures is how much the images of a batch differ from one another. Members that
# agree on everything get 0.5, and without a reduction there is one figure per member. The example in its documentation prints
# the wrong figure too (0.45, where by its own definition it is 0.35). Nothing warns; the shapes fit any batch.
#
# Seen 2026-12-01 with torch-uncertainty 0.13.0, torchmetrics 1.9.0, torch 2.15.0, Python 3.11.7, CPU, two images on which three
# members agree:
#   disagreement 0.00, variation ratio 0.50, of 3 entries; with the axes swapped 0.00, of 2 entries
# A guess that fails: "metrics of one package take the shape that each of them documents".
# What works: VariationRatio().update(probs.transpose(0, 1)).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch-uncertainty==0.13.0 torchmetrics==1.9.0 lightning==2.6.6 rich==13.9.4 timm==1.0.31 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/agree.py" <<'PY'
import sys

import torch
from torch_uncertainty.metrics.classification import Disagreement, VariationRatio

images = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
probs = images[:, None].expand(2, 3, 2)  # images, members, classes: the members agree


def measured(metric, given):
    metric.update(given)
    return metric.compute()


apart = measured(Disagreement(), probs).item()
found = {}
for name, given in (("as documented", probs), ("swapped", probs.transpose(0, 1))):
    ratio = measured(VariationRatio(probabilistic=False), given).item()
    found[name] = ratio, len(measured(VariationRatio(probabilistic=False, reduction=None), given))
(ratio, entries), (swapped, swapped_entries) = found.values()
print(f"disagreement {apart:.2f}, variation ratio {ratio:.2f}, of {entries} entries; "
      f"with the axes swapped {swapped:.2f}, of {swapped_entries} entries")
sys.exit((apart, ratio, entries, swapped, swapped_entries) != (0, 0.5, 3, 0, 2))
PY
"$folder/venv/bin/python" "$folder/agree.py"
