"""The preflight report: facts about the images, and problems that a training on them would meet.

``checks.py`` checks the images as they are read (unreadable, duplicate, contradicting labels) and adds notes and
warnings to the data; the preflight combines these with problems that follow from the recipe. It changes nothing.
No torch.
"""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nextify.data.checks import IMBALANCE
from nextify.data.dense.annotations import DenseImages
from nextify.data.errors import DataError
from nextify.data.images import DataSet, Images, ImageSet, class_counts, label_of
from nextify.data.sources.parts import count_classes
from nextify.paper.recipe import Recipe
from nextify.system.text import as_csv, plural, some

SPLIT_FILE = "split.csv"
FEW_STEPS = 100
"""A training of fewer optimizer steps learns hardly anything."""
FEW_PER_CLASS = 5
"""A class of fewer training images is hardly learned from fresh weights."""
SMALL_BATCH_FOR_BATCH_NORM = 8
"""Batch norm's statistics are noise in smaller batches."""
FEW_TEST = 400
"""Test images below which accuracy is known to ±5 points at best."""
LARGE = 4
"""Ratio of the images' short side to the size they are trained at from which details are said to be lost."""
RATE_RANGE = 8.0
"""A learning rate this many times above or below the fitted one draws a warning."""


@dataclass(frozen=True)
class DataFacts:
    """A data set in numbers."""

    data: str
    """Its name."""
    fingerprint: str
    train_images: int
    test_images: int
    classes: int
    size: tuple[int, int] | None
    """Height and width in pixels; None for images of mixed sizes."""
    smallest_class: tuple[str, int]
    """Name and training images; likewise ``largest_class``."""
    largest_class: tuple[str, int]
    images_per_class: Mapping[str, int]
    """Training images by class."""
    classes_without_training_images: Sequence[str]
    classes_without_test_images: Sequence[str]
    test_images_also_in_training: int
    """Test images with the content of a training image."""
    left_out: Mapping[str, Sequence[str]]
    """Names of images in the source that are not used, by the reason."""


@dataclass(frozen=True)
class MultiLabelFacts(DataFacts):
    """A data set whose images can have several labels; its classes are labels."""

    labels_per_image: float
    """Mean over the training images."""
    images_without_labels: int
    """Training images."""


@dataclass(frozen=True)
class Preflight:
    """The report; notes and warnings are one sentence each."""

    facts: DataFacts
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    labelled: bool = True
    """Whether the classes matter."""

    def lines(self) -> list[str]:
        f = self.facts
        size = "of mixed sizes" if f.size is None else f"of {f.size[1]}×{f.size[0]} pixels"
        images = f"{plural(f.train_images, 'image')} to train on and {f.test_images:,} to test on, {size}"
        if not self.labelled:
            return [images]
        least, most = f.smallest_class[1], f.largest_class[1]
        each = f"{least:,}{'' if least == most else f' to {most:,}'} training images each"
        if isinstance(f, MultiLabelFacts):
            each += f", {f.labels_per_image:.2f} labels per image (multi-label)"
            if f.images_without_labels:
                each += f", {plural(f.images_without_labels, 'image')} without any"
        return [images, f"{plural(f.classes, 'class', 'classes')}, {each}"]

    def to_dict(self) -> dict[str, object]:
        """Facts, notes and warnings as plain data for JSON."""
        return {**asdict(self.facts), "notes": list(self.notes), "warnings": list(self.warnings)}


def preflight(
    images: Images,
    recipe: Recipe,
    *,
    fitted: Recipe | None = None,
    held_out: int = 0,
    uses_batch_norm: bool = False,
    image_size: int | None = None,
    labelled: bool = True,
) -> Preflight:
    """Check images against the recipe they will be trained with. Raises ``DataError`` as ``check_numbers``.

    Args:
        fitted: the fitted recipe before the user's own settings, to warn of settings far from it.
        held_out: training images that are not trained on, but calibrated on.
        uses_batch_norm: whether the network has batch norm.
        image_size: side at which the images will be trained, pixels; None where it is not known.
        labelled: whether the classes are learned.
    """
    check_numbers(images, recipe, held_out)
    train = len(images.train)
    counts, test_counts = (class_counts(s.labels, images.num_classes) for s in (images.train, images.test))
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    absent = [images.classes[i] for i in np.flatnonzero(test_counts == 0)]
    notes = [*images.notes, *(_test_notes(images, absent) if labelled else ())]
    if image_size is not None and (images.middle_side or 0) >= LARGE * image_size:
        notes.append(
            f"The images' short side is about {images.middle_side:,} pixels but training uses {image_size}, which "
            f"loses detail: give a larger --image-size, or crop the images to what matters."
        )
    shared = images.test_images_also_in_training
    if shared is None:
        shared = duplicates(images.train, images.test)
        if shared:
            count = plural(shared, "test image is also a training image", "test images are also training images")
            notes.append(f"{count} (the same pixels), so accuracy is inflated.")
    untrained = [images.classes[i] for i in np.flatnonzero(counts == 0)]
    facts = DataFacts(
        data=images.name,
        fingerprint=images.fingerprint,
        train_images=train,
        test_images=len(images.test),
        classes=images.num_classes,
        size=images.native_size,
        smallest_class=(images.classes[smallest], int(counts[smallest])),
        largest_class=(images.classes[largest], int(counts[largest])),
        images_per_class={name: int(n) for name, n in zip(images.classes, counts, strict=True)},
        classes_without_training_images=untrained,
        classes_without_test_images=absent,
        test_images_also_in_training=shared,
        left_out={reason: list(names) for reason, names in images.left_out.items() if names},
    )
    if images.multilabel:
        labels = images.train.labels.sum(1)
        facts = MultiLabelFacts(
            **vars(facts), labels_per_image=float(labels.mean()), images_without_labels=int((labels == 0).sum())
        )
    warnings = (
        *images.warnings,
        *(_class_warnings(images, counts, untrained, recipe) if labelled else ()),
        *_recipe_warnings(recipe, fitted, train - held_out, uses_batch_norm),
    )
    return Preflight(facts, tuple(notes), warnings, labelled)


def check_numbers(images: DataSet[Any], recipe: Recipe, held_out: int = 0) -> None:
    """Raise ``DataError`` where an epoch would have no step, or there are no test images."""
    train = len(images.train) - held_out
    if recipe.batch_size > train:
        raise DataError(
            f"a batch of {plural(recipe.batch_size, 'image')} is larger than an epoch of {train:,}: set batch_size to "
            f"at most {train:,}, or leave it out"
        )
    if not len(images.test):
        raise DataError("there are no images to test on: add a val split, or leave some of each class for testing")


def split_csv(images: Images | DenseImages, held_out: Sequence[int] = ()) -> str:
    """A table of each image's name, class (of classification; several labels with bars between them), part (``train``,
    ``test``, ``calibration``) and the start of its file's SHA-256 (where it has a file), as CSV. ``held_out``: which
    training images are not trained on, but calibrated on."""
    apart = frozenset(held_out)
    if isinstance(images, DenseImages):
        sets = (("train", images.train), ("test", images.test))
        dense = ((held.name(i), part, held.digest(i)) for part, held in sets for i in range(len(held)))
        return as_csv(("path", "split", "digest"), dense)
    rows = []
    for part, some_images in (("train", images.train), ("test", images.test)):
        for i in range(len(some_images)):
            own = "calibration" if part == "train" and i in apart else part
            label = "|".join(images.classes[k] for k in label_of(some_images.labels, i))
            rows.append((some_images.name(i), label, own, some_images.digest(i)))
    return as_csv(("path", "label", "split", "digest"), rows)


class SplitRow(NamedTuple):
    """An image in split.csv."""

    path: str
    label: str
    """Empty for boxes and masks."""
    digest: str
    """Empty in files of earlier versions, and for images without a file."""


def read_split(folder: Path) -> dict[str, list[SplitRow]]:
    """The images of each part by the split.csv in a training's folder, as ``split_csv`` made it; empty where there is
    no such file or it cannot be read."""
    parts: dict[str, list[SplitRow]] = {}
    try:
        with open(folder / SPLIT_FILE, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row.get("path") and row.get("split"):
                    found = SplitRow(row["path"], row.get("label") or "", row.get("digest") or "")
                    parts.setdefault(row["split"], []).append(found)
    except (OSError, ValueError, csv.Error):
        return {}
    return parts


def duplicates(train: ImageSet, test: ImageSet) -> int:
    """The number of test images with the pixels of a training image."""
    known = {digest(train, i) for i in range(len(train))}
    return sum(digest(test, i) in known for i in range(len(test)))


def digest(images: ImageSet, index: int) -> bytes:
    """Of an image's pixels."""
    pixels = images.load(index)
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16, key=str(pixels.shape).encode()).digest()


def _test_notes(images: Images, absent: Sequence[str]) -> list[str]:
    """What the test images cannot tell."""
    notes = []
    count = len(images.test)
    if count < FEW_TEST and not images.multilabel:
        half = 196 / (2 * count**0.5)  # 95 % of a binomial's mass at an accuracy of one half, in percent
        notes.append(
            f"With {plural(count, 'test image')}, accuracy is only known to ±{min(half, 50):.0f} points (95 %)."
        )
    if absent and not images.untested:
        notes.append(f"There are no test images of {count_classes(absent)}: "
                     f"{'mAP' if images.multilabel else 'accuracy'} covers the other classes only.")  # fmt: skip
    return notes


def _class_warnings(images: Images, counts: np.ndarray[Any, Any], untrained: list[str], recipe: Recipe) -> list[str]:
    warnings = []
    if untrained:
        warnings.append(f"no training images of {some(untrained)}: add some, or leave the class out")
    largest, smallest = int(counts.max()), int(counts[counts > 0].min())
    if largest > IMBALANCE * smallest and recipe.class_balance == "off" and not images.multilabel:
        warnings.append(
            f"the largest class has {largest / smallest:,.0f} times as many images as the smallest, which will hardly "
            f"be predicted: --set class_balance=loss weights classes equally, class_balance=sampling shows them "
            f"equally often"
        )
    if few := [name for name, n in zip(images.classes, counts, strict=True) if 0 < n < FEW_PER_CLASS]:
        warnings.append(
            f"fewer than {FEW_PER_CLASS} training images of {some(few)}: fine-tune from --weights, or add images"
        )
    return warnings


def _recipe_warnings(recipe: Recipe, fitted: Recipe | None, train: int, uses_batch_norm: bool) -> list[str]:
    warnings = []
    steps = recipe.epochs * (train // recipe.batch_size)
    if steps < FEW_STEPS:
        warnings.append(
            f"training for only {plural(steps, 'step')} teaches little: give more --epochs, or a smaller batch_size"
        )
    if recipe.ema != "off" and 1 / (1 - recipe.ema) > steps / 4:
        warnings.append(
            f"ema={recipe.ema:g} averages over {1 / (1 - recipe.ema):,.0f} of {steps:,} steps, so the result still "
            f"holds much of the initial weights: set ema=off or {max(0.0, 1 - 10 / max(steps, 11)):.4g}"
        )
    if fitted is not None:
        ratio = recipe.learning_rate / fitted.learning_rate
        if not 1 / RATE_RANGE <= ratio <= RATE_RANGE:
            what = f"{ratio:.3g} times" if ratio > 1 else f"1/{1 / ratio:.3g} of"
            warnings.append(
                f"learning_rate={recipe.learning_rate:g} is {what} the fitted {fitted.learning_rate:.3g}: "
                f"{'training may diverge' if ratio > 1 else 'the network may hardly learn'}"
            )
    if uses_batch_norm and recipe.ema != "off":
        warnings.append(
            f"ema={recipe.ema:g} averages weights, and batch norm's running statistics do not match averaged weights: "
            f"set ema=off"
        )
    if uses_batch_norm and recipe.batch_size < SMALL_BATCH_FOR_BATCH_NORM:
        warnings.append(
            f"batch norm's statistics are too noisy with {recipe.batch_size} images at a time: set norm=layer, or a "
            f"larger batch_size"
        )
    return warnings
