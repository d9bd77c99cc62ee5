#!/usr/bin/env bash
# kornia-rs's ColorJitter has the name and the arguments of torchvision's and two other meanings. Brightness is added, as a share of
# white, instead of multiplied: brightness=0.4 moves every pixel by up to 102 of 255, so a dark image becomes quite black in a third
# of the draws, where torchvision's keeps 60 % of its light or more. Hue turns colours about the gray axis of the RGB cube, which
# agrees with the wheel of hues ("fraction of hue wheel") only at thirds of it: half a turn makes red a dark teal, not cyan.
# Contrast and saturation agree to one level. A recipe that was moved over trains on other images. Nothing warns.
#
# Seen 2026-11-30 with kornia-rs 0.2.0, torchvision 0.29.2, torch 2.15.0, NumPy 2.4.6, Python 3.11.7:
#   gray of 40, brightness=0.4: kornia-rs 0 to 142, quite black in 32%; torchvision 24 to 55
#   adjust_contrast: differs from torchvision's by up to 1 of 255
#   adjust_saturation: differs from torchvision's by up to 1 of 255
#   adjust_hue: differs from torchvision's by up to 72 of 255
#   (255, 0, 0), half the wheel: kornia-rs (0, 169, 170), torchvision (0, 255, 255)
#   (0, 0, 255), half the wheel: kornia-rs (169, 170, 0), torchvision (255, 255, 0)
# A guess that fails: "ColorJitter(0.4, 0.4, 0.4, 0.1) is the usual colour augmentation".
# What works: torchvision's functions, or an own factor drawn and multiplied for the brightness.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kornia-rs==0.2.0 numpy==2.4.6 pillow==13.0.0 torch==2.15.0 torchvision==0.29.2
cat > "$folder/jitter.py" <<'PY'
import sys

import numpy as np
import torch
from kornia_rs import augmentations
from kornia_rs.image import Image
from torchvision.transforms.v2 import ColorJitter
from torchvision.transforms.v2 import functional as F


def black(means):
    return float(np.mean(np.array(means) < 1))


dark = np.full((8, 8, 3), 40, np.uint8)
torch.manual_seed(0)
augmentations.set_seed(0)
ours, theirs = augmentations.ColorJitter(brightness=0.4), ColorJitter(brightness=0.4)
added = [float(ours(Image(dark)).numpy().mean()) for _ in range(1000)]
times = [float(theirs(torch.from_numpy(dark).permute(2, 0, 1)).float().mean()) for _ in range(1000)]
print(f"gray of 40, brightness=0.4: kornia-rs {min(added):.0f} to {max(added):.0f}, quite black in {black(added):.0%}; torchvision {min(times):.0f} to {max(times):.0f}")
worst = {}
for name in ("contrast", "saturation", "hue"):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for factor in (-0.2, 0.1) if name == "hue" else (0.6, 1.4):
        a = getattr(Image(pixels), f"adjust_{name}")(factor).numpy().astype(int)
        b = getattr(F, f"adjust_{name}")(torch.from_numpy(pixels).permute(2, 0, 1), factor).permute(1, 2, 0).numpy()
        worst[name] = max(worst.get(name, 0), int(np.abs(a - b).max()))
    print(f"adjust_{name}: differs from torchvision's by up to {worst[name]} of 255")
for colour in ((255, 0, 0), (0, 0, 255)):
    pixels = np.full((4, 4, 3), colour, np.uint8)
    a = tuple(map(int, Image(pixels).adjust_hue(0.5).numpy()[0, 0]))
    b = tuple(F.adjust_hue(torch.from_numpy(pixels).permute(2, 0, 1), 0.5)[:, 0, 0].tolist())
    print(f"{colour}, half the wheel: kornia-rs {a}, torchvision {b}")
sys.exit(not (black(added) > 0.2 and min(times) > 20 and worst["contrast"] <= 2 and worst["saturation"] <= 2 and worst["hue"] > 40))
PY
"$folder/venv/bin/python" "$folder/jitter.py"
