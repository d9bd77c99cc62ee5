#!/usr/bin/env bash
# torch's cross_entropy with class weights and label smoothing takes frequent images for the rare class. The weight multiplies each term
# of the smoothed target by the weight of that term's class: what smoothing gives to a rare class, s / K of every image, is multiplied by
# the rare class's weight too. Weights of inverse frequency and smoothing of 0.1 are best answered, for every image of a frequent class,
# by the rare one as soon as that is 19 times rarer (two classes), even where the classes do not overlap at all. Either option alone is
# right. The documentation calls the weight a rescaling given to each class, and the smoothed target a mixture with the uniform one; each
# image's whole loss times the weight of its class would follow both. Without smoothing the two readings are the same. Nothing warns.
#
# Seen 2026-11-30 with torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; the best linear classifier of two classes that lie 8 standard
# deviations apart, weights of inverse frequency:
#   300 and 300 points: recalls without smoothing 100 and 100 %, with 0.1 100 and 100 %
#   300 and 20 points: recalls without smoothing 100 and 100 %, with 0.1 65 and 100 %
#   300 and 10 points: recalls without smoothing 100 and 100 %, with 0.1 7 and 100 %
#   300 and 3 points: recalls without smoothing 100 and 100 %, with 0.1 0 and 100 %
#   300 and 10: the loss of a frequent point is least at probabilities [0.388, 0.612]
# A guess that fails: "class weights and label smoothing are independent of each other".
# What works: (weight[labels] * cross_entropy(logits, labels, label_smoothing=s, reduction="none")).sum() / weight[labels].sum().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cat > "$folder/weights.py" <<'PY'
import sys

import torch
import torch.nn.functional as F

SMOOTHING = 0.1
torch.manual_seed(0)


def recalls(frequent, rare, smoothing):
    """Recall of either class, on their own points, of the best linear classifier: the classes lie 8 standard deviations apart."""
    points = torch.cat([torch.randn(frequent, 1) - 4, torch.randn(rare, 1) + 4])
    labels = torch.tensor([0] * frequent + [1] * rare)
    weight = (frequent + rare) / (2 * labels.bincount())
    model = torch.nn.Linear(1, 2)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(points), labels, weight=weight, label_smoothing=smoothing)
        loss.backward()
        return loss

    optimizer.step(closure)
    found = model(points).argmax(1)
    return [100 * (found[labels == label] == label).float().mean().item() for label in (0, 1)]


share = {}
for frequent, rare in ((300, 300), (300, 20), (300, 10), (300, 3)):
    plain, smooth = recalls(frequent, rare, 0.0), recalls(frequent, rare, SMOOTHING)
    share[rare] = smooth[0]
    print(f"{frequent} and {rare} points: recalls without smoothing {plain[0]:.0f} and {plain[1]:.0f} %, with 0.1 {smooth[0]:.0f} and {smooth[1]:.0f} %")
weight = torch.tensor([310 / 600, 310 / 20])
each = SMOOTHING / 2 * weight + torch.tensor([(1 - SMOOTHING) * weight[0], 0.0])
print("300 and 10: the loss of a frequent point is least at probabilities", [round(value, 3) for value in (each / each.sum()).tolist()])
best = (each / each.sum()).log()[None]
losses = [F.cross_entropy(best + torch.tensor([[step, 0.0]]), torch.tensor([0]), weight=weight, label_smoothing=SMOOTHING).item() for step in (-0.1, 0.0, 0.1)]
sys.exit(not (share[300] == 100 and share[20] < 90 and share[10] < 20 and share[3] == 0 and losses[1] < min(losses[0], losses[2])))
PY
"$folder/venv/bin/python" "$folder/weights.py"
