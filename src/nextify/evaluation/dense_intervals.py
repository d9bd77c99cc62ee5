"""How far AP and mIoU might lie apart on other test images of the same kind: intervals of the percentile bootstrap.

A draw takes as many images as there are, with replacement (Efron 1979); the interval holds the middle 95 % of the
figures of all draws. What each image contributes is worked out once and counted as often as the image was drawn. The
network is the same in all draws: what another seed or training would change is not in the interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nextify.evaluation.dense_metrics import overlaps
from nextify.tasks.average_precision import MOST_FOUND, Observation

DRAWS = 1000
SEED = 0
THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's IoU thresholds."""
AT_ONCE = 2_000_000
"""Numbers that are held for some of the draws at a time."""

Interval = tuple[float, float]
Floats = npt.NDArray[np.float64]
Matches = npt.NDArray[np.bool_]


def ap_intervals(seen: Sequence[Observation], num_classes: int, draws: int = DRAWS) -> dict[str, Interval]:
    """95 % intervals of ``ap`` and ``ap50`` of boxes, percent; none for a single image.

    Args:
        seen: one observation per image, with at least one object to be found.
    """
    if len(seen) < 2:
        return {}
    seen = sorted(seen, key=lambda one: one.image)
    weights = draw_counts(len(seen), draws)
    shared = [overlaps(one) for one in seen]
    sums, classes = np.zeros((draws, len(THRESHOLDS))), np.zeros((draws, 1))
    for label in range(num_classes):
        found = _ClassMatches.of(seen, shared, label)
        if not found.objects.any():
            continue
        for part in parts_of_draws(draws, len(found.scores) + 1):
            precision = found.average_precision(
                weights[part].astype(np.float64)
            )  # (draws, T), NaN for draws without objects
            classes[part] += ~np.isnan(precision[:, :1])
            sums[part] += np.nan_to_num(precision)
    drawn = 100 * sums[classes[:, 0] > 0] / classes[classes[:, 0] > 0]
    return {"ap": middle(drawn.mean(1)), "ap50": middle(drawn[:, 0])}


def miou_intervals(counts: Floats, draws: int = DRAWS) -> dict[str, Interval]:
    """The 95 % interval of ``miou``, percent; none for a single image.

    Args:
        counts: ``(N, 3, K)`` pixels of each image and class: right, true, and found.
    """
    if len(counts) < 2:
        return {}
    right, true, found = np.moveaxis(
        np.tensordot(draw_counts(len(counts), draws).astype(np.float64), counts, 1), 1, 0
    )  # (draws, K) each
    either = true + found - right
    there = either.sum(1) > 0
    iou = np.where(either > 0, right / np.maximum(either, 1), np.nan)[there]
    return {"miou": middle(100 * np.nanmean(iou, 1))}


def draw_counts(images: int, draws: int) -> npt.NDArray[np.uint16]:
    """``(draws, N)``: how often each draw takes each image."""
    random = np.random.default_rng(SEED)
    drawn = np.empty((draws, images), np.uint16)
    for row in drawn:
        row[:] = np.bincount(random.integers(0, images, images), minlength=images)
    return drawn


def parts_of_draws(draws: int, each: int) -> Iterator[slice]:
    """The draws, cut so that ``each`` numbers of every one fit the memory."""
    step = max(1, AT_ONCE // each)
    return (slice(start, start + step) for start in range(0, draws, step))


def middle(values: Floats) -> Interval:
    """What 95 % of the draws lie in."""
    low, high = np.percentile(values, (2.5, 97.5)).tolist()
    return low, high


class _ClassMatches:
    """The found objects of one class in all images, the surest first, and which of them are right."""

    def __init__(
        self,
        scores: Floats,
        image: npt.NDArray[np.int64],
        right: Matches,
        ignored: Matches,
        objects: Floats,
    ) -> None:
        """
        Args:
            scores: ``(M,)``, and ``image (M,)`` which image it is in.
            right: ``(M, T)`` at each threshold; ``ignored`` those that lie in a crowd.
            objects: ``(N,)`` true ones of each image, without crowds.
        """
        order = np.argsort(-scores, kind="stable")
        self.scores, self.image, self.right, self.ignored = scores[order], image[order], right[order], ignored[order]
        self.objects = objects

    @classmethod
    def of(cls, seen: Sequence[Observation], shared: Sequence[Floats], label: int) -> _ClassMatches:
        none = np.zeros((0, len(THRESHOLDS)), bool)
        counts = np.zeros(len(seen))
        rows: list[tuple[npt.NDArray[Any], ...]] = [(np.zeros(0), np.zeros(0, np.int64), none, none)]
        for i, (one, iou) in enumerate(zip(seen, shared, strict=True)):
            own, true = np.flatnonzero(one.labels == label), np.flatnonzero(one.truth.labels == label)
            if not len(own) and not len(true):
                continue
            own = own[np.argsort(-one.scores[own], kind="stable")][:MOST_FOUND]
            right, ignored = _matches(iou[np.ix_(own, true)], one.truth.crowd[true])
            counts[i] = (~one.truth.crowd[true]).sum()
            rows.append((one.scores[own], np.full(len(own), i), right, ignored))
        scores, image, right, ignored = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        return cls(scores, image, right, ignored, counts)

    def average_precision(self, weights: Floats) -> Floats:
        """``(draws, T)``, 0 to 1, NaN where no object was drawn; ``weights (draws, N)``."""
        objects = weights @ self.objects
        drawn = weights[:, self.image]
        everything = drawn.cumsum(1)
        out = np.zeros((len(weights), len(THRESHOLDS)))
        for t in range(len(THRESHOLDS)):
            at = np.flatnonzero(self.right[:, t])  # between them, precision only falls
            if not len(at):
                continue
            counted = (drawn * ~self.ignored[:, t]).cumsum(1) if self.ignored[:, t].any() else everything
            right = drawn[:, at].cumsum(1)
            precision = right / np.maximum(counted[:, at], 1)
            precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
            # How many of the recalls 0, 0.01, …, 1 are reached with each; the first reaches 0 as well.
            reached = np.floor(100 * right / np.maximum(objects, 1)[:, None] + 1e-9) + 1
            out[:, t] = (precision * np.diff(reached, axis=1, prepend=0)).sum(1) / 101
        out[objects == 0] = np.nan
        return out


def _matches(iou: Floats, crowd: Matches) -> tuple[Matches, Matches]:
    """Which found objects of one image and class are right and which are ignored, ``(M, T)`` each, as COCO matches.

    Args:
        iou: ``(M, N)``, the surest found object first.
        crowd: ``(N,)``.
    """
    right, ignored = (np.zeros((len(iou), len(THRESHOLDS)), bool) for _ in range(2))
    if not crowd.all():
        free = np.tile(~crowd, (len(THRESHOLDS), 1))  # (T, N)
        levels = np.arange(len(THRESHOLDS))
        for i in np.flatnonzero(iou[:, ~crowd].max(1) >= THRESHOLDS[0]).tolist():
            reach = np.where(free & (iou[i] >= THRESHOLDS[:, None]), iou[i], 0)
            best = reach.argmax(1)
            right[i] = reach[levels, best] > 0
            free[levels[right[i]], best[right[i]]] = False
    if crowd.any():
        ignored = ~right & (iou[:, crowd].max(1)[:, None] >= THRESHOLDS)
    return right, ignored
