#!/usr/bin/env bash
# Torch-Pruning's GroupHessianImportance weighs filters by the diagonal of the Fisher information: the mean, over images, of squared
# gradients. Its documentation has the loop over images that calls accumulate_grad. The method keeps sums in a dictionary by parameter,
# but asks whether the parameter's name is in it, and so begins anew with each image: what counts is the last image alone, and in
# which order they come decides what is pruned.
#
# Seen 2026-12-01 with torch-pruning 1.6.1, torch 2.15.0, Python 3.11.7; scores of 8 filters after 5 images:
#   images 1 to 5         0.0026 0.0060 0.0058 0.0078 0.0049 0.0059 0.0077 0.0057
#   image 5 alone         0.0026 0.0060 0.0058 0.0078 0.0049 0.0059 0.0077 0.0057
#   images 5 to 1         0.0099 0.0233 0.0155 0.0163 0.0104 0.0145 0.0155 0.0134
#   mean of squares       0.0050 0.0103 0.0072 0.0089 0.0051 0.0070 0.0088 0.0059
# A guess that fails: "the scores are those of all images".
# What works: add up the squared gradients, put their mean into each parameter's grad, and call the importance without accumulate_grad.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torch-pruning==1.6.1 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/hessian.py" <<'PY'
import sys

import torch
import torch_pruning
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 2))
images, labels = torch.randn(5, 3, 8, 8), torch.randint(0, 2, (5,))


def group():
    graph = torch_pruning.DependencyGraph().build_dependency(model, images)
    return graph.get_pruning_group(model[0], torch_pruning.prune_conv_out_channels, list(range(8)))


def gradients(order):
    losses = nn.functional.cross_entropy(model(images), labels, reduction="none")
    for i in order:
        model.zero_grad()
        losses[i].backward(retain_graph=True)
        yield


def scores(order):
    importance = torch_pruning.importance.GroupHessianImportance(normalizer=None)
    for _ in gradients(order):
        importance.accumulate_grad(model)
    return importance(group())


squares = {p: 0 for p in model.parameters()}
for _ in gradients(range(5)):
    squares = {p: total + p.grad**2 for p, total in squares.items()}
found = {"images 1 to 5": scores(range(5)), "image 5 alone": scores([4]), "images 5 to 1": scores(range(4, -1, -1))}
for p, total in squares.items():
    p.grad = total / 5
found["mean of squares"] = torch_pruning.importance.GroupHessianImportance(normalizer=None)(group())
for title, values in found.items():
    print(f"{title:20} ", *(f"{value:.4f}" for value in values))
all_five, last, backwards, mean = found.values()
same = [torch.allclose(all_five, other, rtol=0.1) for other in (last, backwards, mean)]
sys.exit(same != [True, False, False])
PY
"$folder/venv/bin/python" "$folder/hessian.py"
