"""One network's speed over another's, from rounds in which they took turns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nextify.evaluation.profiling import median, median_interval


def paired(speeds: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Round by round: the median, its interval of 95 %, and their number, as ``ratio``, ``low``, ``high``, ``n``."""
    found = [a / b for a, b in zip(speeds, reference, strict=False)]
    low, high = median_interval(found)
    return {"ratio": median(found), "low": low, "high": high, "n": len(found)}


def undisturbed(speeds: Sequence[float], reference: Sequence[float]) -> float:
    """The ratio of two networks' mean speeds, in which rounds weigh by the square of their rank, the fastest the most.

    What else runs on a machine only ever takes time, and from some networks more than from others: where its share of
    the rounds changes from run to run, a median changes sides.
    """

    def mean(values: Sequence[float]) -> float:
        weights = [rank**2 for rank in range(1, len(values) + 1)]
        return math.fsum(w * v for w, v in zip(weights, sorted(values), strict=True)) / sum(weights)

    return mean(speeds) / mean(reference)


def spread(row: Mapping[str, Any]) -> str:
    """``n = 20 rounds, 0.94 to 1.02``."""
    return f"n = {row['n']} rounds, {row['low']:.2f} to {row['high']:.2f}"
