"""``scenes``: scikit-learn's digits composed on cluttered backgrounds, with boxes, instance masks and index masks.

A first detector or segmenter needs no download. A scene has 128×160 pixels and 3 to 9 digits of 8 to 48 pixels, turned
a little, of any colour, some behind others. The backgrounds hold strokes, rings and patches like parts of digits.
Everything is drawn from fixed seeds by generators whose numbers NumPy guarantees. Test scenes hold other handwritten
digits than training scenes.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from nextify.data.decode import Pixels
from nextify.data.dense.annotations import IndexMask, Objects, encoded_mask

HEIGHT, WIDTH = 128, 160
TRAIN, TEST = 400, 100
DIGITS_OF_TRAIN = 1200
"""Of the 1,797 digits, those that training scenes hold; test scenes hold the others."""
SMALLEST, LARGEST = 8, 48
"""Pixels of a digit's height."""
DIGITS = 3, 9
"""Fewest and most of a scene."""
LEAST_VISIBLE = 0.7
"""Share of a digit that the digits drawn after it leave visible."""
CONTRAST = 70.0
"""Least distance of a digit's colour from its background's mean, of 255, in the channel where it is largest."""
_TRIES = 12
_FINE = 6
"""Pixels into which each of a digit's is parted before it is resized, so that its outline is smooth."""

_RAMP = [round(255 * min(1.0, max(0.0, (value / 255 - 0.38) / 0.2))) for value in range(256)]
"""Steep around half the ink, which makes crisp strokes of blurred pixels."""

Random = np.random.RandomState
Scene = tuple[Pixels, Objects, IndexMask]


@lru_cache(maxsize=1)
def scenes() -> tuple[list[Scene], list[Scene]]:
    """The scenes to train and to test on: pixels ``(128, 160, 3)``, the objects, and a mask of 0 where there is no
    digit and 1 + digit elsewhere. Boxes enclose what is visible of a digit."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = found.images / 16, found.target
    which = Random(0).permutation(len(labels))
    parts = which[:DIGITS_OF_TRAIN], which[DIGITS_OF_TRAIN:]
    train, test = (
        [_scene(Random([part, i]), images, labels, own) for i in range(count)]
        for part, (count, own) in enumerate(zip((TRAIN, TEST), parts, strict=True))
    )
    return train, test


def _scene(
    random: Random, images: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], own: npt.NDArray[np.int64]
) -> Scene:
    canvas = _background(random)
    owner = np.full((HEIGHT, WIDTH), -1)  # which object each pixel belongs to
    drawn: list[int] = []
    left = np.zeros(DIGITS[1], np.int64)  # pixels of each object that may still be covered
    for _ in range(random.randint(DIGITS[0], DIGITS[1] + 1)):
        which = int(own[random.randint(len(own))])
        size = SMALLEST * (LARGEST / SMALLEST) ** random.uniform()
        alpha = _glyph(images[which], size, random.uniform(-15, 15), random.uniform(0.85, 1.25))
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
    canvas += random.normal(0, random.uniform(2, 7), (HEIGHT, WIDTH, 1))
    classes = np.array(drawn)
    mask = np.where(owner >= 0, 1 + classes[owner], 0).astype(np.uint8)
    return canvas.clip(0, 255).round().astype(np.uint8), _objects(owner, classes), mask


def _objects(owner: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]) -> Objects:
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


def _glyph(digit: npt.NDArray[np.float64], size: float, degrees: float, stretch: float) -> npt.NDArray[np.float64]:
    """How much of each pixel an enlarged digit ``(8, 8)`` covers, cropped to it: about ``size`` pixels high."""
    padded = np.pad(digit, 2)  # (12, 12)
    side = padded.shape[0] * _FINE
    fine = Image.fromarray((padded * 255).round().astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    fine = fine.rotate(degrees, Image.Resampling.BILINEAR)
    ink = np.asarray(fine.point(_RAMP))
    rows, columns = np.flatnonzero(ink.max(1) > 127), np.flatnonzero(ink.max(0) > 127)
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    height = round(size)
    width = max(3, round(size * stretch * (box[2] - box[0]) / (box[3] - box[1])))
    small = Image.fromarray(ink).resize((min(width, WIDTH), height), Image.Resampling.BILINEAR, tuple(map(float, box)))
    return np.asarray(small) / 255


def _background(random: Random) -> npt.NDArray[np.float64]:
    """``(128, 160, 3)``: a soft colour field with strokes, rings and patches on it."""
    field = random.uniform(30, 225, (1, 1, 3)) + random.normal(0, 28, (4, 5, 3))
    coarse = Image.fromarray(field.clip(0, 255).round().astype(np.uint8))
    image = coarse.resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(random.randint(8, 20)):
        colour = (*random.randint(0, 256, 3).tolist(), int(random.randint(60, 200)))
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
    return np.asarray(image.reduce(2)).astype(np.float64)


def _colour(random: Random, around: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A colour ``(3,)`` that stands out from what is around it."""
    for _ in range(100):
        colour = random.uniform(0, 255, 3)
        if np.abs(colour - around).max() >= CONTRAST and abs(colour.mean() - around.mean()) >= CONTRAST / 2:
            return colour
    return np.full(3, 255.0 if around.mean() < 128 else 0.0)
