"""How a cost grows with the number of pixels: the exponent k of cost = c · pixels^k. Pure functions on numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nextify.report.text import signed

QUANTITIES = {
    "macs": "multiply-adds",
    "attention_macs": "attention's multiply-adds",
    "attention_share": "attention's share of the multiply-adds",
    "latency_ms_p50": "time of one image",
    "batch_ms_per_image": "time per image in batches",
    "training_ms_per_image": "time per image in training",
    "inference_mib": "memory in inference",
    "training_mib": "memory in training",
}
"""The keys of a row whose growth with the pixels is fitted, and their words."""


@dataclass(frozen=True)
class Growth:
    """A least-squares line through the logarithms: 1 is growth in proportion to the pixels, 2 is quadratic."""

    exponent: float
    standard_error: float | None
    """Of the exponent, from how far the points lie off the line; None with fewer than 3 sizes."""
    n: int
    """Sizes."""


def fit(pixels: Sequence[float], costs: Sequence[float]) -> Growth | None:
    """The exponent of cost against pixels, or None with fewer than 2 different sizes or a cost that is not above 0."""
    points = [(math.log(p), math.log(c)) for p, c in zip(pixels, costs, strict=True) if p > 0 and c > 0]
    n = len(points)
    if n < len(costs) or len({x for x, _ in points}) < 2:
        return None
    x_mean, y_mean = (math.fsum(values) / n for values in zip(*points, strict=True))
    spread = math.fsum((x - x_mean) ** 2 for x, _ in points)
    slope = math.fsum((x - x_mean) * (y - y_mean) for x, y in points) / spread
    if n < 3:
        return Growth(slope, None, n)
    residual = math.fsum((y - y_mean - slope * (x - x_mean)) ** 2 for x, y in points)
    return Growth(slope, math.sqrt(residual / (n - 2) / spread), n)


def exponent(growth: Mapping[str, Any]) -> str:
    """``1.03 ± 0.02``."""
    error = growth["standard_error"]
    value = signed(growth["exponent"]).lstrip("+")
    return value if error is None else f"{value} ± {error:.2f}"
