"""What a faster file may cost: top-1 of two networks on the same images, with an interval of the difference.

Both answer every image, so only those that one gets right and the other wrong tell them apart (McNemar 1947). The
interval is Tango's score interval for paired proportions ("Equivalence test and confidence interval for the difference
in proportions for the paired-sample design", Statistics in Medicine 17, 1998). It keeps its coverage where hardly any
image changes, and has a width where none does.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np
import numpy.typing as npt

from nextify.evaluation.metrics import calibration
from nextify.evaluation.runner import Floats

_Z = NormalDist().inv_cdf(0.975)
"""Of a two-sided 95 % interval."""


@dataclass(frozen=True)
class Answers:
    """What one network says about labelled images."""

    right: npt.NDArray[np.bool_]
    """``(N,)``"""
    confidence: Floats
    """``(N,)`` highest probability of each image."""

    @classmethod
    def of(cls, probabilities: Floats, labels: npt.NDArray[np.int64]) -> Self:
        return cls(probabilities.argmax(1) == labels, probabilities.max(1))

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * float(self.right.mean())

    @property
    def ece(self) -> float:
        """Expected calibration error, percent."""
        return 100 * calibration(self.confidence, self.right)[0]


@dataclass(frozen=True)
class Change:
    """Top-1 of one network minus that of another on the same images, percentage points."""

    value: float
    low: float
    high: float
    """Ends of the 95 % interval."""
    lost: int
    """Images that only the other got right."""
    won: int
    """Images that only this one got right."""
    images: int


def change(before: Answers, after: Answers) -> Change:
    """How much top-1 changes from ``before`` to ``after``."""
    n = len(before.right)
    lost = int((before.right & ~after.right).sum())
    won = int((~before.right & after.right).sum())
    low, high = interval(lost, won, n)
    return Change(100 * (won - lost) / n, 100 * low, 100 * high, lost, won, n)


def interval(lost: int, won: int, n: int) -> tuple[float, float]:
    """Tango's 95 % interval of (won − lost) / n, both ends found by bisection."""

    def score(difference: float) -> float:
        """Standard deviations between what was seen and ``difference``, which fall as that grows."""
        b = -won - lost + (2 * n - won + lost) * difference
        c = -lost * difference * (1 - difference)
        only_lost = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * only_lost + difference * (1 - difference))
        gap = won - lost - n * difference
        return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap)

    seen, ends = (won - lost) / n, []
    for target, bound in ((_Z, -1.0), (-_Z, 1.0)):
        outer, inner = bound, seen
        for _ in range(60):
            middle = (outer + inner) / 2
            if abs(score(middle)) > abs(target):
                outer = middle
            else:
                inner = middle
        ends.append(outer)
    return ends[0], ends[1]


def images_needed(max_drop: float) -> int:
    """The fewest images on which a network that changes no answer is shown to lose less than ``max_drop`` points."""
    return 1 + math.ceil(_Z**2 * (100 / max_drop - 1))
