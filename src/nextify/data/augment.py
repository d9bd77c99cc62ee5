"""timm's RandAugment at less cost, pixel for pixel the same; the tests compare each operation with timm's own.

timm draws the operations and their magnitudes (``RandAugment`` and ``AugmentOp``, ``rand-m9-mstd0.5-inc1``). Here they
work on NumPy arrays: by tables of 256 values that are made once (invert, posterize, solarize) or of the image's
histogram (autocontrast, equalize), by blending with another image (brightness, contrast, sharpness), by ``affine`` with
the matrix that timm's function finds (shear, translation, rotation), or by timm's function (colour).
"""

from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from timm.data.auto_augment import RandAugment, rand_augment_choices, rand_augment_ops
from timm.data.constants import IMAGENET_DEFAULT_MEAN

from nextify.data.affine import affine, available
from nextify.data.decode import Pixels
from nextify.paper.recipe import RandAugment as Setting

LAYERS = 2
"""Operations drawn for an image, each then applied with probability 0.5: timm's defaults."""
Function = Callable[..., Image.Image]
Table = Callable[[Function, npt.NDArray[np.int64]], bytes]
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
        op.aug_fn = partial(_OPERATIONS.get(op.name, _by_pillow), op.aug_fn)
    # As an array already, which NumPy's choice would otherwise make of the list for every image.
    as_array = np.empty(len(ops), dtype=object)
    as_array[:] = ops
    return RandAugment(as_array, num_layers=LAYERS)


def to_pillow(pixels: Pixels) -> Image.Image:
    height, width, _ = pixels.shape
    return Image.frombuffer("RGB", (width, height), pixels.tobytes(), "raw", "RGB", 0, 1)


def from_pillow(image: Image.Image) -> Pixels:
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)


# What replaces one of timm's functions takes it first, and then an image and what timm gives with it.


def _by_pillow(function: Function, pixels: Pixels, *args: Any, **kwargs: Any) -> Pixels:
    return from_pillow(function(to_pillow(pixels), *args, **kwargs))


def _by_table(function: Function, pixels: Pixels, *args: Any, **_: Any) -> Pixels:
    """By a table that depends on the arguments alone."""
    return np.frombuffer(pixels.tobytes().translate(_table(function, args)), np.uint8).reshape(pixels.shape)


@lru_cache(maxsize=2048)
def _table(function: Function, args: tuple[Any, ...]) -> bytes:
    if function.__name__ == "posterize" and args[0] < 1:
        # Magnitude 10 leaves no bits: black up to Pillow 12, refused by Pillow 13.
        return bytes(256)
    return from_pillow(function(to_pillow(_EVERY_VALUE), *args))[0, :, 0].tobytes()


def _by_histogram(table: Table, function: Function, pixels: Pixels, *_: Any, **__: Any) -> Pixels:
    """By a ``table`` for each channel, found from how often it has each value."""
    image = to_pillow(pixels)
    counts = np.array(image.histogram()).reshape(3, 256)
    return from_pillow(image.point(list(b"".join(table(function, own) for own in counts))))


def _stretching(function: Function, counts: npt.NDArray[np.int64]) -> bytes:
    """The range to 0 to 255."""
    present = np.flatnonzero(counts)
    return _stretch(function, int(present[0]), int(present[-1]))


@cache  # at most 256 * 255 / 2 tables
def _stretch(function: Function, low: int, high: int) -> bytes:
    stretched = function(to_pillow(_EVERY_VALUE.clip(low, high)))
    return from_pillow(stretched)[0, :, 0].tobytes()


def _equalizing(function: Function, counts: npt.NDArray[np.int64]) -> bytes:
    """As Pillow's ``ImageOps.equalize``: values to their share of the histogram below."""
    last = counts[np.flatnonzero(counts)[-1]]
    step = int(counts.sum() - last) // 255  # 0 too where there is one value only
    if not step:
        return bytes(range(256))
    below = np.cumsum(counts) - counts
    table: Pixels = np.minimum((below + step // 2) // step, 255).astype(np.uint8)
    return table.tobytes()


def _blend(other: Image.Image, pixels: Pixels, factor: float) -> Pixels:
    """As Pillow's ``ImageEnhance``: away from another image (a factor above 1), or towards it."""
    blended = Image.blend(other, _flat(pixels), factor)
    return np.frombuffer(blended.tobytes(), np.uint8).reshape(pixels.shape)


def _plain(pixels: Pixels, level: int) -> Image.Image:
    height, width, _ = pixels.shape
    return Image.new("L", (3 * width, height), level)


def _brightness(function: Function, pixels: Pixels, factor: float, *_: Any, **__: Any) -> Pixels:
    return _blend(_plain(pixels, 0), pixels, factor)


def _contrast(function: Function, pixels: Pixels, factor: float, *_: Any, **__: Any) -> Pixels:
    gray = np.frombuffer(to_pillow(pixels).convert("L").tobytes(), np.uint8)
    return _blend(_plain(pixels, int(gray.mean() + 0.5)), pixels, factor)


def _sharpness(function: Function, pixels: Pixels, factor: float, *_: Any, **__: Any) -> Pixels:
    return _blend(_flat(_smooth(pixels)), pixels, factor)


def _smooth(pixels: Pixels) -> Pixels:
    """Pillow's ``SMOOTH``: the mean of 3×3 pixels in which the middle one counts five times; the border as it is."""
    if min(pixels.shape[:2]) < 3:
        return pixels
    deep = pixels.astype(np.uint16)
    rows = deep[:-2] + deep[1:-1] + deep[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * deep[1:-1, 1:-1]
    out = pixels.copy()
    out[1:-1, 1:-1] = (2 * total + 13) // 26  # total / 13, rounded; a half does not happen
    return out


def _flat(pixels: Pixels) -> Image.Image:
    """Bytes for Pillow's operations that take each byte by itself, without its fourth byte a pixel: ``(3 W, H)``."""
    height, width, _ = pixels.shape
    return Image.frombuffer("L", (3 * width, height), pixels.tobytes(), "raw", "L", 0, 1)


def _moved(function: Function, pixels: Pixels, amount: float, *_: Any, **settings: Any) -> Pixels:
    """A shear, translation or rotation."""
    if settings["resample"] == Image.Resampling.BICUBIC and available():
        return function(_Canvas(pixels), amount, **settings)  # type: ignore[return-value]
    return _by_pillow(function, pixels, amount, **settings)


class _Canvas:
    """As much of a Pillow image as timm's moves ask for; a move gives an array."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.height, self.width, _ = pixels.shape
        self.size = (self.width, self.height)

    rotate = Image.Image.rotate

    def transform(self, size: Any, method: Any, data: Any, resample: Any = None, *, fillcolor: Any = None) -> Pixels:
        return affine(self.pixels, data, fillcolor)

    def copy(self) -> Pixels:
        return self.pixels

    def transpose(self, method: Image.Transpose) -> Pixels:
        return from_pillow(to_pillow(self.pixels).transpose(method))


_OPERATIONS: dict[str, Callable[..., Pixels]] = {
    "AutoContrast": partial(_by_histogram, _stretching),
    "BrightnessIncreasing": _brightness,
    "ContrastIncreasing": _contrast,
    "Equalize": partial(_by_histogram, _equalizing),
    "SharpnessIncreasing": _sharpness,
    **dict.fromkeys(("Invert", "PosterizeIncreasing", "SolarizeAdd", "SolarizeIncreasing"), _by_table),
    **dict.fromkeys(("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"), _moved),
}
"""Of timm's names; all others go by Pillow."""
