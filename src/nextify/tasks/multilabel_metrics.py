"""Average precision and F1 of labels that are decided one by one. Pure functions on arrays.

Average precision is scikit-learn's: the sum of the precisions at the recalls that occur, each times the gain in recall.
Images of equal scores count at once, and nothing is interpolated. mAP is its mean over the classes that an image has
(macro).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]
UNFITTED = 0.5
"""The threshold of a class whose own could not be fitted."""
FEW = 5
"""A class of fewer held-out images keeps ``UNFITTED``: its own would be of chance."""


def average_precision(scores: Floats, truth: Flags, weights: Floats | None = None) -> Floats:
    """Average precision of one class, 0 to 1, of ``scores (N,)`` and ``truth (N,)``, for each row of ``weights (D,
    N)``: how often each image counts; None counts each once, as a single row. NaN without an image of the class."""
    order = np.argsort(-scores, kind="stable")
    scores, truth = scores[order], truth[order]
    weights = np.ones((1, len(scores))) if weights is None else weights[:, order]
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # of runs of equal scores
    right, counted = (weights * truth).cumsum(1)[:, ends], weights.cumsum(1)[:, ends]
    precision = right / np.maximum(counted, 1)
    with np.errstate(invalid="ignore"):
        recall = right / right[:, -1:]
    found: Floats = (np.diff(recall, axis=1, prepend=0) * precision).sum(1)
    return found


def probabilities(logits: Floats) -> npt.NDArray[np.float64]:
    """Of each label by itself; float64, where different logits stay different."""
    from scipy.special import expit

    found: npt.NDArray[np.float64] = expit(logits.astype(np.float64))
    return found


def fitted_thresholds(logits: Floats, truth: Flags) -> tuple[float, ...]:
    """For each class the probability from which its label is given: the one of highest F1 on these images, halfway to
    the next lower one; of equals the one nearest to 0.5. ``logits (N, K)`` are of images that were not trained on."""
    return tuple(_threshold(*column) for column in zip(probabilities(logits).T, truth.T, strict=True))


def _threshold(scores: Floats, truth: Flags) -> float:
    positives = int(truth.sum())
    if positives < FEW:
        return UNFITTED
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], truth[order].cumsum()
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    f1 = 2 * right[ends] / (ends + 1 + positives)
    lower = np.append(scores[ends][1:], 0.0)
    halfway = (scores[ends] + lower) / 2
    halfway = np.where(halfway > lower, halfway, scores[ends])
    best = halfway[f1 == f1.max()]
    return float(best[np.abs(best - 0.5).argmin()])


@dataclass(frozen=True)
class ClassPrecision:
    """One class at its threshold; percent, None where nothing is to be measured."""

    name: str
    images: int
    """That have the label."""
    ap: float | None
    threshold: float
    given: int
    """Images that were given the label."""
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, eq=False)
class MultiLabelMetrics:
    """What networks say about a set of images, and what is true."""

    logits: Floats = field(repr=False)
    """``(N, K)``."""
    truth: Flags = field(repr=False)
    """``(N, K)``."""
    thresholds: tuple[float, ...]
    """Least probability of each label that is given."""

    @property
    def images(self) -> int:
        return len(self.truth)

    @property
    def given(self) -> Flags:
        """``(N, K)``: the labels above their thresholds."""
        return decided(self.logits, self.thresholds)

    def at(self, thresholds: Sequence[float]) -> Self:
        """The same with other thresholds."""
        return replace(self, thresholds=tuple(thresholds))

    def average_precisions(self) -> Floats:
        """``(K,)``, 0 to 1, NaN for classes without an image."""
        columns = zip(self.logits.T, self.truth.T, strict=True)
        return np.array([average_precision(*column)[0] for column in columns])

    def values(self) -> dict[str, float]:
        """Percent. F1 is of all decisions together (micro), and averaged over the classes that mAP is over (macro).
        Raises ``ValueError`` where no image has a label."""
        there = self.truth.any(0)
        if not there.any():
            raise ValueError("no image has a label, so average precision is not defined: choose other images")
        right, given, true = (self.given & self.truth).sum(0), self.given.sum(0), self.truth.sum(0)
        f1 = 2 * right / np.maximum(given + true, 1)
        micro = 2 * right.sum() / max(1, given.sum() + true.sum())
        return {
            "map": 100 * float(self.average_precisions()[there].mean()),
            "micro_f1": 100 * float(micro),
            "macro_f1": 100 * float(f1[there].mean()),
        }

    def per_class(self, names: Sequence[str]) -> tuple[ClassPrecision, ...]:
        right, given, true = (self.given & self.truth).sum(0), self.given.sum(0), self.truth.sum(0)
        ap = self.average_precisions()
        return tuple(
            ClassPrecision(
                *(name, int(true[k]), 100 * float(ap[k]) if true[k] else None, self.thresholds[k], int(given[k])),
                precision=100 * float(right[k] / given[k]) if given[k] else None,
                recall=100 * float(right[k] / true[k]) if true[k] else None,
                f1=200 * float(right[k] / (given[k] + true[k])) if given[k] + true[k] else None,
            )
            for k, name in enumerate(names)
        )


def decided(logits: Floats, thresholds: Sequence[float]) -> Flags:
    """``(N, K)``: whether each label's probability reaches its threshold."""
    return probabilities(logits) >= np.array(thresholds)
