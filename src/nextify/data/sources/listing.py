"""Which images, which class, which of them to test on: what every source comes to before an image is looked at.

Rules for all sources: a part named ``train`` is trained on; the first of ``TEST_NAMES`` that is there is tested on, and
the others are named as unused. Without a part to test on, a share of each class is set apart by a fixed seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nextify.data.encoded import Encoded
from nextify.data.errors import DataError, some
from nextify.data.images import Labels

TRAIN_NAME = "train"
TEST_NAMES = ("val", "valid", "validation", "test")
"""Parts that hold the test images, in order of preference."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Listing:
    """Images with their classes; nothing of them was read yet."""

    classes: tuple[str, ...]
    images: Encoded
    labels: Labels
    """``(N,)``, of all images."""
    train: Indices
    """Which are trained on, and which are tested on; together all of them."""
    test: Indices
    notes: tuple[str, ...]
    undecoded_note: str = ""
    """What to say where the images are too many to be held decoded."""


@dataclass(frozen=True)
class Splitting:
    """How a set without test images is split."""

    test_fraction: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class Parts:
    """The named parts of a source that are used, as it spells them."""

    train: str
    test: str | None
    """None: part of ``train`` is set apart."""
    unused: tuple[str, ...]

    @property
    def used(self) -> tuple[str, ...]:
        return (self.train,) if self.test is None else (self.train, self.test)


def is_part(name: str) -> bool:
    return name.lower() in (TRAIN_NAME, *TEST_NAMES)


def as_split(part: str) -> str:
    """A part as a message has it."""
    return f"split {part}"


def choose_parts(names: Iterable[str], where: str, shown: Callable[[str], str] = as_split) -> Parts:
    """The parts to use. ``shown`` makes a name as a message has it.

    Raises:
        DataError: there are test images and none to train on.
    """
    by_name = {name.lower(): name for name in names}
    tests = [by_name[name] for name in TEST_NAMES if name in by_name]
    if TRAIN_NAME not in by_name:
        raise DataError(f"{where} has {some([shown(t) for t in tests])} but no {shown(TRAIN_NAME)}: "
                        f"add {shown(TRAIN_NAME)}")  # fmt: skip
    return Parts(by_name[TRAIN_NAME], tests[0] if tests else None, tuple(tests[1:]))


def arrange(
    where: str,
    classes: tuple[str, ...],
    images: Encoded,
    labels: Sequence[int] | Labels,
    parts: Parts | None,
    train_count: int,
    splitting: Splitting,
    *,
    shown: Callable[[str], str] = as_split,
    notes: Sequence[str] = (),
    undecoded_note: str = "",
) -> Listing:
    """The checked listing of images of which the first ``train_count`` are to train on and the others to test on.

    Args:
        where: the source, as a message names it.
        parts: as ``choose_parts`` gives them; None where the source names none.

    Raises:
        DataError: no image, one class only, classes that only the test images have, none left to test on.
    """
    labels = np.asarray(labels, np.int64)
    said = list(notes)
    everything = np.arange(len(labels))
    if not train_count:
        raise DataError(f"{where} has no images{'' if parts is None else f' in {shown(parts.train)}'}: add some")
    trained = np.unique(labels[:train_count])
    if len(trained) == 1:
        raise DataError(
            f"{where} has one class only ({some([classes[trained[0]]])}), so there is nothing to tell apart: "
            f"add images of another class"
        )
    if parts is None or parts.test is None:
        train, test, note = split_train(labels, splitting)
        said.append(note if parts is None else f"There is no {shown('val')} or {shown('test')}: {note}")
        return Listing(classes, images, labels, train, test, tuple(said), undecoded_note)
    if train_count == len(labels):
        raise DataError(f"{where} has no images in {shown(parts.test)}: add some, or remove it to have part of "
                        f"{shown(parts.train)} set apart")  # fmt: skip
    tested = np.unique(labels[train_count:])
    if unknown := [classes[i] for i in np.setdiff1d(tested, trained)]:
        raise DataError(
            f"{shown(parts.test)} has {count_classes(unknown)} that {shown(parts.train)} lacks: "
            f"add training images of each, or remove them from {shown(parts.test)}"
        )
    if parts.unused:
        said.append(f"{shown(parts.test)} is the test set; {some([shown(name) for name in parts.unused])} is not used.")
    if absent := [classes[i] for i in np.setdiff1d(trained, tested)]:
        said.append(
            f"{shown(parts.test)} has no images of {count_classes(absent)}: accuracy is over the other classes."
        )
    train, test = everything[:train_count], everything[train_count:]
    return Listing(classes, images, labels, train, test, tuple(said), undecoded_note)


def split_train(labels: Labels, splitting: Splitting) -> tuple[Indices, Indices, str]:
    """Parts a share of each class off, by a fixed seed: at least one image a class, and never its last.

    Raises:
        DataError: every class has one image only, or the share is none.
    """
    fraction, seed = splitting.test_fraction, splitting.seed
    if not 0 < fraction < 1:
        raise DataError(f"test_fraction must be between 0 and 1, got {fraction}")
    chosen = np.zeros(len(labels), bool)
    by_class = np.argsort(labels, kind="stable")
    for members in np.split(by_class, np.flatnonzero(np.diff(labels[by_class])) + 1):
        count = min(len(members) - 1, max(1, round(len(members) * fraction)))
        label = int(labels[members[0]])
        shuffled = np.random.RandomState([seed & 0xFFFFFFFF, label]).permutation(len(members))
        chosen[members[shuffled[:count]]] = True
    if not chosen.any():
        raise DataError("every class has one image, so none is left to test on: add images, or a val/ folder")
    train, test = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    note = (
        f"{len(test):,} of {len(labels):,} images ({fraction:.0%} of each class, seed {seed}) are set apart to test on."
    )
    return train, test, note


def number_classes(values: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """Class names in natural order, and each value's number among them."""
    classes = tuple(sorted(set(values), key=natural))
    number = {name: i for i, name in enumerate(classes)}
    return classes, [number[value] for value in values]


def natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sorts 2 before 10, and upper case with lower."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def count_classes(names: Sequence[str]) -> str:
    """``class a``, or ``2 classes a, b``."""
    return f"{'class' if len(names) == 1 else f'{len(names)} classes'} {some(names)}"
