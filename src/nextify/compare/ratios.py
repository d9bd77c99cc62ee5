"""One network's speed over another's, from rounds in which they took turns.

The ratio is that of the two mean speeds, in which rounds weigh by the square of their rank, the fastest the most: other
work on the machine only ever takes time, and takes more from some networks than from others. Its interval is that of
95 % over 2,000 draws of the shared rounds with replacement; with fewer than 6 rounds it is the range of the rounds' own
ratios.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nextify.compare.records import Row

DRAWS, FEWEST = 2000, 6
"""Resamples of the rounds, and the fewest rounds that are resampled."""


@dataclass(frozen=True)
class Ratio:
    """Above 1 the first network is the faster one. ``low`` and ``high`` are the ends of the interval."""

    ratio: float
    low: float
    high: float
    n: int
    """Rounds that both networks have."""

    @property
    def spread(self) -> str:
        """``n = 20 rounds, 0.94 to 1.02``."""
        return f"n = {self.n} rounds, {self.low:.2f} to {self.high:.2f}"


@dataclass(frozen=True)
class SpeedRatio(Ratio):
    """A network's images/s over the reference's."""

    model: str
    reference: str
    image_size: int
    what: str
    """``inference`` or ``training``."""
    batch_size: int
    """0 for training."""


def ratio(speeds: Sequence[float], reference: Sequence[float]) -> Ratio:
    """The ratio of two networks whose rounds are paired; rounds that only one of them has are left out."""
    n = min(len(speeds), len(reference))
    ours, theirs = np.asarray(speeds[:n], np.float64), np.asarray(reference[:n], np.float64)
    found = float(_mean(ours) / _mean(theirs))
    each = ours / theirs
    if n >= FEWEST:
        drawn = np.random.default_rng(0).integers(n, size=(DRAWS, n))
        each = np.quantile(_mean(ours[drawn]) / _mean(theirs[drawn]), (0.025, 0.975))
    return Ratio(found, float(each.min()), float(each.max()), n)


def _mean(speeds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean over the last axis in which values weigh by the square of their rank."""
    weights = np.arange(1, speeds.shape[-1] + 1, dtype=np.float64) ** 2
    mean: npt.NDArray[np.float64] = np.sort(speeds, -1) @ weights / weights.sum()
    return mean


def reference(names: Sequence[str]) -> str:
    """The network that others are compared with: ConvNeXt-T, else the first ConvNeXt, else the first."""
    if "convnext_tiny" in names:
        return "convnext_tiny"
    return next((name for name in names if name.startswith("convnext")), names[0])


def speed_ratios(rows: Sequence[Row]) -> Iterator[SpeedRatio]:
    """Every network's speeds over the reference's, size by size."""
    labels = list(dict.fromkeys(row.model for row in rows))
    base = reference(labels)
    for size in dict.fromkeys(row.image_size for row in rows):
        speeds = {row.model: row.speeds() for row in rows if row.image_size == size}
        for label in labels:
            for (what, batch), speed in speeds.get(label, {}).items():
                theirs = speeds.get(base, {}).get((what, batch))
                if label != base and theirs:
                    found = ratio(speed.rounds, theirs.rounds)
                    yield SpeedRatio(found.ratio, found.low, found.high, found.n, label, base, size, what, batch)
