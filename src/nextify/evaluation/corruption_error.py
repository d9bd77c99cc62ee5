"""The corruption error of Hendrycks and Dietterich (ICLR 2019, arXiv 1903.12261, section 4.1).

With E the network's top-1 error and B the baseline's, the corruption error of corruption c sums over severities s:

    CE_c = Σ_s E_c,s / Σ_s B_c,s        relative CE_c = Σ_s (E_c,s − E_clean) / Σ_s (B_c,s − B_clean)

mCE is the mean of CE over the corruptions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nextify.evaluation.corruption_names import GROUPS

ALEXNET_CLEAN_ERROR = 43.5
"""Percent, on ImageNet's validation images (Table 1 of the paper). torchvision's AlexNet has 43.48."""
ALEXNET_ERRORS: dict[str, float] = {
    "gaussian_noise": 88.6428,
    "shot_noise": 89.4468,
    "impulse_noise": 92.2640,
    "defocus_blur": 81.9880,
    "glass_blur": 82.6268,
    "motion_blur": 78.5948,
    "zoom_blur": 79.8360,
    "snow": 86.6816,
    "frost": 82.6572,
    "fog": 81.9324,
    "brightness": 56.4592,
    "contrast": 85.3204,
    "elastic_transform": 64.6056,
    "pixelate": 71.7840,
    "jpeg_compression": 60.6500,
}
"""Percent, mean over the five severities of ImageNet-C; the published mCE is normalized by these. Source:
google-research/augmix, ``imagenet.py`` (commit 202cf4c), after github.com/hendrycks/robustness. Rounded, they are the
paper's."""


@dataclass(frozen=True)
class Point:
    """A network's errors at one severity of one corruption."""

    corruption: str
    severity: int
    error: float
    """Top-1 error in percent."""
    expected_calibration_error: float
    """0 to 1."""
    baseline_error: float | None
    """Top-1 error of the baseline in percent, if it was measured here."""


@dataclass(frozen=True)
class Summary:
    """A network's errors under one corruption, over its severities."""

    corruption: str
    group: str
    error: float
    """Mean top-1 error in percent."""
    expected_calibration_error: float
    """Mean, 0 to 1."""
    baseline_error: float | None
    """Mean top-1 error of the baseline in percent."""
    corruption_error: float | None
    """CE in percent; below 100 is better than the baseline. None without a baseline or if it makes no errors."""
    relative_corruption_error: float | None
    """Relative CE in percent; None if the corruption does not hurt the baseline."""


def summarize(
    name: str, points: Sequence[Point], clean: float, base_clean: float | None, alexnet: bool = False
) -> Summary:
    """Compute CE and relative CE of one corruption from its severities."""
    error = float(np.mean([p.error for p in points]))
    base = ALEXNET_ERRORS[name] if alexnet else None
    if measured := [p.baseline_error for p in points if p.baseline_error is not None]:
        base = float(np.mean(measured))
    relative = None
    if base is not None and base_clean is not None and base > base_clean:
        relative = 100 * (error - clean) / (base - base_clean)
    return Summary(
        corruption=name,
        group=next(group for group, names in GROUPS.items() if name in names),
        error=error,
        expected_calibration_error=float(np.mean([p.expected_calibration_error for p in points])),
        baseline_error=base,
        corruption_error=100 * error / base if base else None,
        relative_corruption_error=relative,
    )


def mean_if_all(values: Sequence[float | None]) -> float | None:
    """The mean, or None if a value is missing."""
    present = [v for v in values if v is not None]
    return float(np.mean(present)) if present and len(present) == len(values) else None
