"""Matching of found and true objects by hand: classes, crowds, the best score, confusion with the background."""

from __future__ import annotations

import numpy as np
import pytest

from nextify.evaluation.dense_metrics import ALONE, IN_CROWD, best_score, matched, object_confusion, outcome
from tests.evaluation.dense.helpers import objects, seen

A, B, FAR = (0, 0, 10, 10), (20, 20, 40, 40), (50, 50, 60, 60)
CROWD = (0, 30, 20, 64)


def test_each_object_is_matched_once_by_the_surest() -> None:
    found = seen([A, A, B], [0.5, 0.9, 0.8], [0, 0, 1], objects([A, B], [0, 0]))
    takes = matched(found)
    assert takes.tolist() == [ALONE, 0, ALONE]
    result = outcome(found, takes, 0.0)
    assert result == (((1, 0),), ((2, 1),), (0,), ())
    assert result.f1 == pytest.approx(2 / (2 + 2 + 1))
    assert outcome(found, takes, 0.85) == (((1, 0),), (), (), (1,))
    counts = object_confusion([found], [result], 2)
    assert counts.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_crowds_count_nowhere() -> None:
    truth = objects([A, CROWD], [0, 0], [False, True])
    found = seen([(2, 32, 8, 40), (2, 42, 8, 50), A], [0.9, 0.8, 0.7], [0, 1, 0], truth)
    takes = matched(found)
    assert takes.tolist() == [IN_CROWD, ALONE, 0]  # another class than the crowd's is a false alarm
    result = outcome(found, takes, 0.1)
    assert result == (((2, 0),), (), (1,), ())
    assert object_confusion([found], [result], 2).sum() == 2


def test_nothing_found_or_nothing_there() -> None:
    missed, empty, alarm = (
        seen([], [], [], objects([A])),
        seen([], [], [], objects([])),
        seen([A], [0.4], [1], objects([])),
    )
    assert outcome(empty, matched(empty), 0.5).f1 == 1
    assert outcome(missed, matched(missed), 0.5) == ((), (), (), (0,))
    assert outcome(alarm, matched(alarm), 0.3) == ((), (), (0,), ())
    assert best_score([missed, empty], [matched(missed), matched(empty)]) == (0.5, 0)


def test_best_score_is_the_one_of_the_highest_f1() -> None:
    found = [
        seen([A, B, FAR], [0.9, 0.6, 0.3], [0, 0, 0], objects([A, B])),
        seen([A, FAR], [0.6, 0.2], [0, 0], objects([A, B]), image=1),
    ]
    takes = [matched(one) for one in found]
    score, f1 = best_score(found, takes)
    assert score == pytest.approx(0.45)
    assert f1 == pytest.approx(2 * 3 / (3 + 4))
    shares = []
    for least in np.linspace(0, 1, 41):
        results = [outcome(one, taken, least) for one, taken in zip(found, takes, strict=True)]
        right, wrong = sum(len(r.right) for r in results), sum(len(r.false) + len(r.missed) for r in results)
        shares.append(2 * right / (2 * right + wrong))
    assert max(shares) == pytest.approx(f1)
