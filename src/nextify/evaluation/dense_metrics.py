"""What found objects are beside their average precision: right, of the wrong class, false alarms or missed.

Pure functions on observations. Two objects are taken for one where the IoU of their boxes is at least 0.5. The surest
found one comes first: it is matched with the object of its class that it overlaps most and that is still free; then
those left over are matched with any class. What only lies in a crowd region of its class counts nowhere.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nextify.data.dense.annotations import mask_api
from nextify.tasks.average_precision import Observation

Ints = npt.NDArray[np.int64]
SAME_OBJECT = 0.5
"""Least IoU; PASCAL VOC's number."""
ALONE, IN_CROWD = -1, -2
"""Of a found object that is matched with no true one."""


class Outcome(NamedTuple):
    """One image at a least score; indices of found and of true objects."""

    right: tuple[tuple[int, int], ...]
    """(found, true)."""
    confused: tuple[tuple[int, int], ...]
    """(found, true) that differ in class."""
    false: tuple[int, ...]
    missed: tuple[int, ...]

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0 to 1; 1 where there is nothing to be found and nothing is."""
        wrong = 2 * len(self.confused) + len(self.false) + len(self.missed)
        right = 2 * len(self.right)
        return right / (right + wrong) if right + wrong else 1.0


def overlaps(seen: Observation) -> npt.NDArray[np.float64]:
    """``(M, N)`` IoU of found and true boxes; with a crowd region, the share of the found box that lies in it."""
    if not (len(seen.boxes) and len(seen.truth)):
        return np.zeros((len(seen.boxes), len(seen.truth)))
    corners = (np.asarray(boxes, np.float64) for boxes in (seen.boxes, seen.truth.boxes))
    found, true = (np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]) for boxes in corners)
    return np.asarray(mask_api().iou(found, true, seen.truth.crowd.astype(int).tolist()))


def matched(seen: Observation) -> Ints:
    """``(M,)``: the true object of its class that each found one is matched with, ``ALONE`` or ``IN_CROWD``."""
    shared = np.where(np.equal.outer(seen.labels, seen.truth.labels), overlaps(seen), 0)
    takes = np.full(len(seen.boxes), ALONE)
    free = ~seen.truth.crowd
    for i in np.argsort(-seen.scores, kind="stable").tolist():
        takes[i] = _best(shared[i], free)
        if takes[i] >= 0:
            free[takes[i]] = False
        elif _best(shared[i], seen.truth.crowd) >= 0:
            takes[i] = IN_CROWD
    return takes


def _best(shared: npt.NDArray[np.float64], allowed: npt.NDArray[np.bool_]) -> int:
    """The allowed object with the greatest overlap, at least ``SAME_OBJECT``; ``ALONE`` if there is none."""
    reach = np.where(allowed, shared, 0)
    return int(reach.argmax()) if reach.size and reach.max() >= SAME_OBJECT else ALONE


def best_score(found: Sequence[Observation], matches: Sequence[Ints]) -> tuple[float, float]:
    """The least score that gives the highest F1 over all images and classes, and this F1 (0 to 1).

    The score lies midway to the next lower one, so that a rounding error leaves nothing out.
    """
    takes = np.concatenate([*matches, np.empty(0, np.int64)])
    scores = np.concatenate([*(seen.scores for seen in found), np.empty(0)])[takes != IN_CROWD]
    takes = takes[takes != IN_CROWD]
    true = sum(int((~seen.truth.crowd).sum()) for seen in found)
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    f1 = 2 * np.cumsum(takes[order] >= 0) / (np.arange(1, len(order) + 1) + true)
    if not len(scores):
        return 0.5, 0.0
    ends = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))  # equal scores stay together
    best = int(ends[np.argmax(f1[ends])])
    lower = float(scores[best + 1]) if best + 1 < len(scores) else 0.0
    return (float(scores[best]) + lower) / 2, float(f1[best])


def outcome(seen: Observation, takes: Ints, least_score: float) -> Outcome:
    """One image with the found objects of at least ``least_score``; ``takes``: see ``matched``."""
    kept = seen.scores >= least_score
    right = [(i, int(takes[i])) for i in np.flatnonzero(kept & (takes >= 0)).tolist()]
    free = ~seen.truth.crowd
    free[[true for _, true in right]] = False
    alone = np.flatnonzero(kept & (takes == ALONE))
    shared, confused, false = overlaps(seen), [], []
    for i in alone[np.argsort(-seen.scores[alone], kind="stable")].tolist():
        true = _best(shared[i], free)
        if true == ALONE:
            false.append(i)
        else:
            free[true] = False
            confused.append((i, true))
    return Outcome(tuple(right), tuple(confused), tuple(false), tuple(np.flatnonzero(free).tolist()))


def object_confusion(found: Sequence[Observation], outcomes: Sequence[Outcome], num_classes: int) -> Ints:
    """``(K + 1, K + 1)`` objects: row the true class, column the found one; the last is background.

    The last row holds false alarms, the last column missed objects; nothing counts as background found to be such.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for seen, result in zip(found, outcomes, strict=True):
        for i, true in (*result.right, *result.confused):
            counts[seen.truth.labels[true], seen.labels[i]] += 1
        for i in result.false:
            counts[num_classes, seen.labels[i]] += 1
        for true in result.missed:
            counts[seen.truth.labels[true], num_classes] += 1
    return counts
