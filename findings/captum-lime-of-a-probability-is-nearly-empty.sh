#!/usr/bin/env bash
# Captum's Lime finds no region that changes the explained number by less than 0.04, in whatever unit that number is. It fits
# a lasso with a penalty of 0.01, and a region that is there in half of the samples has a variance of a quarter, so
# that 0.01 / 0.25 is taken off every effect and smaller ones become exactly 0. Of a probability, spread over the 49 regions of an
# image, hardly any effect is larger, and the map is empty but for a few regions, which look all the more certain; more samples do
# not help. The same output in percent has all regions, nearly in the right order. Of a logit it depends on the network's
# scale. Attributions by other methods of Captum scale with the output.
#
# Seen 2026-11-30 with captum 0.9.0, scikit-learn 1.9.1, torch 2.15.0, Python 3.11.7, CPU; 49 regions with known effects:
#   2 of 49 effects are above 0.04
#   Lime, output times 1, 1000 samples: 2 regions, correlation 0.44
#   Lime, output times 1, 4000 samples: 2 regions, correlation 0.45
#   Lime, output times 10, 1000 samples: 44 regions, correlation 0.99
#   Lime, output times 10, 4000 samples: 44 regions, correlation 0.99
#   Lime, output times 100, 1000 samples: 49 regions, correlation 1.00
#   Lime, output times 100, 4000 samples: 49 regions, correlation 1.00
#   KernelShap, output times 1, 1000 samples: 49 regions, correlation 1.00
#   KernelShap, output times 1, 4000 samples: 49 regions, correlation 1.00
#   KernelShap, output times 10, 1000 samples: 49 regions, correlation 1.00
#   KernelShap, output times 10, 4000 samples: 49 regions, correlation 1.00
#   KernelShap, output times 100, 1000 samples: 49 regions, correlation 1.00
#   KernelShap, output times 100, 4000 samples: 49 regions, correlation 1.00
# A guess that fails: "an explanation of a share and one of the same share in percent show the same regions".
# What works: Lime(network, interpretable_model=SkLearnLasso(alpha=...)) with a penalty for the output's scale, or KernelShap.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check captum==0.9.0 torch==2.15.0 scikit-learn==1.9.1
cat > "$folder/regions.py" <<'PY'
import sys

import torch
from captum.attr import KernelShap, Lime

REGIONS = 49
torch.manual_seed(0)
effects = torch.randn(REGIONS) / REGIONS
image = torch.ones(1, REGIONS)
large = int((effects.abs() > 0.04).sum())
print(f"{large} of {REGIONS} effects are above 0.04")
passed, found = True, {}
for method in (Lime, KernelShap):
    for scale in (1, 10, 100):
        for samples in (1000, 4000):
            torch.manual_seed(0)
            explained = method(lambda x, scale=scale: scale * (0.5 + (x * effects).sum(1)))
            shares = explained.attribute(image, n_samples=samples)[0] / scale
            alike = torch.corrcoef(torch.stack([shares, effects]))[0, 1].item()
            regions = int((shares != 0).sum())
            found[method, scale, samples] = regions, alike
            row = f"{method.__name__}, output times {scale}, {samples} samples"
            print(f"{row}: {regions} regions, correlation {alike:.2f}")
for samples in (1000, 4000):
    passed &= found[Lime, 1, samples][0] < 10 and found[Lime, 1, samples][1] < 0.8
    passed &= found[Lime, 100, samples][0] > 45 and found[Lime, 100, samples][1] > 0.99
    passed &= all(found[KernelShap, scale, samples][1] > 0.99 for scale in (1, 10, 100))
sys.exit(not passed)
PY
"$folder/venv/bin/python" "$folder/regions.py"
