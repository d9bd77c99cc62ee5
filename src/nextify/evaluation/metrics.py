"""What predictions say beside their accuracy: per class, confusion, calibration. Pure functions on arrays.

Expected calibration error as in Guo et al. 2017 (arXiv 1706.04599, equation 3): equal-width bins of the highest
probability, the absolute gap between mean confidence and accuracy of each, weighted by its share of the images.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

CALIBRATION_BINS = 15
"""Guo et al.'s number."""
Z95 = 1.959963984540054
"""The normal distribution's quantile of 0.975."""


@dataclass(frozen=True)
class Bin:
    """One bar of a reliability diagram."""

    low: float
    high: float
    images: int
    confidence: float | None
    """Mean of the highest probability; None in an empty bin."""
    accuracy: float | None
    """Share that is right, 0 to 1; None in an empty bin."""


@dataclass(frozen=True)
class ClassAccuracy:
    name: str
    images: int
    top1: float | None
    """Percent of this class's images that are recognized (recall); None without images."""
    predicted: int
    """Images that were given this class."""
    precision: float | None
    """Percent of those that are of this class; None where there are none."""


def confusion(predicted: Ints, labels: Ints, num_classes: int) -> npt.NDArray[np.int64]:
    """``(K, K)`` counts: row the true class, column the predicted one."""
    flat = np.bincount(labels.astype(np.int64) * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def per_class(counts: npt.NDArray[np.int64], names: Sequence[str]) -> list[ClassAccuracy]:
    """Recall and precision of each class from a confusion matrix."""
    found = []
    for i, name in enumerate(names):
        images, predicted, right = int(counts[i].sum()), int(counts[:, i].sum()), int(counts[i, i])
        recall = 100 * right / images if images else None
        found.append(ClassAccuracy(name, images, recall, predicted, 100 * right / predicted if predicted else None))
    return found


def wilson(right: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy of ``right`` of ``images``, in percent (Wilson 1927)."""
    n, p = images, right / images  # scipy.stats.binomtest gives the same, but its import takes longer than a listing
    center, spread = 2 * right + Z95**2, Z95 * math.sqrt(Z95**2 + 4 * n * p * (1 - p))
    low, high = ((center + side * spread) / (2 * (n + Z95**2)) for side in (-1, 1))
    return 100 * (low if right else 0.0), 100 * (high if right < images else 1.0)


def unpacked(right: str | None, images: int, top1: float) -> npt.NDArray[np.bool_] | None:
    """Of each test image whether a classifier gets it right, ``(N,)``, from the ``right`` of a ``result.json``; None
    where that is unknown or contradicts ``top1``, percent."""
    try:
        bits = np.frombuffer(base64.b64decode(right or "", validate=True), np.uint8)
        found = np.unpackbits(bits, count=images).astype(np.bool_)
    except ValueError:
        return None
    return found if 8 * len(bits) >= images and 100 * int(found.sum()) / images == top1 else None


def confidence_gap(bins: Sequence[Bin]) -> float:
    """Mean confidence minus accuracy, in percentage points: above 0 the network is surer than it is right."""
    gaps = [b.images * (b.confidence - b.accuracy) for b in bins if b.confidence is not None and b.accuracy is not None]
    return 100 * sum(gaps) / sum(b.images for b in bins)


def calibration(
    confidence: Floats, right: npt.NDArray[np.bool_], bins: int = CALIBRATION_BINS
) -> tuple[float, list[Bin]]:
    """Expected calibration error (0 to 1) and the reliability diagram's bins, of the highest probability of each image,
    ``confidence (N,)``, and whether its class is the ``right (N,)`` one."""
    if not len(confidence):
        raise ValueError("no images to measure calibration on: give at least one")
    edges = np.linspace(0, 1, bins + 1)
    # Bins are open below and closed above, as in the paper; zero belongs to the first.
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    error, found = 0.0, []
    for i in range(bins):
        inside = place == i
        count = int(inside.sum())
        mean = float(confidence[inside].mean(dtype=np.float64)) if count else None
        accuracy = float(right[inside].mean()) if count else None
        if mean is not None and accuracy is not None:
            error += count / len(confidence) * abs(mean - accuracy)
        found.append(Bin(float(edges[i]), float(edges[i + 1]), count, mean, accuracy))
    return error, found
