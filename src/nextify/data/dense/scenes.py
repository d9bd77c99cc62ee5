"""``scenes``: scikit-learn's digits composed on cluttered backgrounds, with boxes, instance masks and index masks.

A scene has 96×128 pixels and 2 to 5 digits of 20 to 48 pixels, turned a little, some behind others. Everything is drawn
from fixed seeds by generators whose numbers NumPy guarantees; test scenes hold other handwritten digits.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from nextify.data.decode import Pixels
from nextify.data.dense.annotations import IndexMask, Objects, encoded_mask

HEIGHT, WIDTH = 96, 128
TRAIN, TEST = 1500, 150
DIGITS_OF_TRAIN = 1200
"""Of the 1,797 digits, those that training scenes hold; test scenes hold the others."""
SMALLEST, LARGEST = 20, 48
"""Pixels of a digit's height."""
DIGITS = 2, 5
"""Fewest and most of a scene."""
LEAST_VISIBLE = 0.8
"""Share of a digit that the digits drawn after it leave visible."""
CONTRAST = 90.0
"""By how much a digit is at least brighter than what is around it, of 255."""
_TRIES = 12
_INK = 0.48
"""Share of the darkest ink from which a pixel belongs to a digit."""

Random = np.random.RandomState
Part = Literal["train", "test"]
Scene = tuple[Pixels, Objects, IndexMask]


class Scenes:
    """The scenes of a part, composed when one is asked for: a store of pixels ``(96, 128, 3)``."""

    def __init__(self, part: Part) -> None:
        self.part = part

    def __len__(self) -> int:
        return {"train": TRAIN, "test": TEST}[self.part]

    def load(self, index: int) -> Pixels:
        return scene(self.part, index)[0]


class SceneObjects(Scenes, Sequence[Objects]):
    """Their objects; boxes enclose what is visible of a digit."""

    def __getitem__(self, index: int) -> Objects:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return scene(self.part, index)[1]


class SceneMasks(Scenes):
    """Their index masks: 0 where there is no digit, 1 + digit elsewhere."""

    def __getitem__(self, index: int) -> IndexMask:
        return scene(self.part, index)[2]


@cache
def scene(part: Part, index: int) -> Scene:
    """A scene, a function of its part and index."""
    images, labels = _digits()
    which = Random(0).permutation(len(labels))
    own = which[:DIGITS_OF_TRAIN] if part == "train" else which[DIGITS_OF_TRAIN:]
    return _scene(Random(1000 * (part == "test") + index), images, labels, own)


@cache
def _digits() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """scikit-learn's digits ``(1797, 8, 8)`` from 0 to 1, and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images / 16, found.target


def _scene(
    random: Random, images: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], own: npt.NDArray[np.int64]
) -> Scene:
    canvas = _background(random)
    owner = np.full((HEIGHT, WIDTH), -1, np.int8, order="F")  # which object each pixel belongs to
    drawn: list[int] = []
    left = np.zeros(DIGITS[1], np.int64)  # pixels of each object that may still be covered
    for _ in range(random.randint(DIGITS[0], DIGITS[1] + 1)):
        which = int(own[random.randint(len(own))])
        size = SMALLEST * (LARGEST / SMALLEST) ** random.uniform()
        alpha = _glyph(images[which], size, random.uniform(-12, 12), random.uniform(0.85, 1.25))
        inside = alpha > 0.5
        height, width = alpha.shape
        for _ in range(_TRIES):
            y, x = random.randint(HEIGHT - height + 1), random.randint(WIDTH - width + 1)
            place = (slice(y, y + height), slice(x, x + width))
            covered = owner[place][inside]
            hidden = np.bincount(covered[covered >= 0], minlength=DIGITS[1])
            if (hidden <= left).all():
                break
        else:
            continue
        colour = _colour(random, canvas[place].mean((0, 1)))
        canvas[place] += alpha[..., None] * (colour - canvas[place])
        owner[place][inside] = len(drawn)
        left -= hidden
        left[len(drawn)] = int((1 - LEAST_VISIBLE) * inside.sum())
        drawn.append(int(labels[which]))
    y, x = random.randint(HEIGHT), random.randint(WIDTH)
    canvas += random.uniform(1, 5) * _noise()[y : y + HEIGHT, x : x + WIDTH]
    classes = np.array(drawn)
    mask = np.array([*(1 + classes), 0], np.uint8)[owner]  # the last, of -1, is the background
    return canvas.clip(0, 255).round().astype(np.uint8), _objects(owner, classes), mask


def _objects(owner: npt.NDArray[np.int8], classes: npt.NDArray[np.int64]) -> Objects:
    boxes = np.zeros((len(classes), 4), np.float32)
    masks = []
    for i in range(len(classes)):
        mask = owner == i
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes[i] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        masks.append(mask)
    return Objects(
        boxes,
        classes.astype(np.int64),
        np.zeros(len(classes), bool),
        np.array([mask.sum() for mask in masks], np.float64),
        tuple(map(encoded_mask, masks)),
    )


@cache
def _noise() -> npt.NDArray[np.float32]:
    """Gaussian noise of which each scene shows a part: ``(256, 320, 1)``."""
    return Random(1).normal(0, 1, (2 * HEIGHT, 2 * WIDTH, 1)).astype(np.float32)


def _glyph(digit: npt.NDArray[np.float64], size: float, degrees: float, stretch: float) -> npt.NDArray[np.float32]:
    """How much of each pixel an enlarged digit ``(8, 8)`` covers, cropped to it: about ``size`` pixels high."""
    padded = Image.fromarray(np.pad(digit, 2).astype(np.float32))  # 12×12
    down, across = size / 8, stretch * size / 8  # pixels per pixel of the digit
    height, width = math.ceil(12 * down), min(math.ceil(12 * across), WIDTH)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rows = (cos / across, sin / down), (-sin / across, cos / down)  # from a pixel made to one of the digit
    turned = [value for a, b in rows for value in (a, b, 6 - a * width / 2 - b * height / 2)]
    ink = np.asarray(padded.transform((width, height), Image.Transform.AFFINE, turned, Image.Resampling.BICUBIC))
    # The larger the digit, the steeper: its outline stays about one pixel wide.
    alpha = ((ink - _INK) / min(1.0, 9 / size) + 0.5).clip(0, 1)
    down_ink, across_ink = (np.flatnonzero((alpha > 0.5).any(axis)) for axis in (1, 0))
    return alpha[down_ink[0] : down_ink[-1] + 1, across_ink[0] : across_ink[-1] + 1]


def _background(random: Random) -> npt.NDArray[np.float32]:
    """``(96, 128, 3)``: a soft colour field with strokes, rings and patches on it."""
    field = random.uniform(10, 120, (1, 1, 3)) + random.normal(0, 28, (3, 4, 3))
    coarse = Image.fromarray(field.clip(0, 255).round().astype(np.uint8))
    image = coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).resize(
        (2 * WIDTH, 2 * HEIGHT), Image.Resampling.NEAREST
    )
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(random.randint(6, 14)):
        colour = (*random.randint(0, 200, 3).tolist(), int(random.randint(40, 140)))
        x, y = random.randint(2 * WIDTH), random.randint(2 * HEIGHT)
        width, height = random.randint(6, 90, 2).tolist()
        box = (int(x), int(y), int(x) + width, int(y) + height)
        thick = int(random.randint(2, 9))
        match random.randint(5):
            case 0:
                draw.rectangle(box, fill=colour)
            case 1:
                draw.ellipse(box, fill=colour)
            case 2:
                start = int(random.randint(360))
                draw.arc(box, start, start + int(random.randint(60, 300)), fill=colour, width=thick)
            case 3:
                angle, length = random.uniform(0, math.pi), 10 + width
                end = int(x + length * math.cos(angle)), int(y + length * math.sin(angle))
                draw.line([(int(x), int(y)), end], fill=colour, width=thick)
            case _:
                corners = random.randint(-20, 21, (3, 2)) + np.array([x, y])
                draw.polygon([tuple(corner) for corner in corners.tolist()], fill=colour)
    return np.asarray(image.reduce(2)).astype(np.float32)


def _colour(random: Random, around: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A colour ``(3,)`` brighter than what is around it."""
    least = float(around.mean()) + CONTRAST
    for _ in range(100):
        colour = random.uniform(60, 255, 3)
        if colour.mean() >= least:
            return colour.astype(np.float32)
    return np.full(3, 255, np.float32)
