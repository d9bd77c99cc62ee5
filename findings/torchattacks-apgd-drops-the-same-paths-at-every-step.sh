#!/usr/bin/env bash
# torchattacks' APGD, APGDT, FAB and Square take a seed "for the starting point", 0 by default. Each call seeds torch's global generator
# with it. In adversarial training, everything that torch draws after the attack is then the same at every step: stochastic depth
# leaves out the same blocks for the same places of the batch, dropout the same units, and the attack itself starts from the same noise.
# PGD has no seed and does not.
#
# Seen 2026-12-01 with torchattacks 3.5.1, torch 2.15.0, Python 3.11.7; paths kept of 8 images, at three steps:
#   PGD    11010011  11000010  01100111
#   APGD   11010000  11010000  11010000
# A guess that fails: "a seed of an attack is the attack's".
# What works: with torch.random.fork_rng(): around the attack, and another attack.seed at each step.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  torchattacks==3.5.1 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/paths.py" <<'PY'
import sys

import torch
import torchattacks
from torchvision.ops import StochasticDepth

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4))
drop = StochasticDepth(0.5, "row").train()
found = {}
for name in ("PGD", "APGD"):
    attack = getattr(torchattacks, name)(network, eps=8 / 255, steps=2)
    found[name] = []
    for _ in range(3):
        images = torch.rand(8, 3, 4, 4)
        attack(images, network(images).argmax(1))
        found[name].append("".join(str(int(kept > 0)) for kept in drop(torch.ones(8, 1)).flatten()))
    print(f"{name:6}", *found[name], sep="  ")
sys.exit(not (len(set(found["PGD"])) == 3 and len(set(found["APGD"])) == 1))
PY
"$folder/venv/bin/python" "$folder/paths.py"
