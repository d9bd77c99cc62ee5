#!/usr/bin/env bash
# torchmetrics' ranking loss and coverage error of several labels per image count the labels that ignore_index is to leave out.
# An ignored label becomes a very low score. The ranking loss asks how many pairs of a right and a wrong label stand in the
# wrong order, and takes ignored ones for wrong labels that are ranked last: pairs that are always in order. Scores by
# chance, whose loss is 0.5, come down to 0.23 where 40 % is not annotated. Coverage error takes them for right labels, and
# nearly all images then need all labels, more than they have annotated. Average precision by rank, the third of the three,
# leaves them out. So with partly annotated images (CheXpert, Open Images) the loss says how much is missing. Nothing warns.
#
# Seen 2026-11-30 with torchmetrics 1.9.0, scikit-learn 1.9.1, torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; 2000 images, 8 labels,
# scores by chance, 40 % of the labels ignored; scikit-learn image by image, on the annotated labels only:
#   MultilabelRankingLoss: torchmetrics 0.229, scikit-learn 0.501, nothing ignored 0.503
#   MultilabelCoverageError: torchmetrics 7.976, scikit-learn 4.091, nothing ignored 7.037
#   MultilabelRankingAveragePrecision: torchmetrics 0.662, scikit-learn 0.662, nothing ignored 0.618
# A guess that fails: "chance stays chance if some labels are not looked at".
# What works: these two metrics image by image, on the annotated labels.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.15.0 scikit-learn==1.9.1 numpy==2.4.6
cat > "$folder/ranking.py" <<'PY'
import sys

import numpy as np
import torch
from sklearn.metrics import coverage_error, label_ranking_average_precision_score, label_ranking_loss
from torchmetrics import classification

IMAGES, LABELS = 2000, 8
draw = torch.Generator().manual_seed(0)
scores = torch.rand(IMAGES, LABELS, generator=draw)
labels = torch.randint(2, (IMAGES, LABELS), generator=draw)
known = torch.rand(IMAGES, LABELS, generator=draw) > 0.4
right = (labels * known).sum(1)
keep = (right > 0) & (right < known.sum(1))  # a right and a wrong label, or there is nothing to rank
scores, labels, known = scores[keep], labels[keep], known[keep]
partly = torch.where(known, labels, -1)
ok = []
for name, function in (
    ("MultilabelRankingLoss", label_ranking_loss),
    ("MultilabelCoverageError", coverage_error),
    ("MultilabelRankingAveragePrecision", label_ranking_average_precision_score),
):
    metric = getattr(classification, name)
    ignored = metric(LABELS, ignore_index=-1)(scores, partly).item()
    everything = metric(LABELS)(scores, labels).item()
    rows = zip(scores, labels, known, strict=True)
    expected = np.mean([function(row[seen][None].numpy(), score[seen][None].numpy()) for score, row, seen in rows])
    print(f"{name}: torchmetrics {ignored:.3f}, scikit-learn {expected:.3f}, nothing ignored {everything:.3f}")
    ok.append(abs(ignored - expected) < 1e-3)
sys.exit(ok != [False, False, True])
PY
"$folder/venv/bin/python" "$folder/ranking.py"
