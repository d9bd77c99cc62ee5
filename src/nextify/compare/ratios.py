"""One network's speed over another's, from rounds in which they took turns; and beside the paper's Table 12.

In a mean speed, rounds weigh by the square of their rank, the fastest the most: other work on the machine only ever
takes time, and takes more from some networks than from others (docs/compare.md).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nextify.compare.records import Model, Row

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

    @property
    def brief(self) -> str:
        """``1.08 [0.94, 1.21]``."""
        return f"{self.ratio:.2f} [{self.low:.2f}, {self.high:.2f}]"


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
    base = reference([row.model for row in rows]) if rows else ""
    of_base = {row.image_size: row.speeds() for row in rows if row.model == base}
    for row in rows:
        for (what, batch), speed in row.speeds().items():
            theirs = of_base.get(row.image_size, {}).get((what, batch))
            if row.model != base and theirs:
                found = ratio(speed.rounds, theirs.rounds)
                yield SpeedRatio(
                    **vars(found),
                    model=row.model,
                    reference=base,
                    image_size=row.image_size,
                    what=what,
                    batch_size=batch,
                )


@dataclass(frozen=True)
class Beside:
    """One network at a size for which Table 12 prints its inference speed, in images/s in the largest batches."""

    model: str
    image_size: int
    batch_size: int
    images_per_second: float
    published: float
    swin: str | None = None
    """For a ConvNeXt, the Swin of its size, where it was measured at the same batch size."""
    ratio: Ratio | None = None
    """Over that Swin."""
    published_ratio: float | None = None


def table_12(models: Sequence[Model], rows: Sequence[Row]) -> Iterator[Beside]:
    """A row for each network and size whose inference speed the paper prints."""
    by_label = {model.model: model for model in models}

    def published(row: Row) -> float | None:
        return by_label[row.model].printed(row.image_size, "images_per_second", "images_per_second_384")

    swins = [(row, top) for row in rows if by_label[row.model].family == "Swin" and (top := published(row))]
    for row in rows:
        printed = published(row)
        if not row.throughput or not printed:
            continue
        speed = row.throughput[-1]
        found = Beside(row.model, row.image_size, speed.batch_size, speed.images_per_second, printed)
        for swin, of_swin in swins if by_label[row.model].family == "ConvNeXt" else ():
            theirs = swin.speeds().get(("inference", speed.batch_size))
            if theirs and (swin.image_size, _size_name(swin)) == (row.image_size, _size_name(row)):
                over = ratio(speed.rounds, theirs.rounds)
                found = replace(found, swin=swin.model, ratio=over, published_ratio=printed / of_swin)
        yield found


def _size_name(row: Row) -> str | None:
    """``tiny`` of ``convnext_tiny`` and of ``swin_tiny_patch4_window7``."""
    found = re.match(r"(?:convnext|swin)_([a-z]+)(?:_patch|$)", row.model)
    return found and found[1]
