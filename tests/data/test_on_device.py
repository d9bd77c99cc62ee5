"""Normalization, erasing, mixing and smoothing: timm's results, a function of (seed, step), nothing leaked."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup

from nextify.data import finish
from nextify.data.on_device import erase, mixed
from nextify.data.preprocessing import normalized
from nextify.data.randomness import DEVICE, seeded
from nextify.paper.recipe import CONVNEXT, Mixing, Recipe

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFF = CONVNEXT.with_(rand_augment="off", mixing="off", random_erasing=0.0, label_smoothing=0.0)
CPU = torch.device("cpu")


def batch(count: int = 8, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    return pixels, torch.arange(count) % 5


def finished(
    recipe: Recipe, step: int = 0, seed: int = 0, count: int = 8, train: bool = True
) -> tuple[torch.Tensor, ...]:
    return finish(*batch(count), recipe, 5, step, seed, "cpu", MEAN, STD, train)


def reference(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(MEAN, dtype=torch.float64), torch.tensor(STD, dtype=torch.float64)
    return ((pixels.double() / 255 - mean) / std).permute(0, 3, 1, 2)


def test_normalization_and_layout() -> None:
    pixels, labels = batch()
    kept = pixels.clone()
    x, y = finished(OFF)
    torch.testing.assert_close(x.double(), reference(pixels), rtol=1e-6, atol=1e-6)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, labels)
    assert torch.equal(pixels, kept)
    from_arrays = finish(pixels.numpy(), labels.numpy(), OFF, 5, 0, 0, CPU, MEAN, STD)
    assert torch.equal(from_arrays[0], x)


def test_testing_only_normalizes() -> None:
    x, y = finished(CONVNEXT, train=False)
    assert torch.equal(x, finished(OFF)[0])
    assert torch.equal(y, batch()[1])


def test_smoothing_alone_is_in_the_targets() -> None:
    _, y = finished(OFF.with_(label_smoothing=0.1))
    assert y.shape == (8, 5)
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    smoothed = torch.nn.functional.cross_entropy(logits, batch()[1], label_smoothing=0.1)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, y), smoothed)


@pytest.mark.parametrize(
    "recipe",
    [
        CONVNEXT,
        CONVNEXT.with_(mixing=Mixing(cutmix=1.0)),
        CONVNEXT.with_(mixing=Mixing(mixup=0.8)),
        CONVNEXT.with_(**{"mixing.probability": 0.5}),
        OFF.with_(random_erasing=1.0),
        OFF.with_(light=0.3),
    ],
)
def test_function_of_seed_and_step_and_no_trace(recipe: Recipe) -> None:
    expected = [finished(recipe, step) for step in range(6)]
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    again = finished(recipe, 3)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
    assert torch.equal(again[0], expected[3][0])
    assert torch.equal(again[1], expected[3][1])
    assert not torch.equal(finished(recipe, 3, seed=1)[0], expected[3][0])
    assert not torch.equal(expected[0][0], expected[1][0]) or recipe.mixing.probability < 1


def test_light_is_one_multiplier_and_one_shift_for_each_image() -> None:
    plain = finished(OFF)[0].flatten(1)
    factors, shifts = [], []
    for step in range(40):
        lit = finished(OFF.with_(light=0.5), step)[0].flatten(1)
        factor = lit.std(1) / plain.std(1)
        shift = lit.mean(1) - factor * plain.mean(1)
        torch.testing.assert_close(lit, factor[:, None] * plain + shift[:, None], rtol=1e-4, atol=1e-4)
        factors += factor.tolist()
        shifts += (shift * np.mean(STD)).tolist()  # of pixels from 0 to 1
    for drawn, middle, most in ((factors, 1, 0.5), (shifts, 0, 0.25)):
        assert np.mean(drawn) == pytest.approx(middle, abs=0.1 * most)
        assert 0.9 * most < np.abs(np.array(drawn) - middle).max() <= most + 1e-4


def test_light_yields_to_rand_augment_and_leaves_the_other_draws_alone() -> None:
    lit = CONVNEXT.with_(light=0.5)
    assert all(map(torch.equal, finished(lit), finished(CONVNEXT)))
    noisy = OFF.with_(random_erasing=1.0, rand_augment="off", label_smoothing=0.1)
    assert torch.equal(finished(noisy.with_(light=0.5))[1], finished(noisy)[1])
    erased = (torch.zeros(8, 16, 16, 3, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))
    with_light, without = (
        finish(*erased, recipe, 5, 0, 0, "cpu", (0.0, 0.0, 0.0), STD)[0] for recipe in (noisy.with_(light=0.5), noisy)
    )
    constant = (
        with_light.flatten(1).mode(1).values[:, None, None, None]
    )  # a black image's shift, but where it is erased
    assert torch.equal(with_light != constant, without != 0)
    assert torch.equal(with_light[without != 0], without[without != 0])


def test_mixing_is_timms() -> None:
    pixels, labels = batch()
    for step in range(8):
        x, y = finished(CONVNEXT.with_(random_erasing=0.0), step)
        theirs = normalized(pixels, CPU, MEAN, STD)
        with seeded(0, step, DEVICE):
            theirs, targets = Mixup(0.8, 1.0, None, 1.0, 0.5, "batch", True, 0.1, 5)(theirs, labels)
        assert torch.equal(x, theirs)
        assert torch.equal(y, targets)
        torch.testing.assert_close(y.sum(1), torch.ones(8))


@pytest.mark.parametrize("count", [7, 1])
def test_odd_batches_keep_their_last_image(count: int) -> None:
    pixels, labels = batch(count)
    x = normalized(pixels, CPU, MEAN, STD)
    before = x.clone()
    with seeded(0, 0, DEVICE):
        x, targets = mixed(x, labels, Mixing(mixup=0.8), 0.1, 5)
    assert torch.equal(x[-1], before[-1])
    assert targets[-1].argmax() == labels[-1]
    torch.testing.assert_close(targets.sum(1), torch.ones(count))
    assert count == 1 or not torch.equal(x[0], before[0])


def test_erasing_share_and_pixel_noise() -> None:
    x = torch.zeros((400, 16, 16, 3)).permute(0, 3, 1, 2)
    with seeded(0, 0, DEVICE) as further:
        erase(x, 0.25, further)
    erased = (x != 0).flatten(1).any(1)
    assert 0.18 < erased.float().mean() < 0.32
    noise = x[x != 0]
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05


def test_equal_rectangles_and_mixing_on_the_accelerator() -> None:
    """The accelerator's way of erasing, on the CPU through the meta of its mask: the same rectangles."""
    from timm.data.random_erasing import RandomErasing

    x = torch.zeros((50, 3, 16, 16))
    kept = torch.ones((50, 1, 16, 16))
    for target, mode in ((x, "pixel"), (kept, "const")):
        with seeded(4, 2, DEVICE):
            RandomErasing(0.5, mode=mode, device="cpu")(target)
    assert torch.equal((x == 0).all(1), kept[:, 0].bool())


@pytest.mark.gpu
def test_gpu_agrees_with_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    state = torch.cuda.get_rng_state()
    for recipe in (CONVNEXT.with_(random_erasing=0.0), OFF.with_(label_smoothing=0.1), OFF):
        for step in range(4):
            x, y = finished(recipe, step)
            gx, gy = finish(*batch(), recipe, 5, step, 0, "cuda", MEAN, STD)
            assert gx.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(gx.cpu(), x, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(gy.cpu(), y)
    erased, plain = (
        finish(*batch(64), OFF.with_(random_erasing=p), 5, 0, 0, "cuda", MEAN, STD)[0].cpu() for p in (0.5, 0.0)
    )
    on_cpu = finished(OFF.with_(random_erasing=0.5), count=64)[0]
    assert torch.equal((erased != plain).any(1), (on_cpu != plain).any(1))
    assert torch.equal(torch.cuda.get_rng_state(), state)
