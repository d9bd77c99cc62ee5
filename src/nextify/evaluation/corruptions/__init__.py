"""The 15 corruptions of ImageNet-C at 5 severities, for images of any size.

Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
ICLR 2019 (arXiv 1903.12261). Definitions and strengths follow its reference code; the implementation is new.
``docs/robustness.md`` lists every place where pixels may differ; ``benchmarks/corruptions.py`` measures the speed.

    corrupt(image, "fog", severity=3, seed=7)
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nextify.evaluation.corruption_names import CORRUPTIONS, GROUPS, SEVERITIES
from nextify.evaluation.corruptions import blur, digital, noise, weather
from nextify.evaluation.corruptions.constants import CONSTANTS, published_size
from nextify.evaluation.corruptions.draws import Draws
from nextify.evaluation.corruptions.filters import Pixels

__all__ = ["CORRUPTIONS", "GROUPS", "SEVERITIES", "SMALLEST_SIDE", "corrupt", "published_size"]

SMALLEST_SIDE = 8
"""Shortest side in pixels for which the corruptions are meaningful."""

_FUNCTIONS: dict[str, Callable[..., Pixels]] = {
    name: getattr(room, name)
    for room in (noise, blur, weather, digital)
    for name in CORRUPTIONS
    if getattr(getattr(room, name, None), "__module__", None) == room.__name__
}


def corrupt(
    image: Pixels, corruption: str, severity: int, seed: int = 0, *, frost_pictures: Path | None = None
) -> Pixels:
    """Corrupt one image; the result depends only on the arguments.

    Args:
        image: ``(H, W, 3)`` uint8, both sides at least 8 pixels. Not modified.
        corruption: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: decides all random numbers; give each image of a set its own.
        frost_pictures: folder of the reference's pictures of frost (``frost1.png`` to ``frost5.jpg``), for ``frost``.
            None generates textures, whose errors cannot be compared with published ones.

    Returns:
        ``(H, W, 3)`` uint8, a new array.

    Raises:
        ValueError: an unknown corruption, or an invalid severity, dtype or shape.
    """
    if corruption not in _FUNCTIONS:
        raise ValueError(f"no corruption is called {corruption!r}; there are {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1 to 5, got {severity!r}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < SMALLEST_SIDE:
        raise ValueError(
            f"an image must be uint8 of (H, W, 3), {SMALLEST_SIDE} pixels or more a side; "
            f"got {image.dtype} of {image.shape}"
        )
    strength: Any = CONSTANTS[published_size(*image.shape[:2])][corruption][severity - 1]
    arguments = strength if isinstance(strength, tuple) else (strength,)
    function = _FUNCTIONS[corruption]
    if corruption == "frost":
        function = partial(function, pictures=frost_pictures)
    return function(image, *arguments, Draws(seed, CORRUPTIONS.index(corruption), severity))
