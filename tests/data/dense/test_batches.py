"""Batches are a function of (seed, step), and boxes and masks follow the pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nextify.data import DataError
from nextify.data.dense.annotations import IGNORED, DenseImages, DenseSet, DenseTask, Objects, encoded_mask
from nextify.data.dense.batches import DenseTestBatches, DenseTrainBatches, Target
from nextify.data.dense.placement import FILL, Placement, canvas_of, fitting, placed
from nextify.data.dense.scenes import Scenes
from nextify.data.images import MixedStore
from nextify.data.kept import Kept
from nextify.data.share import share
from nextify.data.transforms import TrainTransform
from nextify.paper.recipe import CONVNEXT, NoCrop, Recipe, RecipeError, ScaleJitter

CANVAS = (32, 64)
JITTERED = CONVNEXT.with_(
    batch_size=4, crop=ScaleJitter(0.5, 2.0), rand_augment="off", mixing="off", random_erasing=0.0, color_jitter=0.4
)
PLAIN = JITTERED.with_(crop=NoCrop(), color_jitter="off", horizontal_flip=0.0)


def rectangles(
    task: DenseTask, sizes: Sequence[tuple[int, int]] = ((48, 80), (30, 40), (64, 60), (20, 90), (33, 65), (32, 64))
) -> DenseSet:
    """Black images with one bright rectangle each: an object of class 1."""
    arrays, objects, masks = [], [], []
    for i, (height, width) in enumerate(sizes):
        pixels, mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
        x1, y1, x2, y2 = width // 4 + i, height // 4, width // 4 + i + width // 3, height // 4 + height // 2
        pixels[y1:y2, x1:x2], mask[y1:y2, x1:x2] = 255, 1
        arrays.append(pixels)
        masks.append(mask)
        one = np.array([[x1, y1, x2, y2]], np.float32)
        area = np.array([(x2 - x1) * (y2 - y1)], np.float64)
        objects.append(Objects(one, np.array([1]), np.array([False]), area, (encoded_mask(mask == 1),)))
    known = np.array(sizes, np.int64)
    store = MixedStore(Kept(np.concatenate([pixels.reshape(-1) for pixels in arrays])), known)
    names = [f"{i}.png" for i in range(len(sizes))]
    detects = task == "detection"
    return DenseSet(task, store, known, names, objects if detects else None, None if detects else masks)


def parts_of(targets: object) -> list[Any]:
    """The values of a batch's targets, one after the other."""
    if not isinstance(targets, list):
        return [targets]
    return [getattr(one, field.name) for one in targets for field in dataclasses.fields(one)]


def equal(one: tuple[Tensor, object], other: tuple[Tensor, object]) -> bool:
    both = zip([one[0], *parts_of(one[1])], [other[0], *parts_of(other[1])], strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in both)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_batch_depends_on_seed_and_step_alone(task: DenseTask, masks: bool) -> None:
    images = rectangles(task)
    batches = DenseTrainBatches(images, JITTERED.with_(batch_size=2), CANVAS, 3, masks=masks)
    assert (batches.steps_per_epoch, len(batches.held_out)) == (3, 0)
    state = torch.random.get_rng_state()
    first = [batches.batch(step) for step in range(7)]
    assert torch.equal(torch.random.get_rng_state(), state)
    again = DenseTrainBatches(images, JITTERED.with_(batch_size=2), CANVAS, 3, workers=2, masks=masks)
    assert all(map(equal, first[2:], again.iterate(2, 7)))
    assert not equal(first[0], first[3])
    assert not equal(first[0], DenseTrainBatches(images, JITTERED.with_(batch_size=2), CANVAS, 4).batch(0))


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_shares_are_rows_of_the_whole_batch(task: DenseTask) -> None:
    images = rectangles(task)
    pixels, targets = DenseTrainBatches(images, JITTERED, CANVAS, 1).batch(2)
    for rank in range(2):
        own = share(4, rank, 2)
        part = DenseTrainBatches(images, JITTERED, CANVAS, 1, share=own).batch(2)
        rows = torch.from_numpy(own.rows)
        expected = targets[rows] if isinstance(targets, Tensor) else [targets[i] for i in own.rows]
        assert equal(part, (pixels[rows], expected))


def bright(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> list[float]:
    found = pixels.min(-1) > 127  # brighter than the fill, and than half of an antialiased edge
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else []


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    least=st.floats(0.3, 1.0),
    growth=st.floats(0, 1.5),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_boxes_and_masks_follow_the_pixels(seed: int, least: float, growth: float, flip: float) -> None:
    recipe = PLAIN.with_(crop=ScaleJitter(least, least + growth), horizontal_flip=flip)
    pixels, targets = DenseTrainBatches(rectangles("detection"), recipe, CANVAS, seed, masks=True).batch(0)
    _, classes = DenseTrainBatches(rectangles("segmentation"), recipe, CANVAS, seed).batch(0)
    assert isinstance(targets, list)
    assert isinstance(classes, Tensor)
    for image, target, mask in zip(pixels.numpy(), targets, classes.numpy(), strict=True):
        found = bright(image)
        if len(target.boxes):
            np.testing.assert_allclose(found, target.boxes[0].numpy(), atol=1.01)
            assert target.masks is not None
            assert target.masks.shape == (1, *CANVAS)
            np.testing.assert_array_equal(target.masks[0].numpy() == 1, mask == 1)
            np.testing.assert_allclose(
                bright(np.repeat(255 * target.masks[0].numpy()[..., None], 3, -1)), found, atol=1
            )
        assert ((mask == 1) == (image.min(-1) > 127)).mean() > 0.9
        # Within a pixel of the image's border, its antialiased rows are still its own.
        assert ((mask == IGNORED) <= (image == FILL).all(-1)).all()


def test_what_is_cut_off_is_dropped() -> None:
    images = rectangles("detection", [(40, 40)] * 4)
    for objects in images._objects or ():
        objects.boxes[0] = [0, 0, 3, 40]
    recipe = PLAIN.with_(crop=ScaleJitter(3.0, 3.0))
    seen = [t.boxes for step in range(20) for t in DenseTrainBatches(images, recipe, (32, 32), 0).batch(step)[1]]
    assert {len(boxes) for boxes in seen} == {0, 1}
    for boxes in seen:
        assert (boxes >= 0).all()
        assert (boxes <= 32).all()
        assert ((boxes[:, 2:] - boxes[:, :2]) >= 2).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop": "shift"}, "crop=shift is for classification: set crop=scale_jitter or crop=none"),
        ({"rand_augment": 9.0, "mixing.mixup": 0.8}, "needs rand_augment=off, mixing=off"),
        ({"random_erasing": 0.25}, "random_erasing=0"),
    ],
)
def test_recipes_of_classification_are_refused(changes: dict[str, object], words: str) -> None:
    recipe = Recipe().with_(batch_size=2, random_erasing=0.0, rand_augment="off", mixing="off", crop="scale_jitter")
    if "rand_augment" in changes:
        recipe, changes = Recipe().with_(crop="scale_jitter"), {}
    with pytest.raises(RecipeError, match=words):
        DenseTrainBatches(rectangles("detection"), recipe.with_(**changes), CANVAS, 0)


def test_scale_jitter_is_refused_for_classification() -> None:
    with pytest.raises(RecipeError, match="crop=scale_jitter is for detection and segmentation"):
        TrainTransform(JITTERED, 32)
    with pytest.raises(RecipeError, match="least must be at most most"):
        ScaleJitter(2.0, 1.0)


def test_too_few_images() -> None:
    with pytest.raises(DataError, match="6 training images do not fill one batch of 7"):
        DenseTrainBatches(rectangles("detection"), JITTERED.with_(batch_size=7), CANVAS, 0)


def test_a_large_image_is_reduced_once() -> None:
    images = rectangles("detection", [(320, 640)] * 2)
    batches = DenseTrainBatches(images, PLAIN.with_(batch_size=2, crop=ScaleJitter(0.5, 1.0)), CANVAS, 0)
    first = batches.batch(0)
    assert [held.shape for held in batches.held.held.values()] == [(32, 64, 3)] * 2
    assert equal(first, batches.batch(0))


# -- test images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_test_batches_hold_each_image_once(task: DenseTask, count: int) -> None:
    images = rectangles(task)
    parts = [DenseTestBatches(images, CANVAS, 2, rank, count) for rank in range(count)]
    assert [len(part) for part in parts] == [3 if count == 1 else 2] * count
    seen = []
    for part in parts:
        assert all(map(equal, part, part))
        for pixels, targets in part:
            assert pixels.shape[1:] == (*CANVAS, 3)
            assert isinstance(targets, list)
            for target in targets:
                seen.append(target.image)
                assert target.placement == fitting(images.sizes[max(0, target.image)].tolist(), CANVAS)
                if isinstance(target, Target):
                    assert len(target.boxes) == (target.image >= 0)
                else:
                    np.testing.assert_array_equal(target.mask, images.mask(max(0, target.image)))
    assert sorted(seen) == [-1] * (count - 1) + list(range(6))


def test_a_test_image_is_what_placed_gives() -> None:
    images = rectangles("detection")
    pixels, targets = next(iter(DenseTestBatches(images, CANVAS, 6)))
    assert isinstance(targets, list)
    for i, target in enumerate(targets):
        expected, placement = placed(images.load(i), CANVAS)
        np.testing.assert_array_equal(pixels[i].numpy(), expected)
        assert target.placement == placement
        np.testing.assert_allclose(bright(expected), target.boxes[0], atol=1)


# -- placement -----------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    scale=st.floats(0.2, 4),
    corner=st.tuples(st.integers(-9, 40), st.integers(-9, 40)),
    box=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_boxes_come_back(
    size: tuple[int, int], scale: float, corner: tuple[int, int], box: tuple[float, float, float, float]
) -> None:
    height, width = size
    placement = Placement(height, width, scale, *corner)
    ends = [sorted((box[0], box[2])), sorted((box[1], box[3]))]
    boxes = np.array([[ends[0][0] * width, ends[1][0] * height, ends[0][1] * width, ends[1][1] * height]], np.float32)
    np.testing.assert_allclose(placement.boxes_back(placement.boxes(boxes)), boxes, atol=2e-3)


@pytest.mark.parametrize("size", [(32, 64), (20, 40), (100, 30), (7, 90), (1, 300)])
def test_pixels_come_back(size: tuple[int, int]) -> None:
    placement = fitting(size, CANVAS)
    assert max(a / b for a, b in zip(placement.resized, CANVAS, strict=True)) == 1
    mask = np.zeros(size, np.uint8)
    mask[: max(1, size[0] // 2), : size[1] // 2] = 1
    on_canvas = placement.mask(mask, CANVAS)
    assert (on_canvas == IGNORED).sum() == CANVAS[0] * CANVAS[1] - np.prod(placement.resized)
    back = placement.back(torch.from_numpy(on_canvas == 1)[None].float())
    assert back.shape == (1, *size)
    assert ((back[0].numpy() > 0.5) == (mask == 1)).mean() > 0.9


def test_canvases() -> None:
    def canvas(size: tuple[int, int], image_size: int | None = None) -> tuple[int, int]:
        part = DenseSet("segmentation", Scenes("test"), np.array([size], np.int64), ["x"])
        return canvas_of(DenseImages("x", ("a", "b"), part, part, True, "", (), "segmentation"), image_size)

    assert canvas((128, 160)) == (128, 160)
    assert canvas((480, 640)) == (480, 640)
    assert canvas((180, 240)) == (192, 256)
    assert canvas((20, 30)) == (64, 64)
    assert canvas((360, 480)) == (384, 480)
    assert canvas((3000, 4000)) == (480, 640)
    assert canvas((3000, 4000), 320) == (256, 320)
    assert canvas((10, 4000), 320) == (32, 320)
    for height in range(64, 641):
        for width in (64, 97, 333, 500, 640):
            found = canvas((height, width))
            assert fitting((height, width), found).scale >= 1
            assert max(found[0] - height, found[1] - width) < 32
            assert canvas(found) == found
