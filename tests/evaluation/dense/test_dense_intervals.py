"""Bootstrap intervals: a draw's figure is that of the images it draws, and the interval holds the middle of them."""

from __future__ import annotations

import numpy as np
import pytest

from nextify.evaluation import dense_intervals
from nextify.evaluation.dense_intervals import ap_intervals, ap_scores, miou_intervals, miou_scores
from nextify.tasks.average_precision import Observation, average_precision
from nextify.tasks.segmentation_metrics import SegmentationMetrics
from tests.evaluation.dense.helpers import objects, seen

CLASSES = ("cat", "dog", "owl")


def observations(number: int = 7) -> list[Observation]:
    """Objects that are found with noise, twice or not at all, some of them in crowds; the last image has none."""
    rng, made = np.random.default_rng(3), []
    for image in range(number):
        count = 0 if image == number - 1 else int(rng.integers(2, 6))
        corners = rng.uniform(0, 30, (count, 2))
        boxes = np.hstack([corners, corners + rng.uniform(8, 30, (count, 2))])
        labels, crowd = rng.integers(0, 3, count), rng.random(count) < 0.15
        found = np.repeat(boxes, 3, 0) + rng.normal(0, 2, (3 * count, 4))
        guesses = np.where(rng.random(3 * count) < 0.8, np.repeat(labels, 3), rng.integers(0, 3, 3 * count))
        kept = rng.random(3 * count) < 0.7
        truth = objects(boxes, labels, crowd)
        made.append(seen(found[kept], rng.random(3 * count)[kept], guesses[kept], truth, image))
    return made


def weights_of(draws: list[list[int]], number: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array([np.bincount(draw, minlength=number) for draw in draws], np.float64)


def test_a_draw_has_the_average_precision_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    images = observations()
    draws = [[*range(7)], [0, 0, 1, 2, 2, 2, 5], [6, 6, 6, 3, 3, 4, 1], [5] * 7]
    drawn = dense_intervals._ap_of_draws(images, 3, weights_of(draws, 7))
    for draw, found in zip(draws, drawn, strict=True):
        copies = [images[i]._replace(image=place) for place, i in enumerate(sorted(draw))]
        expected = average_precision(copies, CLASSES).values()
        assert found.mean() == pytest.approx(expected["ap"], abs=0.4)  # a recall of 101 more or less
        assert found[0] == pytest.approx(expected["ap50"], abs=0.4)
    ap = drawn.mean(1)
    assert len({*ap}) == len(draws)
    monkeypatch.setattr(dense_intervals, "draw_counts", lambda number, count: weights_of(draws, number))
    moved = np.clip(
        np.percentile(ap, (2.5, 97.5)) + ap[0] - ap.mean(), 0, 100
    )  # the first draw is the images themselves
    assert ap_intervals(images, 3, len(draws))["ap"] == pytest.approx(moved)
    monkeypatch.setattr(dense_intervals, "AT_ONCE", 1)
    assert ap_intervals(images, 3, len(draws))["ap"] == pytest.approx(moved)


def test_the_interval_of_a_poor_network_holds_its_figure() -> None:
    rng, images = np.random.default_rng(1), []
    for image in range(30):  # one object in ten is found, among many false alarms
        corners = rng.uniform(0, 60, (3, 2))
        boxes = np.hstack([corners, corners + 20])
        false = rng.uniform(0, 60, (40, 2))
        found = np.vstack([boxes[rng.random(3) < 0.1], np.hstack([false, false + 20])])
        images.append(
            seen(found, rng.random(len(found)), np.zeros(len(found), int), objects(boxes, [0] * 3, [False] * 3), image)
        )
    measured = average_precision(images, ("cat",)).values()
    for key, (low, high) in ap_intervals(images, 1).items():
        assert 0 <= low < measured[key] < high


def test_a_draw_has_the_iou_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    matrices = rng.integers(0, 50, (5, 4, 4))
    matrices[:, 3], matrices[:, :, 3] = 0, 0  # a class that is nowhere
    counts = np.stack([[m.diagonal(), m.sum(1), m.sum(0)] for m in matrices]).astype(np.float64)
    draw = [0, 0, 3, 4, 4]
    monkeypatch.setattr(dense_intervals, "draw_counts", lambda number, count: weights_of([draw], number))
    expected = SegmentationMetrics.of(matrices[draw].sum(0), 5).miou
    assert miou_intervals(counts, 1)["miou"] == pytest.approx((expected, expected))


def test_intervals_hold_the_figure_and_shrink_with_more_images() -> None:
    images = observations()
    many = [one._replace(image=7 * i + one.image) for i in range(20) for one in images]
    ap = average_precision(images, CLASSES).values()["ap"]
    (low, high), (inner_low, inner_high) = (ap_intervals(some, 3)["ap"] for some in (images, many))
    assert low < inner_low < ap < inner_high < high
    assert ap_intervals(images, 3) == ap_intervals(images[::-1], 3)
    assert ap_intervals(images[:1], 3) == miou_intervals(np.ones((1, 3, 2))) == {}


def test_scores_of_images_have_the_ap_as_their_mean_and_the_bootstraps_spread() -> None:
    images = [one._replace(image=7 * i + one.image) for i in range(20) for one in observations()[: 7 - i % 3]]
    images = [one._replace(image=i) for i, one in enumerate(images)]
    ap = average_precision(images, CLASSES).values()["ap"]
    scores = ap_scores(images, 3, ap)
    assert scores.mean() == pytest.approx(ap)
    low, high = ap_intervals(images, 3)["ap"]
    assert scores.std(ddof=1) / len(scores) ** 0.5 == pytest.approx((high - low) / 3.92, rel=0.25)


def test_the_score_of_an_image_is_what_the_others_would_lose() -> None:
    images = observations()
    scores = ap_scores(images, 3, 50.0)
    without = 1 - np.eye(7, dtype=np.uint16)
    areas = dense_intervals._ap_of_draws(images, 3, without, at_recalls=False).mean(1)
    assert scores[2] - scores[4] == pytest.approx(6 * (areas[4] - areas[2]))
    on_a_grid = dense_intervals._ap_of_draws(images, 3, without).mean(1)
    assert np.abs(areas - on_a_grid).max() < 1.5, "a recall of 101 more or less in each class"
    alone = [one for one in images if one.image != 2]
    assert on_a_grid[2] == pytest.approx(average_precision(alone, CLASSES).values()["ap"], abs=0.4)
    only = [images[0], images[6], images[6]._replace(image=7)]  # objects in one image alone
    assert np.isfinite(ap_scores(only, 3, 40.0)).all()


def test_scores_of_images_have_the_miou_as_their_mean_and_the_bootstraps_spread() -> None:
    rng = np.random.default_rng(0)
    matrices = rng.integers(0, 50, (60, 4, 4)) + 200 * np.eye(4, dtype=int) * rng.integers(0, 2, (60, 1, 1))
    counts = np.stack([[m.diagonal(), m.sum(1), m.sum(0)] for m in matrices])
    miou = SegmentationMetrics.of(matrices.sum(0), 60).miou
    scores = miou_scores(counts, miou)
    assert scores.mean() == pytest.approx(miou)
    without = [SegmentationMetrics.of(np.delete(matrices, i, 0).sum(0), 59).miou for i in (0, 1)]
    assert scores[0] - scores[1] == pytest.approx(59 * (without[1] - without[0]))
    low, high = miou_intervals(counts)["miou"]
    assert scores.std(ddof=1) / 60**0.5 == pytest.approx((high - low) / 3.92, rel=0.15)
