"""From a decoded image to the square uint8 image that a network is trained or tested on.

Source: timm's ``create_transform``, as the ConvNeXt recipe uses it (Table 5): crop, mirror, then RandAugment or
colour jitter, with bicubic interpolation. timm's own classes do the work, with less overhead: images stay NumPy arrays
except where Pillow is needed, and steps that give the same result every time run once.

``Shift`` is the augmentation for small images (He et al. 2015, section 4.2): the image is padded with black
on each edge by ``share`` of its side, and a square of its original size is cut out.
"""

import math
import random
from collections.abc import Callable
from functools import lru_cache
from typing import assert_never

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import ColorJitter

from nextify.data.augment import from_pillow, rand_augment, to_pillow
from nextify.data.bands import kind_of
from nextify.data.decode import Pixels, decode
from nextify.data.images import ImageSet
from nextify.data.jpeg import Box, decode_crop
from nextify.data.kept import Kept, keep
from nextify.data.preprocessing import Preprocessing, interpolated
from nextify.paper.recipe import NoCrop, RandomResized, Recipe, RecipeError, ScaleJitter, Shift

Transform = Callable[[Pixels], Pixels]

ASPECT = (3 / 4, 4 / 3)
"""Range of a random resized crop's aspect ratio: timm's and the paper's."""
SQUARES_LIMIT = 2**30
"""Bytes up to which resized copies of a whole set are held."""


class Square:
    """The test transform, ``Preprocessing`` without its normalization: resize the short side, crop the centre."""

    def __init__(self, image_size: int, crop_ratio: float = 1.0) -> None:
        self.image_size = image_size
        self.preprocessing = Preprocessing.from_crop_ratio(image_size, crop_ratio)
        self.short_side = self.preprocessing.resize_size

    def __call__(self, pixels: Pixels) -> Pixels:
        return self.preprocessing.resized(pixels)

    def of_all(self, images: ImageSet) -> Pixels | None:
        """``(N, image_size, image_size, 3)`` of a whole set, made once; None where that would be too large."""
        size = self.image_size
        array = images.array
        if array is not None and array.shape[1:3] == (size, size) and self.short_side == size:
            return array
        key = (self.short_side, size)
        channels, kind = kind_of(images.bands)
        shape = (len(images), size, size, channels)
        if math.prod(shape) * np.dtype(kind).itemsize > SQUARES_LIMIT:
            return None
        if key not in images.squares:
            under = images.keep_under
            path = None if under is None else under.with_name(f"{under.name}-{self.short_side}-{size}.npy")
            images.squares[key], _ = keep(path, shape, (self(images.load(i))[None] for i in range(len(images))), kind)
        held: Kept = images.squares[key]
        return held.array


class TrainTransform:
    """The recipe's random transform: ``(H, W, 3)`` uint8 to ``(image_size, image_size, 3)`` uint8; likewise float32
    images of N channels, where it changes no colours.

    Draws from the global generators of ``random`` and NumPy (and torch, for colour jitter).
    """

    def __init__(self, recipe: Recipe, image_size: int) -> None:
        self.image_size = image_size
        self.crop = recipe.crop
        self.flip = recipe.horizontal_flip
        self.square = Square(image_size)
        self.margin, self.border = 0, "black"
        match recipe.crop:
            case RandomResized(scale, resampling):
                self.fast = resampling == "fast"
                self.resized_crop = RandomResizedCropAndInterpolation(
                    image_size, scale=scale, ratio=ASPECT, interpolation="bicubic"
                )
            case Shift(share, border):
                self.margin, self.border = max(1, int(image_size * share)), border
            case NoCrop():
                pass
            case ScaleJitter():
                raise RecipeError("crop=scale_jitter is for detection and segmentation: set crop to another kind")
            case unknown:
                assert_never(unknown)
        self.augment: Transform | None = None
        if recipe.rand_augment != "off":
            self.augment = rand_augment(recipe.rand_augment, image_size)
        elif recipe.color_jitter != "off":
            self.augment = Jitter(recipe.color_jitter)

    @property
    def starts_square(self) -> bool:
        """Whether the first step does not depend on any draw, so that it can run once for the whole set."""
        return not isinstance(self.crop, RandomResized)

    @property
    def whole_batches(self) -> bool:
        """Whether :meth:`of_squares` does all of this transform."""
        return self.starts_square and self.augment is None

    def of_squares(self, squares: Pixels, rows: npt.NDArray[np.int64], count: int) -> Pixels:
        """Transform ``squares (B, S, S, 3)``, prepared by ``self.square``, all at once: the same draws and pixels.

        The images are ``rows (B,)`` of a batch of ``count``, for all of which every process draws.
        """
        tops, lefts = np.zeros(count, np.int64), np.zeros(count, np.int64)
        mirrored = np.zeros(count, bool)
        padded, shifts = self.margin > 0, 2 * self.margin + 1
        for i in range(count):  # one image's draws after the other's, as one by one
            if padded:
                tops[i], lefts[i] = int(random.random() * shifts), int(random.random() * shifts)
            if self.flip:
                mirrored[i] = random.random() < self.flip
        tops, lefts, mirrored = tops[rows], lefts[rows], mirrored[rows]
        windows = shifted_batch(squares, tops, lefts, self.margin, self.border) if padded else squares.copy()
        each = windows.shape[3] * windows.itemsize
        pixels = windows.view(f"V{each}")[..., 0]  # (B, S, S) of whole pixels, which are copied faster than (…, 3)
        pixels[mirrored] = pixels[mirrored, :, ::-1]
        return windows

    def __call__(self, pixels: Pixels) -> Pixels:
        if not self.starts_square:
            top, left, height, width = self._box(*pixels.shape[:2])
            return self._finished(self._resized(pixels[top : top + height, left : left + width]))
        pixels = self.square(pixels)
        if self.margin:
            shifts = 2 * self.margin + 1
            top, left = int(random.random() * shifts), int(random.random() * shifts)
            pixels = shifted(pixels, top, left, self.margin, self.border)
        return self._finished(pixels[:, ::-1] if self._mirrors() else pixels)

    def of_encoded(self, data: bytes) -> Pixels:
        """The same as calling it on the decoded image, but decodes no more than the crop needs. Raises
        ``UnreadableImage``: see ``decode``."""
        if self.starts_square:
            return self(decode(data))
        enough = self.image_size if self.fast else None
        return self._finished(self._resized(decode_crop(data, self._box, enough)))

    def _box(self, height: int, width: int) -> Box:
        """timm's draw."""
        crop = self.resized_crop
        top, left, height, width = crop.get_params(_shape_of(height, width), crop.scale, crop.ratio)
        return top, left, height, width

    def _mirrors(self) -> bool:
        return bool(self.flip) and random.random() < self.flip

    def _resized(self, pixels: Pixels) -> Pixels:
        size, mirrors = self.image_size, self._mirrors()
        if self.fast or pixels.dtype != np.uint8:
            return interpolated(pixels, (size, size), "bicubic", mirrors)
        # A slice and Pillow's resize, without torchvision's layers in between.
        pixels = pixels[:, ::-1] if mirrors else pixels
        if pixels.shape[:2] != (size, size):
            pixels = from_pillow(to_pillow(pixels).resize((size, size), Image.Resampling.BICUBIC))
        return pixels

    def _finished(self, pixels: Pixels) -> Pixels:
        return np.ascontiguousarray(pixels if self.augment is None else self.augment(pixels))


class Jitter:
    """timm's colour jitter (torchvision's): brightness, contrast and saturation of one strength, on arrays."""

    def __init__(self, strength: float) -> None:
        self.jitter = ColorJitter(strength, strength, strength)

    def __call__(self, pixels: Pixels) -> Pixels:
        return from_pillow(self.jitter(to_pillow(pixels)))


def shifted(pixels: Pixels, top: int, left: int, margin: int, border: str = "black") -> Pixels:
    """The window at (top, left), of the image's own size, of the image with ``margin`` of ``border`` around it."""
    size = pixels.shape[0]
    return _padded(pixels[None], margin, border)[0, top : top + size, left : left + size].copy()


def shifted_batch(
    squares: Pixels, tops: npt.NDArray[np.int64], lefts: npt.NDArray[np.int64], margin: int, border: str = "black"
) -> Pixels:
    """:func:`shifted` of each of ``(B, S, S, 3)`` by its own ``(B,)`` window; in memory of its own."""
    count, size, _, channels = squares.shape
    side = size + 2 * margin
    # Each row of a window is one run of values in the padded batch.
    padded = _padded(squares, margin, border).reshape(-1)
    runs = np.lib.stride_tricks.sliding_window_view(padded, channels * size)
    rows = (np.arange(count) * side + tops)[:, None] + np.arange(size)  # (B, S)
    windows: Pixels = runs[(rows * side + lefts[:, None]) * channels].reshape(count, size, size, channels)
    return windows


def _padded(squares: Pixels, margin: int, border: str) -> Pixels:
    """``(B, S, S, C)`` with ``margin`` of ``border`` on every side."""
    if border == "reflect":
        return np.pad(squares, ((0, 0), (margin, margin), (margin, margin), (0, 0)), "reflect")
    count, size, _, channels = squares.shape
    padded = np.zeros((count, size + 2 * margin, size + 2 * margin, channels), squares.dtype)
    padded[:, margin : margin + size, margin : margin + size] = squares
    return padded


@lru_cache(maxsize=4096)
def _shape_of(height: int, width: int) -> torch.Tensor:
    """A stand-in for the image, of which timm's crop only asks the size."""
    return torch.empty((3, height, width), device="meta")
