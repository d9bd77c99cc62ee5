"""Batches are a function of (seed, step): paired over recipes' noise, workers, resumption and what else draws."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from timm.data.transforms_factory import transforms_imagenet_eval

from nextify.data import (
    DataError,
    Images,
    ImageSet,
    TestBatches,
    TrainBatches,
    open_images,
)
from nextify.data.decode import decode
from nextify.data.encoded import Files
from nextify.data.images import EncodedStore, UniformStore
from nextify.data.kept import Kept
from nextify.data.randomness import AUGMENTATION, seeded
from nextify.data.transforms import Square, TrainTransform, shifted
from nextify.paper.recipe import CONVNEXT, RandomResized, Recipe, Shift
from tests.helpers import encoded

PLAIN = CONVNEXT.with_(crop="none", rand_augment="off", horizontal_flip=0.0, test_crop_ratio=1.0, batch_size=8)
PADDED = CONVNEXT.with_(crop="shift", test_crop_ratio=1.0, batch_size=8)


def noise(count: int, height: int = 16, width: int = 16) -> ImageSet:
    pixels = np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return ImageSet(np.arange(count, dtype=np.int64) % 5, UniformStore(Kept(pixels)))


def mixed(root: Path) -> Images:
    for i in range(24):
        path = root / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (12 + i, 30 - i, 3), dtype=np.uint8)
        Image.fromarray(pixels if i % 3 else pixels[..., 0]).save(path)
    return open_images(str(root))


def from_files(root: Path, names: Sequence[str]) -> EncodedStore:
    return EncodedStore(Files(root, names), np.arange(len(names)))


def same(first: object, second: object) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))  # type: ignore[call-overload]


def global_state() -> tuple[object, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


# -- order ---------------------------------------------------------------------------------------------------------


def test_an_epoch_holds_each_image_once_with_its_label() -> None:
    images = noise(40)
    batches = TrainBatches(images, PLAIN, 16, seed=3)
    assert batches.steps_per_epoch == 5
    for epoch in range(2):
        seen: list[int] = []
        for step in range(5 * epoch, 5 * epoch + 5):
            pixels, labels = batches.batch(step)
            assert (pixels.dtype, pixels.shape) == (torch.uint8, (8, 16, 16, 3))
            assert (labels.dtype, labels.shape) == (torch.int64, (8,))
            chosen = batches.indices(step)
            np.testing.assert_array_equal(pixels.numpy(), images.array[chosen])  # type: ignore[index]
            np.testing.assert_array_equal(labels.numpy(), images.labels[chosen])
            seen += chosen.tolist()
        assert sorted(seen) == list(range(40))
    assert batches.indices(0).tolist() != batches.indices(5).tolist()


def test_last_incomplete_batch_is_left_out_and_no_batch_is_refused() -> None:
    assert TrainBatches(noise(23), PLAIN, 16, 0).steps_per_epoch == 2
    with pytest.raises(DataError, match=r"7 training images do not fill one batch of 8.*batch_size to 7"):
        TrainBatches(noise(7), PLAIN, 16, 0)


# -- a function of seed and step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", ["shift", "random_resized", "none"])
def test_equal_seed_equal_batches(crop: str) -> None:
    images, recipe = noise(32), PADDED.with_(crop=crop)
    first, second = (TrainBatches(images, recipe, 16, seed=5) for _ in range(2))
    expected = [first.batch(step) for step in range(6)]
    for step in (4, 1, 5, 0):  # any order, whatever else draws in between
        random.random()
        torch.rand(3)
        np.random.rand(2)  # noqa: NPY002
        assert same(second.batch(step), expected[step])
    other = TrainBatches(images, recipe, 16, seed=6)
    assert not same(other.batch(0), expected[0])
    assert not torch.equal(first.batch(0)[0], first.batch(4)[0])


@pytest.mark.parametrize(("share", "pixels"), [(0.125, 4), (0.0625, 2), (0.01, 1)])
def test_images_are_shifted_by_the_share_asked_for(share: float, pixels: int) -> None:
    transform = TrainTransform(PADDED.with_(rand_augment="off", horizontal_flip=0.0, crop=Shift(share)), 32)
    images = np.zeros((200, 32, 32, 3), np.uint8)
    images[:, 16, 16] = 255
    with seeded(0, 0, AUGMENTATION):
        places = np.argwhere(transform.of_squares(images, np.arange(200), 200)[..., 0])[:, 1:] - 16
    assert {(-pixels, pixels)} == set(zip(places.min(0).tolist(), places.max(0).tolist(), strict=True))


@pytest.mark.parametrize("border", ["black", "reflect"])
def test_what_comes_in_from_beyond_a_shifted_image(border: Literal["black", "reflect"]) -> None:
    """One image after the other or all at once, the window lies in the image with that border."""
    transform = TrainTransform(PADDED.with_(rand_augment="off", horizontal_flip=0.0, crop=Shift(0.2, border)), 20)
    image = noise(1, 20, 20).load(0)
    around = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect" if border == "reflect" else "constant")
    windows = {around[i : i + 20, j : j + 20].tobytes() for i in range(9) for j in range(9)}
    with seeded(0, 0, AUGMENTATION):
        together = transform.of_squares(np.stack([image] * 8), np.arange(8), 8)
    with seeded(0, 0, AUGMENTATION):
        assert all(np.array_equal(transform(image), one) for one in together)
    assert {one.tobytes() for one in together} <= windows


def test_global_generators_are_left_alone() -> None:
    batches = TrainBatches(noise(16), PADDED, 16, seed=0)
    before = global_state()
    batches.batch(0)
    assert global_state() == before
    for workers in (0, 1):
        for _ in TrainBatches(noise(16), PADDED, 16, 0, workers=workers).iterate(0, 2):
            pass
        assert global_state() == before


def test_resumed_iteration_goes_on() -> None:
    batches = TrainBatches(noise(24), PADDED, 16, seed=1)
    whole = list(batches.iterate(0, 7))
    resumed = list(TrainBatches(noise(24), PADDED, 16, seed=1).iterate(4, 7))
    assert len(resumed) == 3
    assert all(same(a, b) for a, b in zip(whole[4:], resumed, strict=True))


def test_workers_change_nothing(tmp_path: Path) -> None:
    images = mixed(tmp_path).train
    alone = TrainBatches(images, PADDED, 16, seed=2)
    shared = TrainBatches(images, PADDED, 16, seed=2, workers=2)
    for start, end in ((0, 7), (3, 5)):
        pairs = zip(alone.iterate(start, end), shared.iterate(start, end), strict=True)
        assert all(same(a, b) for a, b in pairs)
    left_early = list(itertools.islice(shared.iterate(0, 50), 2))
    assert same(left_early[1], alone.batch(1))
    assert same(next(iter(shared.iterate(5, 6))), alone.batch(5))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    names = mixed(tmp_path).train.names
    assert names is not None
    images = ImageSet(np.zeros(len(names), np.int64), from_files(tmp_path, names), names)
    batches = TrainBatches(images, PADDED.with_(crop="random_resized", batch_size=4), 8, 0, workers=workers)
    (tmp_path / names[batches.indices(1)[0]]).unlink()
    steps = batches.iterate(0, 3)
    next(steps)
    with pytest.raises(DataError, match=r"^[ab]/\d+\.png cannot be read .*$"):
        next(steps)


def test_pickled_batches_are_the_same() -> None:
    batches = TrainBatches(noise(16, 8, 8), PADDED, 16, seed=0)
    again = pickle.loads(pickle.dumps(batches))
    assert same(batches.batch(1), again.batch(1))


@pytest.mark.parametrize("recipe", [PADDED, PADDED.with_(crop="random_resized"), PLAIN])
def test_mixed_sizes_held_or_not(tmp_path: Path, recipe: Recipe) -> None:
    images = mixed(tmp_path)
    names = images.train.names
    assert names is not None
    files = ImageSet(images.train.labels, from_files(tmp_path, names), names)
    held, decoded_again = (TrainBatches(s, recipe, 12, seed=0) for s in (images.train, files))
    assert same(held.batch(1), decoded_again.batch(1))


# -- transforms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "ratio"), [((16, 16), 1.0), ((30, 21), 1.0), ((21, 40), 0.875), ((8, 8), 0.9)])
def test_test_transform_is_timms(shape: tuple[int, int], ratio: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    theirs = transforms_imagenet_eval(16, crop_pct=ratio, interpolation="bicubic", use_prefetcher=True)
    expected = theirs(Image.fromarray(pixels)).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(Square(16, ratio)(pixels), expected)


def test_random_resized_crop_is_timms() -> None:
    ours = TrainTransform(PLAIN.with_(crop="random_resized"), 16)
    theirs = RandomResizedCropAndInterpolation(16, scale=(0.08, 1.0), interpolation="bicubic")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 31, 3), dtype=np.uint8)
    for i in range(20):
        random.seed(i)
        mine = ours(pixels)
        random.seed(i)
        np.testing.assert_array_equal(mine, np.asarray(theirs(Image.fromarray(pixels))))


def photo(height: int, width: int) -> bytes:
    down, across = np.mgrid[0:height, 0:width]
    waves = [127 + 90 * np.sin(down / a + across / b) for a, b in ((13, 17), (29, 11), (19, -23))]
    grain = np.random.default_rng(height).normal(0, 8, (height, width, 1))
    return encoded(Image.fromarray((np.stack(waves, 2) + grain).clip(0, 255).astype(np.uint8)), "JPEG", quality=92)


def test_pillow_resampling_of_a_file_is_that_of_its_pixels() -> None:
    data = photo(150, 200)
    transform = TrainTransform(CONVNEXT, 32)
    for i in range(20):
        random.seed(i)
        np.random.seed(i)  # noqa: NPY002
        expected = transform(decode(data))
        random.seed(i)
        np.random.seed(i)  # noqa: NPY002
        np.testing.assert_array_equal(transform.of_encoded(data), expected)


@pytest.mark.parametrize("shape", [(60, 80), (300, 400)])
def test_fast_resampling_draws_the_same_crops_and_is_close(shape: tuple[int, int]) -> None:
    data = photo(*shape)
    recipe = CONVNEXT.with_(rand_augment="off")
    exact, fast = (TrainTransform(recipe.with_(crop=RandomResized(resampling=kind)), 32) for kind in ("pillow", "fast"))
    errors = []
    for i in range(30):
        random.seed(i)
        expected = exact.of_encoded(data).astype(int)
        state = random.getstate()
        random.seed(i)
        scaled = fast.of_encoded(data)
        assert random.getstate() == state
        random.seed(i)
        apart = np.abs(fast(decode(data)) - expected)  # decoded alike, resized otherwise
        assert apart.max() <= 2
        assert apart.mean() < 0.5
        errors.append(np.square(scaled - expected).mean())
    # Decoded smaller, a crop's edges move by up to half a pixel of the result; mirrored, or elsewhere, it is 8,000.
    assert np.mean(errors) < (0.1 if shape == (60, 80) else 150)


def test_pad_is_a_window_of_the_padded_image() -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (16, 16, 3), dtype=np.uint8)
    padded = np.pad(pixels, ((2, 2), (2, 2), (0, 0)))
    for top, left in itertools.product(range(5), range(5)):
        np.testing.assert_array_equal(shifted(pixels, top, left, 2), padded[top : top + 16, left : left + 16])
    transform = TrainTransform(PADDED.with_(rand_augment="off", horizontal_flip=0.5), 16)
    random.seed(0)
    seen = {transform(pixels).tobytes() for _ in range(600)}
    windows = {
        np.ascontiguousarray(window[:, ::flip]).tobytes()
        for top, left, flip in itertools.product(range(5), range(5), (1, -1))
        for window in [padded[top : top + 16, left : left + 16]]
    }
    assert seen == windows


@pytest.mark.parametrize("changes", [{}, {"horizontal_flip": 0.0}, {"crop": "none", "horizontal_flip": 0.3}])
@pytest.mark.parametrize("side", [8, 11, 32])
def test_whole_batches_hold_what_single_images_would(changes: dict[str, object], side: int) -> None:
    recipe = PADDED.with_(rand_augment="off", batch_size=29, **changes)
    images = noise(60, side, side)
    before = images.array.copy()  # type: ignore[union-attr]
    batches = TrainBatches(images, recipe, side, seed=4)
    transform = TrainTransform(recipe, side)
    for step in range(3):
        with seeded(4, step, AUGMENTATION):
            expected = np.stack([transform(images.load(i)) for i in batches.indices(step).tolist()])
        np.testing.assert_array_equal(batches.batch(step)[0].numpy(), expected)
    assert batches.transform.whole_batches
    np.testing.assert_array_equal(images.array, before)  # type: ignore[arg-type]


def test_flip_share() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    random.seed(0)
    for probability in (0.0, 0.3, 1.0):
        transform = TrainTransform(PLAIN.with_(horizontal_flip=probability), 8)
        flips = np.mean([np.array_equal(transform(pixels), pixels[:, ::-1]) for _ in range(500)])
        assert abs(flips - probability) < 0.07


def test_color_jitter_yields_to_rand_augment() -> None:
    pixels = noise(1).load(0)
    for recipe, changes in ((PLAIN, False), (PLAIN.with_(color_jitter=0.4), True)):
        assert np.array_equal(TrainTransform(recipe, 16)(pixels), pixels) != changes


# -- test batches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 12])
def test_test_batches_hold_each_image_once(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = mixed(tmp_path).train
    transform = Square(size, PLAIN.test_crop_ratio)
    expected = np.stack([transform(images.load(i)) for i in range(len(images))])
    np.testing.assert_array_equal(transform.of_all(images), expected)  # type: ignore[arg-type]
    for limit in (2**30, 0):
        monkeypatch.setattr("nextify.data.transforms.SQUARES_LIMIT", limit)
        batches = TestBatches(images, PLAIN, size, 7)
        for _ in range(2):
            parts = list(batches)
            assert len(parts) == len(batches) == 3
            np.testing.assert_array_equal(torch.cat([p for p, _ in parts]).numpy(), expected)
            np.testing.assert_array_equal(torch.cat([y for _, y in parts]).numpy(), images.labels)


def test_resized_copies_are_kept_on_disk(tmp_path: Path) -> None:
    for i in range(8):
        path = tmp_path / "data" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(1, 10 + i, 14).load(0)).save(path)
    cache = tmp_path / "cache"
    first = open_images(str(tmp_path / "data"), cache=cache)
    made = TrainBatches(first.train, PADDED.with_(batch_size=4), 8, 0).batch(0)
    assert list(cache.glob("*-train-8-8.npy"))
    again = open_images(str(tmp_path / "data"), cache=cache)
    again.train.load = None  # type: ignore[method-assign, assignment]
    assert same(made, TrainBatches(again.train, PADDED.with_(batch_size=4), 8, 0).batch(0))
