"""How a cost grows with the number of pixels: the exponent k of cost = c · pixels^k."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nextify.compare.records import Row
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
"""The fields of a row whose growth with the pixels is fitted, in words."""


@dataclass(frozen=True)
class Growth:
    """A least-squares line through the logarithms: 1 is growth in proportion to the pixels, 2 is quadratic."""

    exponent: float
    standard_error: float | None
    """From how far the points lie off the line; None with fewer than 3 sizes."""
    n: int
    """Sizes."""

    def __str__(self) -> str:
        """``1.03 ± 0.02``."""
        value = signed(self.exponent).lstrip("+")
        return value if self.standard_error is None else f"{value} ± {self.standard_error:.2f}"


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


def growths(rows: Sequence[Row]) -> Iterator[tuple[tuple[str, str], Growth]]:
    """``((network, quantity), growth)`` wherever it can be fitted."""
    for model in dict.fromkeys(row.model for row in rows):
        for quantity in QUANTITIES:
            own = [(row.image_size**2, getattr(row, quantity)) for row in rows if row.model == model]
            points = [(pixels, cost) for pixels, cost in own if cost]
            found = fit([p for p, _ in points], [c for _, c in points])
            if found is not None:
                yield (model, quantity), found
