#!/usr/bin/env bash
# OpenCV 5 warps an image of 2 or 5 channels to other places than one of 1, 3 or 4. Up to 4.14, warpAffine, warpPerspective
# and remap rounded every position to 1/32 of a pixel. In 5.0 the linear ones are exact, for 1, 3 or 4 channels of uint8,
# uint16 or float32; all other images, and Lanczos for all, still go through the rounded tables. So a plane warped alone and
# the same plane stacked with a second one (a flow field, radar's two polarizations, an image with its depth) differ, and an
# image may lie up to 1/64 of a pixel off its int16 or float64 label map. Lanczos, the slowest, is now the least exact.
# Nothing warns. In 4.14 all agreed with each other.
#
# Seen 2026-11-29 with opencv-python-headless 5.0.0.93 and 4.14.0.94, NumPy 2.4.6, Python 3.11.7, AMD EPYC; a smooth picture
# of 0 to 255 turned by 10 degrees, alone and as the first of several equal channels, and a ramp moved by 1/128 pixel:
#   4.14.0: largest difference to the plane alone: uint8 with 2 to 5 channels 0.0 0.0 0.0 0.0, float32 0.0 0.0 0.0 0.0
#   4.14.0: the ramp moved by: linear 0.0000, linear in 2 channels 0.0000, linear in float64 0.0000, Lanczos 0.0000
#   5.0.0: largest difference to the plane alone: uint8 with 2 to 5 channels 3.0 0.0 0.0 3.0, float32 3.0 0.0 0.0 3.0
#   5.0.0: the ramp moved by: linear 0.0078, linear in 2 channels 0.0000, linear in float64 0.0000, Lanczos 0.0000
# A guess that fails: "each channel is warped as if it were alone".
# What works: warp the planes one by one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
pip="$folder/venv/bin/pip install --quiet --disable-pip-version-check"
$pip opencv-python-headless==5.0.0.93 numpy==2.4.6
$pip --no-deps --target "$folder/old" opencv-python-headless==4.14.0.94
cat > "$folder/warp.py" <<'PY'
import cv2
import numpy as np

height, width = 48, 64
picture = cv2.GaussianBlur(np.random.default_rng(0).random((height, width)), (0, 0), 1)
picture = (picture - picture.min()) / np.ptp(picture) * 255
turn = cv2.getRotationMatrix2D((31.5, 23.5), 10, 1)
found = {}
for kind in ("uint8", "float32"):
    plane = picture.astype(kind)
    alone = cv2.warpAffine(plane, turn, (width, height)).astype(float)
    for channels in (2, 3, 4, 5):
        stacked = cv2.warpAffine(np.repeat(plane[..., None], channels, 2), turn, (width, height))
        found[kind, channels] = np.abs(stacked[..., 0] - alone).max()
ramp = np.tile(1000 * np.arange(width, dtype=np.float32), (height, 1))


def moved(image: np.ndarray, flags: int = cv2.INTER_LINEAR) -> float:
    """How far warpAffine moves a ramp that it is told to move by 1/128 pixel."""
    out = cv2.warpAffine(image, np.array([[1, 0, 1 / 128], [0, 1, 0]]), (width, height), flags=flags)
    return float((ramp - out.reshape(height, width, -1)[..., 0])[8:-8, 8:-8].mean() / 1000)


shares = {
    "linear": moved(ramp),
    "linear in 2 channels": moved(np.dstack([ramp, ramp])),
    "linear in float64": moved(ramp.astype(float)),
    "Lanczos": moved(ramp, cv2.INTER_LANCZOS4),
}
version = cv2.__version__
numbers = [" ".join(f"{found[kind, k]:.1f}" for k in (2, 3, 4, 5)) for kind in ("uint8", "float32")]
print(f"{version}: largest difference to the plane alone: uint8 with 2 to 5 channels {numbers[0]}, float32 {numbers[1]}")
print(f"{version}: the ramp moved by: " + ", ".join(f"{name} {share:.4f}" for name, share in shares.items()))
if version.startswith("4."):
    assert max(found.values()) < 0.01 and max(map(abs, shares.values())) < 1e-4
else:
    for (_, channels), difference in found.items():
        assert difference > 1 if channels in (2, 5) else difference < 0.01
    assert abs(shares.pop("linear") - 1 / 128) < 1e-4 and max(map(abs, shares.values())) < 1e-4
PY
PYTHONPATH="$folder/old" "$folder/venv/bin/python" "$folder/warp.py"
"$folder/venv/bin/python" "$folder/warp.py"
