"""How far AP and mIoU might lie apart on other test images of the same kind: intervals of the percentile bootstrap.

A draw takes as many images as there are, with replacement (Efron 1979); the interval holds the middle 95 % of the
figures of all draws. What each image contributes is worked out once and counted as often as the image was drawn. The
network is the same in all draws: what another seed or training would change is not in the interval.

The AP of a draw is too high on average: its curve's precision is the best at any higher recall, and the fewer different
objects there are, the more chance helps it. So the draws' APs are moved until their mean is the measured one.

AP and mIoU are no means over images. Where a study asks for a score of each image, it is the jackknife's pseudo-value
(Quenouille 1956, Tukey 1958): the figure plus by how much it would fall without the image, times the number of the
others. The mean of the scores is the figure, and the spread of their mean about that of the figure over other images.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Self

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
    """95 % intervals of ``ap`` and ``ap50`` of boxes, percent; none for a single image. ``seen``: one observation per
    image, with at least one object to be found."""
    if len(seen) < 2:
        return {}
    weights = np.vstack([np.ones((1, len(seen)), np.uint16), draw_counts(len(seen), draws)])
    found = _ap_of_draws(sorted(seen, key=lambda one: one.image), num_classes, weights)
    ap = np.column_stack([found.mean(1), found[:, 0]])
    drawn = ap[1:][~np.isnan(ap[1:, 0])]
    return {key: centred(values, figure) for key, values, figure in zip(("ap", "ap50"), drawn.T, ap[0], strict=True)}


def ap_scores(seen: Sequence[Observation], num_classes: int, ap: float) -> Floats:
    """``(N,)`` scores of the images, percent, whose mean is ``ap``.

    They are of areas under the curves of precision over recall: the steps of the 101 recalls, which ``ap`` has, are
    larger than what one image changes. ``seen``: one observation per image, at least 2, in the order of the scores."""
    without = 1 - np.eye(len(seen), dtype=np.uint16)
    return _pseudo_values(_ap_of_draws(seen, num_classes, without, at_recalls=False).mean(1), ap)


def miou_scores(counts: npt.NDArray[np.int64], miou: float) -> Floats:
    """``(N,)`` scores of the images, percent, whose mean is ``miou``; ``counts`` as ``miou_intervals`` takes them."""
    return _pseudo_values(_miou_of(counts.sum(0) - counts), miou)


def _pseudo_values(without: Floats, figure: float) -> Floats:
    """``without (N,)``: the figure without each image, NaN where nothing is left to measure."""
    without = np.where(np.isnan(without), figure, without)
    found: Floats = figure + (len(without) - 1) * (without.mean() - without)
    return found


def _ap_of_draws(
    seen: Sequence[Observation], num_classes: int, weights: npt.NDArray[np.uint16], at_recalls: bool = True
) -> Floats:
    """``(draws, T)`` AP in percent, NaN for draws without objects; ``weights (draws, N)``: how often each has each."""
    shared = [overlaps(one) for one in seen]
    sums, classes = np.zeros((len(weights), len(THRESHOLDS))), np.zeros((len(weights), 1))
    for label in range(num_classes):
        found = _ClassMatches.of(seen, shared, label)
        if not found.objects.any():
            continue
        for part in parts_of_draws(len(weights), len(found.scores) + 1):
            precision = found.average_precision(weights[part].astype(np.float64), at_recalls)
            classes[part] += ~np.isnan(precision[:, :1])
            sums[part] += np.nan_to_num(precision)
    return np.where(classes > 0, 100 * sums / np.maximum(classes, 1), np.nan)


def miou_intervals(counts: Floats, draws: int = DRAWS) -> dict[str, Interval]:
    """The 95 % interval of ``miou``, percent; none for a single image. ``counts``: ``(N, 3, K)`` pixels of each image
    and class: right, true, and found."""
    if len(counts) < 2:
        return {}
    drawn = _miou_of(np.tensordot(draw_counts(len(counts), draws).astype(np.float64), counts, 1))
    return {"miou": middle(drawn[~np.isnan(drawn)])}


def _miou_of(counts: npt.NDArray[Any]) -> Floats:
    """``(draws,)`` mIoU in percent of counts ``(draws, 3, K)``, NaN where no class is."""
    right, true, found = np.moveaxis(counts, 1, 0)
    either = true + found - right
    iou, classes = np.where(either > 0, right / np.maximum(either, 1), 0.0), (either > 0).sum(1)
    return np.where(classes > 0, 100 * (iou.sum(1) / np.maximum(classes, 1)), np.nan)


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


def centred(values: Floats, figure: float) -> Interval:
    """What 95 % of the draws lie in, moved until their mean is ``figure``; within 0 to 100 %."""
    low, high = np.clip(middle(values + (figure - values.mean())), 0, 100).tolist()
    return low, high


class _ClassMatches:
    """The found objects of one class in all images, the surest first, and which of them are right."""

    def __init__(
        self, scores: Floats, image: npt.NDArray[np.int64], right: Matches, ignored: Matches, objects: Floats
    ) -> None:
        """Of M found objects ``scores`` and ``image``, which one it is in, ``(M,)``; whether they are ``right`` at each
        threshold, or ``ignored`` in a crowd, ``(M, T)``; and ``objects (N,)``, the true ones of each image without
        crowds."""
        order = np.argsort(-scores, kind="stable")
        self.scores, self.image, self.right, self.ignored = scores[order], image[order], right[order], ignored[order]
        self.objects = objects

    @classmethod
    def of(cls, seen: Sequence[Observation], shared: Sequence[Floats], label: int) -> Self:
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

    def average_precision(self, weights: Floats, at_recalls: bool = True) -> Floats:
        """``(draws, T)``, 0 to 1, NaN where no object was drawn; ``weights (draws, N)``. ``at_recalls``: the mean
        precision at COCO's 101 recalls; otherwise the area under the curve."""
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
            reached = 100 * right / np.maximum(objects, 1)[:, None]
            if at_recalls:  # how many of the recalls 0, 0.01, …, 1 are reached with each; the first reaches 0 as well
                reached = np.floor(reached + 1e-9) + 1
            out[:, t] = (precision * np.diff(reached, axis=1, prepend=0)).sum(1) / (101 if at_recalls else 100)
        out[objects == 0] = np.nan
        return out


def _matches(iou: Floats, crowd: Matches) -> tuple[Matches, Matches]:
    """Which found objects of one image and class are right and which are ignored, ``(M, T)`` each, as COCO matches.
    ``iou (M, N)``, the surest found object first; ``crowd (N,)``."""
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
