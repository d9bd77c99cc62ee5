"""Moves each row or column of an image along itself by a distance of its own: shears and translations.

As Pillow's ``Image.transform(AFFINE, BICUBIC)``, bit for bit, in a third of its time. There every pixel takes 16 others
in doubles; along one axis, 12 of them have the weight 0. The other four give

    v2 + d (v3 - v1 + d (2 (v1 - v2) + v3 - v4 + d (v2 - v1 + v4 - v3)))

at a distance d behind v2, cut to whole levels. Here that is done in single precision, and again in double where the
result is so close to a whole level that rounding may have gone across it.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from nextify.data.decode import Pixels

Shifts = npt.NDArray[np.float64]
Taps = npt.NDArray[np.int16]

ROWS = 32
"""Rows that are computed at a time, so that what lies between the operations stays in the processor's cache."""
CLOSE = 1e-3
"""Levels; single precision is wrong by less than a tenth of it."""
SAFE = 1e-6
"""Pixels by which a line's distance must miss whole and half ones, so that rounding cannot move what it reads."""


def moved(pixels: Pixels, shifts: Shifts, axis: Literal[0, 1], fill: tuple[int, int, int]) -> Pixels | None:
    """``(H, W, 3)`` where each pixel comes from ``shifts`` of its line further along ``axis``.

    Args:
        shifts: pixels, one for each row (``axis`` 1) or column (``axis`` 0).
        fill: colour of what comes from outside.

    Returns:
        None where a shift is too close to a whole or half number of pixels to know what Pillow would do.
    """
    height, width, _ = pixels.shape
    halves = 2 * shifts
    if np.abs(halves - np.rint(halves)).min() < 2 * SAFE:
        return None
    # Four bytes a pixel, since a whole pixel is then one number, and read in a fifth of the time.
    image = Image.frombuffer("RGB", (width, height), pixels.tobytes(), "raw", "RGB", 0, 1)
    four = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint32)  # (H W,)
    whole = np.floor(shifts)
    places = np.arange(-1, pixels.shape[axis] + 2)  # from one before to two behind; edges go on as they end
    steps = whole.astype(np.int64)
    read = places + steps[:, None] if axis else places[:, None] + steps
    read.clip(0, pixels.shape[axis] - 1, out=read)
    if not axis:
        read *= width
    read += np.arange(height)[:, None] * width if axis else np.arange(width)
    taps = four.take(read).view(np.uint8)  # (H, 4 (W + 3)) or (H + 3, 4 W)
    distance = (shifts - whole)[:, None] if axis else (shifts - whole).repeat(4)
    out = np.empty((height, 4 * width), np.uint8)
    close = np.empty((height, 4 * width), bool)
    for top in range(0, height, ROWS):
        rows = slice(top, top + ROWS)
        part, at = (taps[rows], distance[rows]) if axis else (taps[top : top + ROWS + 3], distance)
        v1, v2, v3, v4 = _four(part.astype(np.int16), axis)
        out[rows], close[rows] = _cubic(v1, v2, v3, v4, at.astype(np.float32))
    _correct(out, close, taps, shifts, axis)
    return _coloured_outside(out, shifts, axis, fill)


def _four(taps: npt.NDArray[Any], axis: Literal[0, 1]) -> tuple[npt.NDArray[Any], ...]:
    """The values one before, at, one behind and two behind."""
    if axis:
        return tuple(taps[:, 4 * k : taps.shape[1] - 12 + 4 * k] for k in range(4))
    return tuple(taps[k : len(taps) - 3 + k] for k in range(4))


def _cubic(
    v1: Taps, v2: Taps, v3: Taps, v4: Taps, distance: npt.NDArray[np.float32]
) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Values, and which of them are too close to a whole level to be sure."""
    first, second, third = v2 - v1, v3 - v2, v4 - v3
    cubic = first + third
    value = cubic * distance  # float32 from here on
    value -= cubic + first
    value *= distance
    value += first + second
    value *= distance
    value += v2
    close = np.abs(value - np.rint(value)) < CLOSE
    close &= (first | second | third) != 0
    return value.clip(0, 255).astype(np.uint8), close


def _correct(out: Pixels, close: npt.NDArray[np.bool_], taps: Pixels, shifts: Shifts, axis: Literal[0, 1]) -> None:
    """Computes the close ones again in doubles, in Pillow's order."""
    row, column = at = np.divmod(np.flatnonzero(close), close.shape[1])
    place, line = (column // 4, row) if axis else (row, column // 4)
    read_at = place + 0.5 + shifts[line] - 0.5
    d = read_at - np.floor(read_at)
    v1, v2, v3, v4 = (v[at].astype(np.float64) for v in _four(taps, axis))
    exact = v2 + d * (-v1 + v3 + d * (2 * (v1 - v2) + v3 - v4 + d * (-v1 + v2 - v3 + v4)))
    out[at] = exact.clip(0, 255).astype(np.uint8)


def _coloured_outside(out: Pixels, shifts: Shifts, axis: Literal[0, 1], fill: tuple[int, int, int]) -> Pixels:
    """``(H, W, 3)`` of ``(H, 4 W)``."""
    whole_pixels = out.view(np.uint32)
    height, width = whole_pixels.shape
    places = np.arange(width if axis else height)
    low, high = (np.ceil(edge - 0.5 - shifts) for edge in (0, len(places)))
    if axis:
        outside = (places < low[:, None]) | (places >= high[:, None])
    else:
        outside = (places[:, None] < low) | (places[:, None] >= high)
    whole_pixels[outside] = np.array([*fill, 0], np.uint8).view(np.uint32)[0]
    image = Image.frombuffer("RGBX", (width, height), out.tobytes(), "raw", "RGBX", 0, 1)
    return np.frombuffer(image.tobytes("raw", "RGB"), np.uint8).reshape(height, width, 3)
