#!/usr/bin/env bash
# torchattacks' CW reports networks as robust in two ordinary cases. Pixels are mapped by an inverse tanh; of a pixel that is exactly
# 0 or 1 this is infinite, its gradient 0, and it never changes: the background of MNIST, padding, saturated areas. And the other
# classes' largest logit is found by multiplying the own class's by 0 in place of leaving it out, so where all logits are negative
# (networks trained with binary cross entropy, or that give log-probabilities) the largest is that 0 and there is no gradient at all.
#
# Seen 2026-12-01 with torchattacks 3.5.1, torch 2.15.0, Python 3.11.7; linear network of two classes, 8×8 pixels, 500 steps:
#                                          class after   change    smallest that changes the class
#   pixels of 0.001                        1             0.121     0.117
#   pixels of 0                            0             0.000     0.125
#   pixels of 0.001, both logits less 10   0             0.000     0.117
# A guess that fails: "an image that it does not change cannot be changed", and "the same predictions give the same result".
# What works: foolbox's DDNAttack, which finds the smallest change in all three.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torchattacks==3.5.1 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/cw.py" <<'PY'
import sys

import torch
import torchattacks

network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
cases = {
    "pixels of 0.001": (0.001, 0.0),
    "pixels of 0": (0.0, 0.0),
    "pixels of 0.001, both logits less 10": (0.001, -10.0),
}
found = []
print(" " * 37, "class after   change    smallest that changes the class")
for title, (pixel, shift) in cases.items():
    with torch.no_grad():  # class 0 while the pixels sum to less than 1
        network[1].weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 64))
        network[1].bias.copy_(torch.tensor([1.0, -1.0]) + shift)
    images = torch.full((1, 1, 8, 8), pixel)
    changed = torchattacks.CW(network, c=10, steps=500)(images, torch.tensor([0]))
    found.append((int(network(changed).argmax(1)), float((changed - images).norm())))
    print(f"{title:37} {found[-1][0]:<13} {found[-1][1]:.3f}     {(1 - 64 * pixel) / 8:.3f}")
sys.exit(not (found[0][0] == 1 and found[1:] == [(0, 0.0), (0, 0.0)]))
PY
"$folder/venv/bin/python" "$folder/cw.py"
