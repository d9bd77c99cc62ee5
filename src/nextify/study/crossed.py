"""A step's mean change over seeds and test images that are both samples: new ones of the same kind are what it is for.

The difference between two steps with seed s on image i, −1, 0 or 1, is modelled with crossed random effects as
d(s, i) = change + seed(s) + image(i) + rest(s, i). The mean over S seeds and I images then has the variance
seed² / S + image² / I + rest² / (S I), estimated from the mean squares of a two-way table (Searle, Casella and
McCulloch, *Variance Components*, 1992, section 4.5) and judged by Student's t with Satterthwaite's degrees of freedom
(Biometrics Bulletin 2, 1946). Where few seeds make an effect's estimate negative, the larger mean square stands alone:
the variance is never below that of seeds alone or of images alone. How often it errs: docs/study.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


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
    def of(cls, own: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> Self | None:
        """From which images two steps get right, ``(S, I)`` each; None with fewer than 2 seeds or images."""
        import numpy as np

        seeds, images = own.shape
        if seeds < 2 or images < 2:
            return None
        d = 100.0 * (own.astype(np.float64) - other)
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
        return math.sqrt(self._larger / (self.seeds * self.images))

    @property
    def image_error(self) -> float:
        """What would be left of the standard error with any number of seeds, points."""
        return math.sqrt(max(0.0, self.by_image - self.rest) / (self.seeds * self.images))

    @property
    def degrees(self) -> float:
        """Satterthwaite's degrees of freedom, without those of the rest, which errs on the safe side."""
        from_both = self.by_seed**2 / (self.seeds - 1) + self.by_image**2 / (self.images - 1)
        return self._larger**2 / from_both if from_both else self.seeds - 1

    @property
    def p(self) -> float:
        """Two-sided, of "the step changes nothing"."""
        from scipy.special import stdtr

        if self.error == 0:
            return 1.0 if self.change == 0 else 0.0
        return 2 * float(stdtr(self.degrees, -abs(self.change) / self.error))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The ends of the confidence interval, points."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.degrees, (1 + confidence) / 2)) * self.error
        return self.change - half, self.change + half

    def with_seeds(self, seeds: int) -> Self:
        """What to expect of another number of seeds, if change and effects are as estimated."""
        image = max(0.0, self.by_image - self.rest) / self.seeds
        return type(self)(seeds, self.images, self.change, self.by_seed, seeds * image + self.rest, self.rest)

    @property
    def _larger(self) -> float:
        return max(self.by_seed, self.by_image, self.by_seed + self.by_image - self.rest)
