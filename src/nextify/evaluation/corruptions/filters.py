"""Linear filters and resampling, each by its fastest operation on a CPU.

Separable filters are matrix products, whose matrices include the edges and whose cost does not depend on the width;
long kernels are multiplied in the frequency domain; warps use torch's ``grid_sample``. Images are planar float32
``(C, H, W)`` from 0 to 255.
"""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from scipy.ndimage import gaussian_filter1d

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SLACK = 1e-3
"""Fraction of a grey level added before truncation to 8 bits: float32 gives 127.9999 for 128."""
TILE = 32
"""Length of the pieces in which a line is blurred."""


def planar(image: Pixels) -> Floats:
    """``(H, W, 3)`` uint8 to ``(3, H, W)`` float32."""
    return image.transpose(2, 0, 1).astype(np.float32, order="C")


def interleaved(values: Floats) -> Pixels:
    """Invert ``planar``, truncating to whole levels as the reference does. Overwrites ``values``."""
    return np.stack(tuple(levels(values)), -1)  # six times as fast as a transposed copy


def levels(values: Floats, added: float = SLACK) -> Pixels:
    """Clip to 0..255 and truncate; with 0.5 ``added``, round to the nearest level. Overwrites ``values``."""
    values += added
    np.clip(values, 0, 255, out=values)
    return values.astype(np.uint8)


@lru_cache(maxsize=64)
def gaussian_matrix(size: int, sigma: float, mode: Literal["nearest", "reflect"], truncate: float) -> Floats:
    """``(size, size)``: what ``scipy.ndimage.gaussian_filter1d`` does to a line of ``size`` values."""
    return gaussian_filter1d(np.eye(size), sigma, axis=0, mode=mode, truncate=truncate).astype(np.float32)  # type: ignore[no-any-return]


def gaussian(
    values: Floats, sigma: float, mode: Literal["nearest", "reflect"] = "nearest", truncate: float = 4.0
) -> Floats:
    """Gaussian blur of ``(C, H, W)``; the defaults are scikit-image's."""
    if sigma == 0:
        return values
    reach = int(truncate * sigma + 0.5)
    channels, height, width = values.shape
    across, down = (gaussian_matrix(n, sigma, mode, truncate) for n in (width, height))
    lines = values.reshape(-1, width)
    half = np.empty_like(lines)
    for tile, read in _tiles(width, reach):
        np.matmul(lines[:, read], across[tile, read].T, out=half[:, tile])
    planes = half.reshape(values.shape)
    blurred = np.empty_like(planes)
    for tile, read in _tiles(height, reach):
        for channel in range(channels):
            np.matmul(down[tile, read], planes[channel, read], out=blurred[channel, tile])
    return blurred


def _tiles(size: int, reach: int) -> list[tuple[slice, slice]]:
    """The pieces of a line, each with the range that it reads; the matrix is zero elsewhere."""
    if TILE + 2 * reach > size // 2:
        return [(slice(0, size), slice(0, size))]
    starts = range(0, size, TILE)
    return [(slice(t, min(t + TILE, size)), slice(max(0, t - reach), min(t + TILE + reach, size))) for t in starts]


def correlate(padded: Floats, kernel: Floats) -> Floats:
    """``kernel (kh, kw)`` slid over ``padded (C, H, W)``, where it lies inside: ``(C, H - kh + 1, W - kw + 1)``."""
    height, width = padded.shape[1] - kernel.shape[0] + 1, padded.shape[2] - kernel.shape[1] + 1
    size = [next_fast_len(n, real=True) for n in padded.shape[1:]]
    spectrum = torch.fft.rfft2(torch.from_numpy(padded), size)
    spectrum *= torch.fft.rfft2(torch.from_numpy(kernel), size).conj()
    found: Floats = torch.fft.irfft2(spectrum, size)[:, :height, :width].numpy()
    return found


def zoom_lines(size: int, factor: float) -> tuple[int, int, int, int]:
    """How a zoom about the centre resamples a line: first value and number of values read, length, first value kept.

    The reference crops, zooms with ``scipy.ndimage.zoom`` (end points stay end points) and trims.
    """
    count = math.ceil(size / factor)
    length = round(count * factor)
    return (size - count) // 2, count, length, (length - size) // 2


def enlarged(values: Floats, height: int, width: int) -> Floats:
    """Bilinear, end points on end points: ``(C, h, w)`` to ``(C, height, width)``."""
    found = F.interpolate(torch.from_numpy(values)[None], (height, width), mode="bilinear", align_corners=True)
    return found[0].numpy()


def sample(values: Floats, x: Floats, y: Floats, edge: Literal["reflect", "mirror"]) -> Floats:
    """Bilinear values of ``(C, H, W)`` at pixel coordinates ``x, y (H, W)``. ``edge``: SciPy's ``reflect`` repeats the
    outermost pixel (dcba|abcd), ``mirror`` does not (dcb|abcd)."""
    height, width = values.shape[1:]
    corners = edge == "mirror"
    grid = np.empty((1, *x.shape, 2), np.float32)
    if corners:
        grid[0, ..., 0], grid[0, ..., 1] = x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1
    else:
        grid[0, ..., 0], grid[0, ..., 1] = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
    found = F.grid_sample(
        torch.from_numpy(values)[None], torch.from_numpy(grid), padding_mode="reflection", align_corners=corners
    )
    return found[0].numpy()
