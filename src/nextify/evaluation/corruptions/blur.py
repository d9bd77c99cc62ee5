"""Defocus, frosted glass, motion and zoom blur."""

import math
import warnings
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from nextify.evaluation.corruptions import filters
from nextify.evaluation.corruptions.draws import Draws
from nextify.evaluation.corruptions.filters import Floats, Pixels

DIRECT_FROM = 400_000
"""Number of pixels from which the zoom blur's sparse matrix (about 300 bytes per pixel) is not built."""


def defocus_blur(image: Pixels, radius: float, alias_blur: float, draws: Draws) -> Pixels:
    """A disk of ``radius`` pixels, its edge softened by a Gaussian of ``alias_blur``."""
    kernel = disk(radius, alias_blur)
    margin = kernel.shape[0] // 2
    padded = np.pad(filters.planar(image), ((0, 0), (margin, margin), (margin, margin)), "reflect")
    return filters.interleaved(filters.correlate(padded, kernel))


@lru_cache(maxsize=32)
def disk(radius: float, alias_blur: float) -> Floats:
    """The reference's kernel: whole pixels on a grid of at least 17², then OpenCV's 3-tap Gaussian (5 beyond 8)."""
    reach = max(8, math.ceil(radius))
    x = np.arange(-reach, reach + 1)
    kernel = (x[:, None] ** 2 + x**2 <= radius**2).astype(np.float64)
    kernel /= kernel.sum()
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    weights = np.exp(-(taps**2) / (2 * alias_blur**2))
    weights /= weights.sum()
    for axis in (0, 1):
        width = [(0, 0), (0, 0)]
        width[axis] = (len(taps) // 2,) * 2
        wide = np.pad(kernel, width, "reflect")
        kernel = sum(w * np.take(wide, range(i, i + len(x)), axis) for i, w in enumerate(weights))
    used = np.flatnonzero(kernel[reach] > 1e-12)
    inner = slice(used[0], used[-1] + 1)
    return np.ascontiguousarray(kernel[inner, inner], np.float32)


def glass_blur(image: Pixels, sigma: float, reach: int, rounds: int, draws: Draws) -> Pixels:
    """Gaussian blur, pixels moved by up to ``reach`` in each of ``rounds``, and the same blur again."""
    height, width = image.shape[:2]
    pixels = filters.levels(filters.gaussian(filters.planar(image), sigma)).reshape(3, -1)
    for _ in range(rounds):
        pixels = pixels.take(moved(height, width, reach, draws), axis=1)
    return filters.interleaved(filters.gaussian(pixels.reshape(3, height, width).astype(np.float32), sigma))


def moved(height: int, width: int, reach: int, draws: Draws) -> npt.NDArray[np.int64]:
    """``(height · width,)``: the index of the pixel that each position shows after a round.

    The reference visits the pixels from last to first and writes ``x[a], x[b] = x[b], x[a]`` for a neighbour b. Both
    sides are views of one array, so this copies b to a and leaves b unchanged, as in the published images. A neighbour
    visited earlier already shows another pixel. Such chains are followed for all pixels at once, link by link; at most
    about a third continue after each link. The result is that of the loop over pixels.
    """
    inner, here, inside = _visited(height, width, reach)
    down, right = (draws.integers(-reach, reach, here.size).reshape(here.shape) for _ in range(2))
    down *= width
    there = here + (down + right)
    shows = np.arange(height * width)
    shows.reshape(height, width)[inner] = there
    later = np.zeros(height * width, bool)  # whether what a pixel shows had been overwritten before
    later.reshape(height, width)[inner] = inside.take(there) & (there > here)
    found = shows.copy()
    open_ends = np.flatnonzero(later)
    link = shows.take(open_ends)
    while open_ends.size:
        goes_on = later.take(link)
        link = shows.take(link)
        found[open_ends] = link
        open_ends, link = open_ends[goes_on], link[goes_on]
    return found


@lru_cache(maxsize=32)
def _visited(
    height: int, width: int, reach: int
) -> tuple[tuple[slice, slice], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The pixels that a round visits (all but a margin) as slices, as indices, and as a mask."""
    inner = slice(reach + 1, height - reach + 1), slice(reach + 1, width - reach + 1)
    inside = np.zeros((height, width), bool)
    inside[inner] = True
    return inner, np.arange(height * width).reshape(height, width)[inner], inside


def motion_blur(image: Pixels, radius: float, sigma: float, draws: Draws) -> Pixels:
    """Along a line between −45° and 45°; ``radius`` and ``sigma`` are those of :func:`along_line`."""
    angle = draws.number(-45, 45)
    return np.stack(tuple(filters.levels(along_line(filters.planar(image), radius, sigma, angle), added=0.5)), -1)


def along_line(values: Floats, radius: float, sigma: float, degrees: float) -> Floats:
    """ImageMagick's motion blur of ``(C, H, W)``: half a Gaussian of ``2 · radius + 1`` whole steps to one side.

    The weight of step i is exp(−i² / 2 sigma²), its place the pixel nearest to i steps along the angle; beyond the edge
    the outermost pixel goes on.
    """
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    x = np.ceil(steps * math.cos(math.radians(degrees)) - 0.5).astype(int)
    y = np.ceil(steps * math.sin(math.radians(degrees)) - 0.5).astype(int)
    keep = weights > 1e-7  # less than a thousandth of a level altogether
    weights, x, y = weights[keep], x[keep], y[keep]
    kernel = np.zeros((np.ptp(y) + 1, np.ptp(x) + 1), np.float32)
    np.add.at(kernel, (y - y.min(), x - x.min()), weights)
    return filters.correlate(np.pad(values, ((0, 0), (-y.min(), y.max()), (-x.min(), x.max())), "edge"), kernel)


def zoom_blur(image: Pixels, stop: float, step: float, draws: Draws) -> Pixels:
    """The mean of the image and its enlargements by ``numpy.arange(1, stop, step)`` about the centre."""
    height, width = image.shape[:2]
    if height * width >= DIRECT_FROM:
        return filters.interleaved(zoomed_one_by_one(filters.planar(image), stop, step))
    pixels = image.reshape(-1, 3).astype(np.float32)
    return filters.levels(_zoom(height, width, stop, step)(pixels)).reshape(image.shape)


def zoomed_one_by_one(values: Floats, stop: float, step: float) -> Floats:
    """The zoom blur of ``(C, H, W)``, one enlargement at a time."""
    height, width = values.shape[1:]
    factors = np.arange(1, stop, step)
    total = values.copy()
    for factor in factors:
        top, rows, tall, trim_top = filters.zoom_lines(height, factor)
        left, columns, wide, trim_left = filters.zoom_lines(width, factor)
        crop = np.ascontiguousarray(values[:, top : top + rows, left : left + columns])
        total += filters.enlarged(crop, tall, wide)[:, trim_top : trim_top + height, trim_left : trim_left + width]
    total /= len(factors) + 1
    return total


@lru_cache(maxsize=5)
def _zoom(height: int, width: int, stop: float, step: float) -> Callable[[Floats], Floats]:
    """All enlargements are linear, so their mean is one sparse matrix over the pixels: ``(HW, HW) @ (HW, 3)``."""
    import torch
    from scipy.sparse import csr_array, eye_array, kron

    factors = np.arange(1, stop, step)
    matrix = eye_array(height * width, format="csr")
    for factor in factors:
        matrix = matrix + kron(*(csr_array(_enlarging(side, factor)) for side in (height, width)), format="csr")
    matrix = (matrix / (len(factors) + 1)).astype(np.float32)
    if not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]  # torch multiplies sparse matrices by MKL only
        return lambda pixels: matrix @ pixels
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)  # says that it is a beta
        compressed = torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int32)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.data),
            size=matrix.shape,
        )
    return lambda pixels: (compressed @ torch.from_numpy(pixels)).numpy()


def _enlarging(size: int, factor: float) -> npt.NDArray[np.float64]:
    """``(size, size)``: bilinear enlargement of a line about its centre."""
    first, count, length, trim = filters.zoom_lines(size, factor)
    at = (np.arange(size) + trim) * ((count - 1) / (length - 1)) + first
    left = np.minimum(at.astype(int), size - 2)
    matrix = np.zeros((size, size))
    matrix[np.arange(size), left] = left + 1 - at
    matrix[np.arange(size), left + 1] = at - left
    return matrix
