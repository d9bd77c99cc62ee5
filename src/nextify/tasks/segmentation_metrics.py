"""Mean IoU and pixel accuracy of semantic segmentation, from one matrix of counts.

IoU of a class: pixels that are and were found to be of it, over those that are or were (PASCAL VOC, Everingham et al.
2010). The mean is over the classes that occur, in the truth or in what was found. Ignored pixels count nowhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nextify.data.dense.annotations import IGNORED

Counts = npt.NDArray[np.int64]


def pixel_confusion(found: Tensor, truth: Tensor, num_classes: int) -> Counts:
    """``(K, K)`` pixels: row the true class, column the found one; ``IGNORED`` pixels of the truth are left out.
    ``found`` and ``truth`` are class indices of the same shape, on any device."""
    counted = truth != IGNORED
    pairs = truth[counted].long() * num_classes + found[counted].long()
    return pairs.bincount(minlength=num_classes**2).reshape(num_classes, num_classes).cpu().numpy()


class Pixels(NamedTuple):
    """What the metrics need of some images."""

    counts: Counts
    images: int
    each: Counts | None = None
    """``(images, 3, K)`` pixels of each image and class: right, true, and found; None where that was not counted."""


def by_class(counts: Counts) -> Counts:
    """``(3, K)`` pixels of each class: right, true, and found; of ``counts (K, K)``."""
    return np.stack([counts.diagonal(), counts.sum(1), counts.sum(0)])


@dataclass(frozen=True)
class SegmentationMetrics:
    """Percent, over all pixels of all images."""

    images: int
    miou: float
    pixel_accuracy: float
    """Share of the pixels that have the right class."""
    iou: tuple[float | None, ...]
    """Of each class; None for one that neither is nor was found anywhere."""
    each: Counts | None = field(default=None, repr=False, compare=False)
    """``(images, 3, K)`` as ``Pixels`` has it."""

    @classmethod
    def of(cls, counts: Counts, images: int, each: Counts | None = None) -> Self:
        """The figures of a confusion matrix ``(K, K)`` as ``pixel_confusion`` makes it. Raises ``ValueError`` where no
        pixel was counted."""
        if not counts.sum():
            raise ValueError("no pixel of a known class to measure on: choose images whose masks are not all ignored")
        right, either = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
        there = either > 0
        iou = 100 * right / np.maximum(either, 1)
        shares = tuple(float(share) if seen else None for share, seen in zip(iou, there, strict=True))
        return cls(images, float(iou[there].mean()), 100 * float(right.sum() / counts.sum()), shares, each)

    @classmethod
    def over(cls, observations: Sequence[Pixels]) -> Self:
        """The figures over the observations of all batches. Raises ``ValueError`` as ``of``."""
        if not observations:
            raise ValueError("no images to measure segmentation on")
        counts, images = sum(seen.counts for seen in observations), sum(seen.images for seen in observations)
        every = [seen.each for seen in observations if seen.each is not None]
        return cls.of(counts, images, np.concatenate(every) if len(every) == len(observations) else None)  # type: ignore[arg-type]

    def values(self) -> dict[str, float]:
        return {"miou": self.miou, "pixel_accuracy": self.pixel_accuracy}
