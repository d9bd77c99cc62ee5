"""Average precision against pycocotools, on random sets with everything that the rules of COCO are about."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from nextify.data.dense.annotations import Objects, encoded_mask
from nextify.tasks.average_precision import SIZES, Observation, average_precision, encoded

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
CLASSES = ("cat", "dog", "none", "owl")
"""No object is ever a "none", although some are found."""


def boxes_of(rng: np.random.Generator, number: int, side: int) -> np.ndarray:
    corner = rng.integers(0, side - 4, (number, 2))
    size = rng.integers(2, side // 2, (number, 2))
    return np.hstack([corner, np.minimum(corner + size, side)]).astype(np.float32)


def blob(rng: np.random.Generator, box: np.ndarray, side: int) -> np.ndarray:
    """An ellipse in the box, with a hole now and then."""
    y, x = np.mgrid[:side, :side] + 0.5
    (x1, y1, x2, y2) = box
    far = ((x - (x1 + x2) / 2) / max(x2 - x1, 1)) ** 2 + ((y - (y1 + y2) / 2) / max(y2 - y1, 1)) ** 2
    return (far <= 0.25) & (far >= rng.choice([0, 0.02]))


def random_set(seed: int, images: int, side: int, masks: bool, most: int = 9) -> list[Observation]:
    rng = np.random.default_rng(seed)
    found = []
    for image in range(images):
        number = int(rng.integers(0, 7)) if image % 5 else 0  # every fifth image is background
        boxes, labels = boxes_of(rng, number, side), rng.choice([0, 1, 3], number)
        crowd = rng.random(number) < 0.2
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1).astype(float) * rng.choice([1.0, 0.7], number)
        pictures = [blob(rng, box, side) for box in boxes]
        truth = Objects(boxes, labels, crowd, areas, tuple(map(encoded_mask, pictures)) if masks else None)
        extra = int(rng.integers(0, most)) if image % 4 else 0  # every fourth image has at most moved truth
        again = rng.random(number) < 0.8
        guesses = np.vstack([boxes[again] + rng.integers(-2, 3, (int(again.sum()), 4)), boxes_of(rng, extra, side)])
        guesses[:, 2:] = np.maximum(guesses[:, 2:], guesses[:, :2] + 1)
        guessed = np.concatenate([labels[again], rng.integers(0, 4, extra)])
        scores = rng.integers(1, 6, len(guesses)) / 6  # many ties
        shapes = [encoded(blob(rng, box, side)) for box in guesses] if masks else None
        found.append(
            Observation(
                image, side, side, guesses.astype(np.float32), scores.astype(np.float32), guessed, shapes, truth
            )
        )
    return found


def by_pycocotools(found: Sequence[Observation], kind: str) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(boxes: np.ndarray) -> list[list[float]]:
        wide = boxes.astype(float)
        return np.hstack([wide[:, :2], wide[:, 2:] - wide[:, :2]]).tolist()

    truth, guesses = COCO(), []
    truth.dataset = {
        "info": {},
        "images": [{"id": seen.image, "height": seen.height, "width": seen.width} for seen in found],
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES)],
        "annotations": [
            {
                "id": 1000 * seen.image + i + 1,
                "image_id": seen.image,
                "category_id": int(seen.truth.labels[i]),
                "bbox": box,
            }
            | {"area": float(seen.truth.areas[i]), "iscrowd": int(seen.truth.crowd[i])}
            | ({"segmentation": seen.truth.masks[i]} if kind == "segm" else {})
            for seen in found
            for i, box in enumerate(xywh(seen.truth.boxes))
        ],
    }
    for seen in found:
        for i, box in enumerate(xywh(seen.boxes)):
            shape = {"segmentation": seen.masks[i]} if kind == "segm" else {"bbox": box}
            guess = {"image_id": seen.image, "category_id": int(seen.labels[i]), "score": float(seen.scores[i])}
            guesses.append(guess | shape)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(guesses), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize(
    ("kind", "seed"), [*(("bbox", seed) for seed in range(6)), *(("segm", seed) for seed in range(3))]
)
def test_agrees_with_pycocotools(kind: str, seed: int) -> None:
    """Ties, crowds, images without truth or without anything found, classes without objects, all three sizes."""
    found = random_set(seed, 11, side=120 if seed % 2 else 40, masks=kind == "segm")
    theirs = by_pycocotools(found, kind)
    metrics = average_precision(found[::-1], CLASSES)  # the order that they come in does not matter
    ours = metrics.boxes if kind == "bbox" else metrics.masks
    assert ours is not None
    np.testing.assert_allclose(ours.precision, theirs.eval["precision"][..., -1], atol=1e-12)
    np.testing.assert_allclose(ours.recall, theirs.eval["recall"][..., -1], atol=1e-12)
    figures = [ours.mean(), ours.mean(0.5), ours.mean(0.75), *(ours.mean(size=size) for size in SIZES[1:])]
    expected = [None if value == -1 else 100 * value for value in theirs.stats[:6]]
    assert figures == pytest.approx(expected)
    assert ours.mean(label=2) is None


def test_more_than_a_hundred_found() -> None:
    found = random_set(3, 3, side=40, masks=False, most=2000)
    assert max(np.bincount(seen.labels, minlength=4).max() for seen in found) > 100
    theirs = by_pycocotools(found, "bbox").eval["precision"][..., -1]
    np.testing.assert_allclose(average_precision(found, CLASSES).boxes.precision, theirs, atol=1e-12)


def observation(boxes: Any, scores: Any, labels: Any, truth: Objects, image: int = 0) -> Observation:
    shape = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Observation(image, 64, 64, shape, np.array(scores, np.float32), np.array(labels, int), None, truth)


def objects(*boxes: tuple[int, int, int, int], crowd: bool = False) -> Objects:
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    areas = (corners[:, 2:] - corners[:, :2]).prod(1).astype(float)
    return Objects(corners, np.zeros(len(boxes), np.int64), np.full(len(boxes), crowd), areas, None)


def test_values_by_hand() -> None:
    """One of two objects is found, after a false alarm: precision 1/2 up to recall 1/2, then 0."""
    truth = objects((0, 0, 10, 10), (20, 20, 60, 60))
    seen = observation([(30, 0, 40, 10), (0, 0, 10, 10)], [0.9, 0.8], [0, 0], truth)
    metrics = average_precision([seen, observation([], [], [], objects(), image=1)], ["a", "b"])
    expected = 100 * 0.5 * 51 / 101
    values = metrics.values()
    assert values == pytest.approx({"ap": expected, "ap50": expected, "ap75": expected, "ap_small": 50, "ap_medium": 0})
    first, second = metrics.per_class
    assert (first.objects, first.found, first.recall50, first.mask_ap) == (2, 2, 50, None)
    assert (second.objects, second.ap, second.ap50, second.recall50) == (0, None, None, None)
    curve = metrics.boxes.curve(0.5)
    assert curve is not None
    assert curve == metrics.boxes.curve(0.5, label=0)
    assert curve[:51] == pytest.approx([0.5] * 51)
    assert set(curve[51:]) == {0}
    assert metrics.boxes.curve(0.5, label=1) is None


def test_nothing_to_be_found() -> None:
    crowd = observation([(0, 0, 9, 9)], [1], [0], objects((0, 0, 9, 9), crowd=True))
    for found in ([], [observation([], [], [], objects())], [crowd]):
        with pytest.raises(ValueError, match="no image has an object"):
            average_precision(found, ["a"])
    assert average_precision([observation([], [], [], objects((0, 0, 9, 9)))], ["a"]).values()["ap"] == 0
