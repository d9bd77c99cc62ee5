#!/usr/bin/env bash
# litert-torch (Google's converter of torch models to LiteRT, once ai-edge-torch) replaces torch's nearest-neighbour
# interpolation by that of LiteRT with half-pixel centres, which is torch's mode "nearest-exact" and not "nearest". Where
# sizes are doubled both are the same, so most checks pass. Other factors take another pixel: a feature pyramid, which
# enlarges 13x13 to 25x25 to add it to a map of an image of 400 pixels, is wrong by 4.1 where its largest value is 5.7.
# Label maps move by half a pixel. Nothing warns.
#
# Seen 2026-11-30 with litert-torch 0.10.0, ai-edge-litert 2.3.0, torch 2.14.1, torchvision 0.29.2, NumPy 2.4.6, Python 3.11.7,
# CPU; columns of a ramp whose values are the column numbers:
#   4 to 8: torch [0, 0, 1, 1, 2, 2, 3, 3], LiteRT [0, 0, 1, 1, 2, 2, 3, 3]; torch's nearest-exact [0, 0, 1, 1, 2, 2, 3, 3]
#   7 to 14: torch [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6], LiteRT [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]; torch's nearest-exact [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
#   4 to 6: torch [0, 0, 1, 2, 2, 3], LiteRT [0, 1, 1, 2, 3, 3]; torch's nearest-exact [0, 1, 1, 2, 3, 3]
#   4 to 7: torch [0, 0, 1, 1, 2, 2, 3], LiteRT [0, 0, 1, 2, 2, 3, 3]; torch's nearest-exact [0, 0, 1, 2, 2, 3, 3]
#   5 to 3: torch [0, 1, 3], LiteRT [0, 2, 4]; torch's nearest-exact [0, 2, 4]
#   torchvision's feature pyramid, 24x24: off by 0.00 at most; largest value 6.59
#   torchvision's feature pyramid, 25x25: off by 4.11 at most; largest value 5.68
# A guess that fails: "converted and run without an error, and right for one image size, so right for the others".
# What works: mode="nearest-exact" in the network (in training, too), or image sizes that are multiples of the largest stride.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check litert-torch==0.10.0 ai-edge-litert==2.3.0 litert-converter==0.5.0 torch==2.14.1 torchvision==0.29.2 torchao==0.18.0 numpy==2.4.6
cat > "$folder/nearest.py" <<'PY'
import os
import sys
import warnings
from collections import OrderedDict

warnings.filterwarnings("ignore")
out = os.fdopen(os.dup(1), "w")  # converter and runtime write to the standard output by themselves
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
import litert_torch
import numpy as np
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork


class Resize(nn.Module):
    def __init__(self, mode: str, size: int) -> None:
        super().__init__()
        self.mode, self.size = mode, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(x, size=(self.size, self.size), mode=self.mode)


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pyramid = FeaturePyramidNetwork([8, 8], 4)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        return self.pyramid(OrderedDict(fine=fine, coarse=coarse))["fine"]


def columns(map_: object) -> list[int]:
    return np.asarray(map_)[0, 0, 0].astype(int).tolist()


ok = []
for width, size in ((4, 8), (7, 14), (4, 6), (4, 7), (5, 3)):
    x = torch.arange(float(width)).expand(1, 1, width, width).contiguous()
    network = Resize("nearest", size).eval()
    right, got = columns(network(x)), columns(litert_torch.convert(network, (x,))(x))
    exact = columns(Resize("nearest-exact", size)(x))
    ok += [got == exact, (got == right) == (size == 2 * width)]
    print(f"  {width} to {size}: torch {right}, LiteRT {got}; torch's nearest-exact {exact}", file=out)
torch.manual_seed(0)
network = Pyramid().eval()
for size in (24, 25):
    maps = torch.randn(1, 8, size, size), torch.randn(1, 8, (size + 1) // 2, (size + 1) // 2)
    with torch.no_grad():
        right = network(*maps).numpy()
    off = np.abs(np.asarray(litert_torch.convert(network, maps)(*maps)) - right).max()
    ok.append((off > 1) == (size == 25))
    print(f"  torchvision's feature pyramid, {size}x{size}: off by {off:.2f} at most; largest value {np.abs(right).max():.2f}", file=out)
out.flush()
sys.exit(not all(ok))
PY
"$folder/venv/bin/python" "$folder/nearest.py" 2> "$folder/errors" || { tail -5 "$folder/errors" >&2; exit 1; }
