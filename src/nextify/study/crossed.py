"""A step's mean change over seeds and test images that are both samples: new ones of the same kind are what it is for.

The difference between two steps with seed s on image i (in accuracy −1, 0 or 1; otherwise that of the image's scores)
is modelled with crossed random effects as d(s, i) = change + seed(s) + image(i) + rest(s, i). The mean over S seeds and
I images then has the variance (seed² + rest² / I) / S + image² / I, estimated from the mean squares of a two-way table
(Searle, Casella and McCulloch, *Variance Components*, 1992, section 4.5). The first part is known from S − 1 degrees of
freedom and the second from about I − 1, so each is multiplied by the square of its own quantile of Student's t
(simulations: docs/study.md; Satterthwaite's degrees of freedom: docs/log.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import numpy.typing as npt


SMALLEST_P = 1e-12
"""Quantiles of smaller ones are not needed."""


@dataclass(frozen=True)
class Crossed:
    """The mean change of a step in percentage points, for new seeds and new images."""

    seeds: int
    """At least 2."""
    images: int
    """At least 2."""
    change: float
    by_seed: float
    by_image: float
    rest: float
    """Mean squares between the seeds' means, between the images' means, and of what neither explains; points²."""

    @classmethod
    def of(cls, own: npt.NDArray[Any], other: npt.NDArray[Any]) -> Self | None:
        """From which images two steps get right, or the images' scores in percent, ``(S, I)`` each; None with fewer
        than 2 seeds or images."""
        import numpy as np

        seeds, images = own.shape
        if seeds < 2 or images < 2:
            return None
        d = (100.0 if own.dtype == np.bool_ else 1.0) * (own.astype(np.float64) - other)
        mean, of_seed, of_image = d.mean(), d.mean(1), d.mean(0)
        seed_sum = images * np.square(of_seed - mean).sum()
        image_sum = seeds * np.square(of_image - mean).sum()
        rest_sum = max(0.0, np.square(d - mean).sum() - seed_sum - image_sum)
        return cls(
            *(seeds, images, float(mean), float(seed_sum / (seeds - 1)), float(image_sum / (images - 1))),
            float(rest_sum / ((seeds - 1) * (images - 1))),
        )

    @property
    def error(self) -> float:
        """Standard error of the change, points."""
        return math.sqrt(self._squares(1.0, 1.0))

    @property
    def image_error(self) -> float:
        """What would be left of the standard error with any number of seeds, points."""
        return math.sqrt(self._squares(0.0, 1.0))

    def half_width(self, p: float) -> float:
        """Of the interval that leaves out 0 where the two-sided p-value is below ``p``, points."""
        from scipy.special import stdtrit

        of_seed, of_image = (float(stdtrit(n - 1, p / 2)) ** 2 for n in (self.seeds, self.images))
        return math.sqrt(self._squares(of_seed, of_image))

    @property
    def p(self) -> float:
        """Two-sided, of "the step changes nothing"; not below ``SMALLEST_P``."""
        from scipy.optimize import brentq

        if abs(self.change) <= self.half_width(1.0):  # 0, but for rounding
            return 1.0
        if abs(self.change) >= self.half_width(SMALLEST_P):
            return SMALLEST_P
        return math.exp(brentq(lambda log: self.half_width(math.exp(log)) - abs(self.change), math.log(SMALLEST_P), 0))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The ends of the confidence interval, points."""
        half = self.half_width(1 - confidence)
        return self.change - half, self.change + half

    def with_seeds(self, seeds: int) -> Self:
        """What to expect of another number of seeds, if change and effects are as estimated."""
        image = max(0.0, self.by_image - self.rest) / self.seeds
        return type(self)(seeds, self.images, self.change, self.by_seed, seeds * image + self.rest, self.rest)

    def _squares(self, of_seed: float, of_image: float) -> float:
        """The two parts of the variance, multiplied by these."""
        image = max(0.0, self.by_image - self.rest)
        # Between seeds there is at least what the rest makes of it; seeds that happen to agree must not look certain.
        return (of_seed * max(self.by_seed, self.rest) + of_image * image) / (self.seeds * self.images)
