"""RandAugment on arrays gives timm's own pixels on the same draws."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment as timm_ops
from timm.data.auto_augment import rand_augment_transform

from nextify.data.affine import affine, available
from nextify.data.augment import rand_augment
from nextify.paper.recipe import RandAugment
from nextify.system import native
from tests.kernels.helpers import needs_kernels

NAMES = timm_ops.rand_augment_choices("rand", increasing=True)


def pictures() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    ramp = np.linspace(40, 90, 32 * 24 * 3).astype(np.uint8).reshape(32, 24, 3)
    flat = np.full((16, 16, 3), 77, np.uint8)
    two = np.zeros((32, 32, 3), np.uint8)
    two[:5] = (255, 3, 200)
    return [noise, ramp, flat, two, noise[:, ::-1]]


@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateXRel", "TranslateYRel", "Rotate"])
@pytest.mark.parametrize("mode", ["auto", "off"])
def test_moves_are_pillows(name: str, mode: native.Mode) -> None:
    """On images smooth and not; at nought, at whole pixels and at right angles too."""
    draw = np.random.default_rng(1)
    down, across = np.mgrid[0:60, 0:75]
    waves = np.stack([127 + 140 * np.sin(down / a + across / b) for a, b in ((7, 9), (30, -11), (5, 40))], 2)
    smooth = waves.clip(0, 255).astype(np.uint8)  # with saturated parts
    noise = draw.integers(0, 256, (71, 53, 3), dtype=np.uint8)
    flat = np.full((50, 50, 3), 77, np.uint8)
    hparams = {"translate_const": 7, "img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC}
    (theirs,) = timm_ops.rand_augment_ops(9, hparams=hparams, transforms=[name])
    ours = {op.name: op for op in rand_augment(RandAugment(), 100).ops}[name]
    amounts = (0.0, 0.01, 0.2, -0.2971, 0.1234567, -0.05, 0.5, 1.0)
    if name == "Rotate":
        amounts = (0.0, 0.3, -29.71, 17.3, 90.0, -90.0, 180.0)
    with native.use_image_kernels(mode):
        for amount in amounts:
            for pixels in (smooth, noise, flat, smooth[:, ::-1], noise[:1], noise[:, :1]):
                expected = theirs.aug_fn(Image.fromarray(pixels), amount, **theirs.kwargs)
                np.testing.assert_array_equal(ours.aug_fn(pixels, amount, **ours.kwargs), np.asarray(expected))


@needs_kernels
def test_any_affine_transform_is_pillows() -> None:
    assert available(), native.notes()
    draw = np.random.default_rng(2)
    for _ in range(60):
        height, width = draw.integers(1, 40, 2)
        pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        matrix = (np.eye(3)[:2] + draw.normal(0, (0.3, 0.3, 4), (2, 3))).ravel().tolist()
        fill = tuple(draw.integers(0, 256, 3).tolist())
        image = Image.fromarray(pixels)
        expected = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=fill)
        np.testing.assert_array_equal(affine(pixels, matrix, fill), np.asarray(expected))


def seed(value: int) -> None:
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 timm draws from there


@pytest.mark.parametrize("name", NAMES)
def test_each_operation_at_each_magnitude(name: str) -> None:
    ours = {op.name: op for op in rand_augment(RandAugment(), 16).ops}[name]
    mean = (124, 116, 104)
    hparams = {"translate_const": 7, "img_mean": mean, "interpolation": Image.Resampling.BICUBIC, "magnitude_std": 0.5}
    (theirs,) = timm_ops.rand_augment_ops(9, hparams=hparams, transforms=[name])
    for op in (ours, theirs):
        op.prob, op.magnitude_std = 1.0, 0.0
    for magnitude in (0.0, 1.3, 4.0, 5.5, 8.9, 9.9, 10.0):
        ours.magnitude = theirs.magnitude = magnitude
        for pixels in pictures():
            seed(1)
            mine = ours(pixels)
            seed(1)
            if name == "PosterizeIncreasing" and magnitude == 10:
                expected = np.zeros_like(pixels)  # no bits are left; Pillow 13 refuses what Pillow 12 made black
            else:
                expected = np.asarray(theirs(Image.fromarray(pixels)))
            np.testing.assert_array_equal(mine, expected, err_msg=f"{name} {magnitude}")


def test_whole_transform_equals_timms_config_string() -> None:
    hparams = {"translate_const": 7, "img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC}
    theirs = rand_augment_transform("rand-m9-mstd0.5-inc1", hparams)
    ours = pickle.loads(pickle.dumps(rand_augment(RandAugment(9.0, 0.5), 16)))
    changed = compared = 0
    for i in range(300):
        pixels = pictures()[i % 5]
        seed(i)
        try:
            expected = np.asarray(theirs(Image.fromarray(pixels)))
        except ValueError:  # posterize to no bits
            continue
        seed(i)
        mine = ours(pixels)
        np.testing.assert_array_equal(mine, expected)
        compared += 1
        changed += not np.array_equal(mine, pixels)
    assert compared > 280
    assert 100 < changed < compared


def test_fractional_magnitudes_count() -> None:
    low, high = (rand_augment(RandAugment(m, 0.0), 32) for m in (4.0, 4.9))
    names = [op.name for op in low.ops]
    at = names.index("BrightnessIncreasing")
    pixels = pictures()[0]
    for ra in (low, high):
        ra.ops[at].prob = 1.0
    seed(0)
    first = low.ops[at](pixels)
    seed(0)
    assert not np.array_equal(first, high.ops[at](pixels))
