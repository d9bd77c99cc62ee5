"""Gaussian, shot (Poisson) and impulse noise. Strengths are fractions of the full range, photons, and fractions."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from nextify.evaluation.corruptions.draws import Draws
from nextify.evaluation.corruptions.filters import Pixels, levels


def gaussian_noise(image: Pixels, scale: float, draws: Draws) -> Pixels:
    """Add normal noise of standard deviation ``scale`` to each value of each channel."""
    noise = draws.normal(*image.shape)
    noise *= np.float32(255 * scale)
    noise += image
    return levels(noise)


def shot_noise(image: Pixels, photons: float, draws: Draws) -> Pixels:
    """Replace each value by a Poisson count; ``photons`` is the expected count of white."""
    rows = image.astype(np.int32).ravel()
    rows <<= 16
    rows |= draws.bits(rows.size)
    return _poisson(photons).take(rows).reshape(image.shape)


@lru_cache(maxsize=5)
def _poisson(photons: float) -> npt.NDArray[np.uint8]:
    """``(256 · 65536,)``: for each level its noisy levels at 65,536 equally likely quantiles.

    Probabilities are exact to 2⁻¹⁶; from ``photons`` on, all counts are white.
    """
    from scipy.special import pdtr

    counts = np.arange(int(np.ceil(photons)) + 1)
    seen = np.uint8(np.clip(counts / photons, 0, 1) * 255)
    expected = np.arange(256)[:, None] / 255 * photons
    below = np.rint(pdtr(counts[:-1], expected) * 65_536).astype(np.int64)  # (256, counts - 1)
    below[0] = 65_536  # black stays black
    edges = np.concatenate([np.zeros((256, 1), np.int64), below, np.full((256, 1), 65_536)], axis=1)
    return np.repeat(np.tile(seen, 256), np.diff(edges, axis=1).ravel())


def impulse_noise(image: Pixels, amount: float, draws: Draws) -> Pixels:
    """Set a fraction ``amount`` of the values of each channel to white or black, half each."""
    bits = draws.bits(image.size).reshape(image.shape)
    half = round(amount * 32_768)
    noisy = image.copy()
    noisy[bits < half] = 0
    noisy[bits >= 65_536 - half] = 255
    return noisy
