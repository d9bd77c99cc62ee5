"""timm's RandAugment, at a third of its cost on small images, pixel for pixel the same.

timm draws the operations and their magnitudes (its ``RandAugment`` and ``AugmentOp``, ``rand-m9-mstd0.5-inc1``). What
it then calls works on Pillow images, and on a small image most of the time goes into building tables of 256 values in
Python. So here the images are NumPy arrays, and an operation is one of three:

- a table of its arguments (invert, posterize, solarize): made once by timm's own function, from an image of all values;
- a table of its arguments and the image's range, histogram or mean (autocontrast, equalize, contrast): found by NumPy;
- timm's own function, between two conversions (all others).

The tests compare each with timm's own on the same draws.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from timm.data.auto_augment import RandAugment, rand_augment_choices, rand_augment_ops
from timm.data.constants import IMAGENET_DEFAULT_MEAN

from nextify.data.decode import Pixels
from nextify.recipe import RandAugment as Setting

LAYERS = 2
"""Operations drawn for an image, each then applied with probability 0.5: timm's defaults."""
Operation = Callable[..., Pixels]
Function = Callable[..., Image.Image]
_EVERY_VALUE = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)  # (1, 256, 3)


def rand_augment(setting: Setting, image_size: int) -> RandAugment:
    """timm's RandAugment on uint8 ``(H, W, 3)`` arrays; mean colour as fill, bicubic, any float magnitude.

    Draws from the global generators of ``random`` and NumPy, as timm's.
    """
    ops = rand_augment_ops(
        magnitude=setting.magnitude,
        hparams={
            "translate_const": int(image_size * 0.45),  # as timm's create_transform
            "img_mean": tuple(min(255, round(255 * mean)) for mean in IMAGENET_DEFAULT_MEAN),
            "interpolation": Image.Resampling.BICUBIC,
            "magnitude_std": setting.magnitude_std,
        },
        transforms=rand_augment_choices("rand", increasing=True),
    )
    for op in ops:
        op.aug_fn = _OPERATIONS.get(op.name, _ByPillow)(op.aug_fn)
    # As an array already, which NumPy's choice would otherwise make of the list for every image.
    as_array = np.empty(len(ops), dtype=object)
    as_array[:] = ops
    return RandAugment(as_array, num_layers=LAYERS)


def to_pillow(pixels: Pixels) -> Image.Image:
    height, width, _ = pixels.shape
    return Image.frombuffer("RGB", (width, height), pixels.tobytes(), "raw", "RGB", 0, 1)


def from_pillow(image: Image.Image) -> Pixels:
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)


def _looked_up(pixels: Pixels, table: bytes) -> Pixels:
    return np.frombuffer(pixels.tobytes().translate(table), np.uint8).reshape(pixels.shape)


def _looked_up_by_channel(pixels: Pixels, tables: list[bytes]) -> Pixels:
    out = np.empty(pixels.shape, np.uint8)
    for channel, table in enumerate(tables):
        out[..., channel] = _looked_up(pixels[..., channel], table)
    return out


class _ByPillow:
    """timm's function between two conversions. (A class and not a closure, so that it can be pickled.)"""

    def __init__(self, function: Function) -> None:
        self.function = function

    def __call__(self, pixels: Pixels, *args: Any, **kwargs: Any) -> Pixels:
        return from_pillow(self.function(to_pillow(pixels), *args, **kwargs))


class _ByTable:
    """A table that depends on the arguments alone."""

    def __init__(self, function: Function) -> None:
        self.function = function

    def __call__(self, pixels: Pixels, *args: Any, **_: Any) -> Pixels:
        return _looked_up(pixels, _table(self.function, args))


@lru_cache(maxsize=2048)
def _table(function: Function, args: tuple[Any, ...]) -> bytes:
    if function.__name__ == "posterize" and args[0] < 1:
        # Magnitude 10 leaves no bits: black up to Pillow 12, refused by Pillow 13.
        return bytes(256)
    return from_pillow(function(to_pillow(_EVERY_VALUE), *args))[0, :, 0].tobytes()


class _AutoContrast:
    """Stretches each channel's range to 0 to 255."""

    def __init__(self, function: Function) -> None:
        self.function = function

    def __call__(self, pixels: Pixels, **_: Any) -> Pixels:
        flat = pixels.reshape(-1, 3)
        low, high = flat.min(0).tolist(), flat.max(0).tolist()
        return _looked_up_by_channel(pixels, [_stretch(self.function, *pair) for pair in zip(low, high, strict=True)])


@cache  # at most 256 * 255 / 2 tables
def _stretch(function: Function, low: int, high: int) -> bytes:
    stretched = function(to_pillow(_EVERY_VALUE.clip(low, high)))
    return from_pillow(stretched)[0, :, 0].tobytes()


class _Equalize:
    """Pillow's ``ImageOps.equalize``: each channel's values to their share of the histogram below."""

    def __init__(self, function: Function) -> None:
        self.function = function

    def __call__(self, pixels: Pixels, **_: Any) -> Pixels:
        return _looked_up_by_channel(pixels, [_equalizing(pixels[..., channel]) for channel in range(3)])


_IDENTITY = bytes(range(256))


def _equalizing(channel: npt.NDArray[np.uint8]) -> bytes:
    counts = np.bincount(channel.ravel(), minlength=256)  # (256,)
    last = counts[int(channel.max())]
    step = int(channel.size - last) // 255  # 0 too where there is one value only
    if not step:
        return _IDENTITY
    below = np.cumsum(counts) - counts
    table: Pixels = np.minimum((below + step // 2) // step, 255).astype(np.uint8)
    return table.tobytes()


class _Contrast:
    """Pillow's ``ImageEnhance.Contrast``, whose mean it takes a detour to: away from the mean gray, or towards it."""

    def __init__(self, function: Function) -> None:
        self.function = function

    def __call__(self, pixels: Pixels, factor: float, **_: Any) -> Pixels:
        image = to_pillow(pixels)
        gray = image.convert("L").tobytes()
        mean = int(np.frombuffer(gray, np.uint8).mean() + 0.5)
        return from_pillow(Image.blend(Image.new("RGB", image.size, (mean, mean, mean)), image, factor))


_OPERATIONS: dict[str, Callable[[Function], Operation]] = {
    "AutoContrast": _AutoContrast,
    "ContrastIncreasing": _Contrast,
    "Equalize": _Equalize,
    "Invert": _ByTable,
    "PosterizeIncreasing": _ByTable,
    "SolarizeAdd": _ByTable,
    "SolarizeIncreasing": _ByTable,
}
"""Of timm's names; all others go by Pillow."""
