#!/usr/bin/env bash
# torchvision gives a rotated box another size after a resize if its angle is written the other way round. Resized to another
# aspect ratio, a rotated rectangle becomes a parallelogram, which torchvision turns into a rectangle that is to keep the
# longest diagonal. The angle between two sides is taken as a difference of two atan2, which is not wrapped: with the first
# between -180 and -90 degrees it is off by a full turn, one side is shortened where it should be lengthened, and the diagonal
# is lost. A rectangle at 30 degrees is the same as at -150, and a mirror or a turn by torchvision itself writes such angles
# (a horizontal flip makes -150 of 150). Affine with shear goes the same way. Flips, turns and crops are right. Nothing warns.
#
# Seen 2026-11-30 with torchvision 0.29.2, torch 2.15.0, NumPy 2.4.6, Python 3.11.7, CPU; a box of 40x30 on a canvas of 200x200:
#   resize to 400x200, angle 30: 44.4 x 82.9 at 16.1, 1.000 of the diagonal, overlap 0.66
#   resize to 400x200, angle -150: 44.4 x 25.3 at -163.9, 0.543 of the diagonal, overlap 0.48
#   resize to 300x200, angle 30: 60.0 x 39.3 at 40.9, 1.000 of the diagonal, overlap 0.77
#   resize to 300x200, angle -150: 31.7 x 39.3 at -139.1, 0.703 of the diagonal, overlap 0.69
#   resize to 400x200: the diagonal is lost at 17 of 72 angles, from -175 to -95
#   a horizontal flip of a box at 150: -150.0
# A guess that fails: "two ways to write the same rectangle are the same rectangle afterwards".
# What works: 180 added to angles between -180 and -90 before a resize (a rectangle turned by 180 is itself).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cat > "$folder/boxes.py" <<'PY'
import sys
from collections.abc import Callable

import numpy as np
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

SIDE, WIDTH, HEIGHT = 200, 40, 30


def corners(x: float, y: float, width: float, height: float, angle: float) -> np.ndarray:
    """The corners, one after the other, of a rectangle turned counter-clockwise by an angle in degrees."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    right, down = width / 2 * np.array([cos, -sin]), height / 2 * np.array([sin, cos])
    return np.array([x, y]) + np.array([-right - down, right - down, right + down, down - right])


def inside(shape: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which points lie in a convex shape."""
    sides = np.roll(shape, -1, 0) - shape
    away = points[:, None] - shape
    return (sides[:, 0] * away[..., 1] - sides[:, 1] * away[..., 0] >= 0).all(1)


def moved(transform: Callable, matrix: np.ndarray, angle: float) -> tuple[list[float], float, float]:
    """The box that a transform returns, its longest diagonal over that of the true shape, and their overlap (IoU)."""
    box = tv_tensors.BoundingBoxes(
        [[SIDE / 2, SIDE / 2, WIDTH, HEIGHT, angle]], format="CXCYWHR", canvas_size=(SIDE, SIDE), clamping_mode=None
    )
    out = transform(box)[0].tolist()
    middle = np.array(out[:2])  # the centre is right, so the linear part of the transform is enough
    true = middle + (corners(0, 0, WIDTH, HEIGHT, angle)) @ matrix.T
    found = corners(*out)
    points = np.random.default_rng(0).uniform(middle - 80, middle + 80, (20_000, 2))
    first, second = inside(true, points), inside(found, points)
    longest = max(np.hypot(*(true[0] - true[2])), np.hypot(*(true[1] - true[3])))
    return out, np.hypot(out[2], out[3]) / longest, (first & second).sum() / (first | second).sum()


transforms = {
    "resize to 400x200": (lambda box: F.resize(box, [2 * SIDE, SIDE]), np.diag([1.0, 2.0])),
    "resize to 300x200": (lambda box: F.resize(box, [3 * SIDE // 2, SIDE]), np.diag([1.0, 1.5])),
}
ok = []
for name, (transform, matrix) in transforms.items():
    for angle in (30, -150):
        (_, _, width, height, turned), diagonal, overlap = moved(transform, matrix, angle)
        box = f"{width:.1f} x {height:.1f} at {turned:.1f}"
        print(f"{name}, angle {angle}: {box}, {diagonal:.3f} of the diagonal, overlap {overlap:.2f}")
        ok.append((diagonal, overlap))
transform, matrix = transforms["resize to 400x200"]
wrong = [a for a in range(-175, 181, 5) if abs(moved(transform, matrix, a)[1] - 1) > 0.01]
print(f"resize to 400x200: the diagonal is lost at {len(wrong)} of 72 angles, from {min(wrong)} to {max(wrong)}")
flipped = F.horizontal_flip(tv_tensors.BoundingBoxes([[100.0, 100, 40, 30, 150]], format="CXCYWHR", canvas_size=(200, 200)))
print(f"a horizontal flip of a box at 150: {flipped[0, 4]:.1f}")
sys.exit(not (abs(ok[0][0] - 1) < 0.01 and ok[1][0] < 0.7 and ok[1][1] < ok[0][1] - 0.1 and min(wrong) < -150 and max(wrong) < -80))
PY
"$folder/venv/bin/python" "$folder/boxes.py"
