"""Before a training: what the images are, what cannot work, and what will hurt.

The checks of images (unreadable, duplicate, contradicting labels) are made where they are read, in ``checks.py``, and
come as the data's notes and warnings; here they stand beside what follows from the recipe. Nothing is trained and
nothing is changed. No torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nextify.data.checks import IMBALANCE
from nextify.data.errors import DataError, some
from nextify.data.images import Images, ImageSet
from nextify.paper.recipe import Recipe

FEW_STEPS = 100
"""Optimizer steps in all below which hardly anything is learned."""
FEW_PER_CLASS = 5
"""Training images of a class below which it is hardly learned from fresh weights."""
SMALL_BATCH_FOR_BATCH_NORM = 8
"""Images of a batch below which batch norm's statistics are noise."""
RATE_RANGE = 8.0
"""A learning rate is far outside where it is so many times above or below the fitted one."""


@dataclass(frozen=True)
class Preflight:
    """The report: facts, then what was noted of the data, then what will hurt."""

    facts: dict[str, Any]
    """Plain data for JSON: images, classes, sizes, counts, duplicates, absent classes."""
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = field(default=())

    def lines(self) -> list[str]:
        """The facts, a line each."""
        f = self.facts
        size = "of mixed sizes" if f["size"] is None else f"of {f['size'][1]}×{f['size'][0]} pixels"
        per_class = f"{f['smallest_class'][1]:,} to {f['largest_class'][1]:,} training images each"
        return [
            f"{f['train_images']:,} images to train on and {f['test_images']:,} to test on, {size}",
            f"{f['classes']:,} classes, {per_class}",
        ]

    def to_dict(self) -> dict[str, Any]:
        return {**self.facts, "notes": list(self.notes), "warnings": list(self.warnings)}


def preflight(
    images: Images,
    recipe: Recipe,
    *,
    fitted: Recipe | None = None,
    uses_batch_norm: bool = False,
) -> Preflight:
    """Check data against the recipe that is to be trained.

    Args:
        fitted: what the fit gave before the user's own settings; tells which of those are far off.
        uses_batch_norm: whether the network's statistics depend on the batch.

    Raises:
        DataError: no training is possible: no step in an epoch, nothing to test on.
    """
    train = len(images.train)
    counts = np.bincount(images.train.labels, minlength=images.num_classes)
    test_counts = np.bincount(images.test.labels, minlength=images.num_classes)
    if recipe.batch_size > train:
        raise DataError(
            f"a batch of {recipe.batch_size:,} images leaves no step in an epoch of {train:,}: "
            f"set batch_size to at most {train:,}, or leave it to the fit"
        )
    if not len(images.test):
        raise DataError("there is no image to test on: add a val/ folder, or leave some of each class for it")
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    absent = [images.classes[i] for i in np.flatnonzero(test_counts == 0)]
    notes = list(images.notes)
    shared = images.test_images_also_in_training
    if shared is None:
        shared = duplicates(images.train, images.test)
        if shared:
            notes.append(f"{shared:,} test images are also training images (the same pixels): accuracy is flattered.")
    untrained = [images.classes[i] for i in np.flatnonzero(counts == 0)]
    facts: dict[str, Any] = {
        "data": images.name,
        "fingerprint": images.fingerprint,
        "train_images": train,
        "test_images": len(images.test),
        "classes": images.num_classes,
        "size": None if images.native_size is None else list(images.native_size),
        "smallest_class": [images.classes[smallest], int(counts[smallest])],
        "largest_class": [images.classes[largest], int(counts[largest])],
        "images_per_class": {name: int(n) for name, n in zip(images.classes, counts, strict=True)},
        "classes_without_training_images": untrained,
        "classes_without_test_images": absent,
        "test_images_also_in_training": shared,
        "left_out": {reason: list(names) for reason, names in images.left_out.items() if names},
    }
    warnings = (
        *images.warnings,
        *_class_warnings(images, counts, untrained, recipe),
        *_recipe_warnings(recipe, fitted, train, uses_batch_norm),
    )
    return Preflight(facts, tuple(notes), warnings)


def duplicates(train: ImageSet, test: ImageSet) -> int:
    """How many test images have the pixels of a training image."""
    known = {_digest(train, i) for i in range(len(train))}
    return sum(_digest(test, i) in known for i in range(len(test)))


def _digest(images: ImageSet, index: int) -> bytes:
    pixels = images.load(index)
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16, key=str(pixels.shape).encode()).digest()


def _class_warnings(images: Images, counts: np.ndarray[Any, Any], untrained: list[str], recipe: Recipe) -> list[str]:
    warnings = []
    if untrained:
        warnings.append(f"no training images of {some(untrained)}: add some, or leave the class out")
    largest, smallest = int(counts.max()), int(counts[counts > 0].min())
    if largest > IMBALANCE * smallest and recipe.class_balance == "off":
        warnings.append(
            f"the largest class has {largest / smallest:,.0f} times the images of the smallest, which will hardly be "
            f"predicted: --set class_balance=loss weighs them evenly, class_balance=sampling shows them equally often"
        )
    few = [name for name, n in zip(images.classes, counts, strict=True) if 0 < n < FEW_PER_CLASS]
    if few:
        warnings.append(
            f"fewer than {FEW_PER_CLASS} training images of {some(few)}: fine-tune from --weights, or add images"
        )
    return warnings


def _recipe_warnings(recipe: Recipe, fitted: Recipe | None, train: int, uses_batch_norm: bool) -> list[str]:
    warnings = []
    steps = recipe.epochs * (train // recipe.batch_size)
    if steps < FEW_STEPS:
        warnings.append(f"{steps:,} steps in all teach little: give more --epochs, or a smaller batch_size")
    if recipe.ema != "off" and 1 / (1 - recipe.ema) > steps / 4:
        warnings.append(
            f"ema={recipe.ema:g} averages over {1 / (1 - recipe.ema):,.0f} of {steps:,} steps, so the result holds "
            f"much of the initial weights: set ema=off or {max(0.0, 1 - 10 / max(steps, 11)):.4g}"
        )
    if fitted is not None:
        ratio = recipe.learning_rate / fitted.learning_rate
        if not 1 / RATE_RANGE <= ratio <= RATE_RANGE:
            what = f"{ratio:.3g} times" if ratio > 1 else f"1/{1 / ratio:.3g} of"
            warnings.append(
                f"learning_rate={recipe.learning_rate:g} is {what} the fitted {fitted.learning_rate:.3g}: "
                f"{'it may diverge' if ratio > 1 else 'it may hardly learn'}"
            )
    if uses_batch_norm and recipe.ema != "off":
        warnings.append(
            f"ema={recipe.ema:g} averages weights, which batch norm's running statistics do not fit: set ema=off"
        )
    if uses_batch_norm and recipe.batch_size < SMALL_BATCH_FOR_BATCH_NORM:
        warnings.append(
            f"{recipe.batch_size} images at a time make batch norm's statistics noise: "
            f"take norm=layer, or a larger batch_size"
        )
    return warnings
