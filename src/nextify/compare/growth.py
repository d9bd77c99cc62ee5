"""How a cost grows with the number of pixels: the exponent k of cost = c · pixels^k."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import linregress

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
    if len(set(pixels)) < 2 or min(costs) <= 0:
        return None
    line = linregress(np.log(pixels), np.log(costs))
    return Growth(float(line.slope), float(line.stderr) if len(pixels) > 2 else None, len(pixels))


def growths(rows: Sequence[Row]) -> Iterator[tuple[tuple[str, str], Growth]]:
    """``((network, quantity), growth)`` wherever it can be fitted."""
    for model in dict.fromkeys(row.model for row in rows):
        for quantity in QUANTITIES:
            points = {r.image_size**2: c for r in rows if r.model == model and (c := getattr(r, quantity))}
            if (found := fit(list(points), list(points.values()))) is not None:
                yield (model, quantity), found
