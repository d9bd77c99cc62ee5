"""Which images, which class, which of them to test on: what every source comes to before an image is looked at.

Rules for all sources: the part named train is trained on; val, else test, is tested on, and others are named as unused.
Without a part to test on, a share of each class is set apart by a fixed seed. What is left out is counted by its
reason.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nextify.data.encoded import Encoded
from nextify.data.errors import DataError, some
from nextify.data.images import Labels
from nextify.data.sources.parts import Parts, as_split, count_classes, natural

Indices = npt.NDArray[np.int64]
LeftOut = Mapping[str, Sequence[str]]
"""Names of what is in a source and not used, by the reason."""
UNLABELLED = -1
HIDDEN, BESIDE = "hidden", "beside the images"
_EXPECTED = re.compile(
    rf"{HIDDEN}|{BESIDE}|\.\w+ files|files without an extension|further images of a sample"
    "|.*, which (has no labels|is not used)"
)
"""Reasons that need no note, or have one of their own."""
_NO_LABEL = frozenset({"", "nan", "na", "n/a", "none", "null", "<na>", "-1"})


@dataclass(frozen=True)
class Listing:
    """Images with their classes; nothing of them was read yet."""

    classes: tuple[str, ...]
    images: Encoded
    labels: Labels
    """``(N,)``, of all images."""
    train: Indices
    """Which are trained on, and which are tested on."""
    test: Indices
    notes: tuple[str, ...]
    undecoded_note: str = ""
    """What to say where the images are too many to be held decoded."""
    left_out: LeftOut = field(default_factory=dict)


@dataclass(frozen=True)
class Splitting:
    """How a set without test images is split."""

    test_fraction: float = 0.2
    seed: int = 0
    to_train: bool = True
    """False: the images are to be tested on only, so none need be there to train on, nor several classes."""


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
    left_out: LeftOut | None = None,
) -> Listing:
    """The checked listing of images of which the first ``train_count`` are to train on and the others to test on.

    Args:
        where: the source, as a message names it.
        labels: ``UNLABELLED`` where there is none.
        parts: as ``choose_parts`` gives them; None where the source names none.
        left_out: names of files that are not used, by the reason.

    Raises:
        DataError: no image, images without a label, one class only, classes that only the test images have, none left
            to test on.
    """
    labels = np.asarray(labels, np.int64)
    left = dict(left_out or {})
    said = [*notes, *_said_of(left)]
    everything = np.arange(len(labels))
    train, test = everything[:train_count], everything[train_count:]
    tested_part = None if parts is None else parts.test
    if len(test) and (labels[test] == UNLABELLED).all() and train_count:
        assert tested_part is not None
        left[f"in {shown(tested_part)}, which has no labels"] = [images.names[i] for i in test]
        said.append(f"{shown(tested_part)} has no labels, so it cannot be tested on there and is left out.")
        test, tested_part = test[:0], None
    if missing := [images.names[i] for i in (*train, *test) if labels[i] == UNLABELLED]:
        raise DataError(f"{len(missing):,} of {len(labels):,} images have no label: {some(missing)}; "
                        f"label them or leave them out")  # fmt: skip
    if not len(labels) or (not train_count and splitting.to_train):
        part = "" if parts is None or parts.train is None else f" in {shown(parts.train)}"
        raise DataError(f"{where} has no images{part}: add some")
    trained = np.unique(labels[train])
    if len(trained) == 1 and splitting.to_train:
        raise DataError(
            f"{where} has one class only ({some([classes[trained[0]]])}), so there is nothing to tell apart: "
            f"add images of another class"
        )
    said += _said_of_classes([classes[i] for i in trained])
    if tested_part is None:
        train, test, note = split_train(labels, splitting, train)
        lacks = parts is not None and parts.test is None
        said.append(f"There is no {shown('val')} or {shown('test')}: {note}" if lacks else note)
        return Listing(classes, images, labels, train, test, tuple(said), undecoded_note, left)
    assert parts is not None
    if not len(test):
        raise DataError(f"{where} has no images in {shown(tested_part)}: add some, or rename it to have part of "
                        f"{shown(parts.train or 'train')} set apart")  # fmt: skip
    tested = np.unique(labels[test])
    if len(train) and (unknown := [classes[i] for i in np.setdiff1d(tested, trained)]):
        raise DataError(
            f"{shown(tested_part)} has {count_classes(unknown)} that {shown(parts.train or 'train')} lacks: "
            f"add training images of each, or move them out of {shown(tested_part)}"
        )
    if parts.unused:
        said.append(
            f"{shown(tested_part)} is the test set; {some([shown(name) for name in parts.unused])} is not used."
        )
    if absent := [classes[i] for i in np.setdiff1d(trained, tested)]:
        said.append(
            f"{shown(tested_part)} has no images of {count_classes(absent)}: accuracy is over the other classes."
        )
    return Listing(classes, images, labels, train, test, tuple(said), undecoded_note, left)


def split_train(labels: Labels, splitting: Splitting, among: Indices | None = None) -> tuple[Indices, Indices, str]:
    """Parts a share of each class off, by a fixed seed: at least one image a class, and never its last.

    Args:
        among: which images; None for all.

    Raises:
        DataError: every class has one image only, or the share is none.
    """
    fraction, seed = splitting.test_fraction, splitting.seed
    if not 0 < fraction < 1:
        raise DataError(f"test_fraction must be between 0 and 1, got {fraction}")
    among = np.arange(len(labels)) if among is None else among
    own = labels[among]
    chosen = np.zeros(len(among), bool)
    by_class = np.argsort(own, kind="stable")
    for members in np.split(by_class, np.flatnonzero(np.diff(own[by_class])) + 1):
        count = min(len(members) - 1, max(1, round(len(members) * fraction)))
        label = int(own[members[0]])
        shuffled = np.random.RandomState([seed & 0xFFFFFFFF, label]).permutation(len(members))
        chosen[members[shuffled[:count]]] = True
    if not chosen.any():
        raise DataError("every class has one image, so none is left to test on: add images, or a val/ folder")
    train, test = among[~chosen], among[chosen]
    note = (
        f"{len(test):,} of {len(among):,} images ({fraction:.0%} of each class, seed {seed}) are set apart to test on."
    )
    return train, test, note


def no_label(value: object) -> bool:
    """Whether a label says that there is none: an empty cell, NaN, NA, None, null or -1."""
    return value is None or value != value or str(value).strip().casefold() in _NO_LABEL


def number_classes(values: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """Class names in natural order, and each value's number among them; ``UNLABELLED`` where it is no label.

    Whole numbers are one class however they are written (1 and 1.0), and so are texts in two Unicode forms.

    Raises:
        DataError: true and True, which may or may not be one class.
    """
    plain = [unicodedata.normalize("NFC", value).strip() for value in values]
    labels = {value for value in plain if not no_label(value)}
    if all(re.fullmatch(r"[+-]?\d+(\.0*)?", value) for value in labels):
        plain = [value.partition(".")[0] if value in labels else value for value in plain]
        labels = {value.partition(".")[0] for value in labels}
    mixed = sorted(value for value in labels if value.casefold() in ("true", "false"))
    if len({value.casefold() for value in mixed}) < len(mixed):
        raise DataError(f"the labels {some(mixed)} differ in their spelling only: write them alike")
    classes = tuple(sorted(labels, key=natural))
    number = {name: i for i, name in enumerate(classes)}
    return classes, [number.get(value, UNLABELLED) for value in plain]


def number_labels(
    labels: Sequence[object], known: tuple[str, ...] | None, where: str
) -> tuple[tuple[str, ...], list[int]]:
    """Class names and each label's number, ``UNLABELLED`` where there is none.

    Args:
        labels: names or numbers.
        known: the names of the numbers 0, 1, …; None where the source has none.

    Raises:
        DataError: labels beyond the known classes.
    """
    if known is None:
        return number_classes(["" if no_label(label) else str(label) for label in labels])
    number: dict[object, int] = {name: i for i, name in enumerate(known)}
    numbers = [
        label if isinstance(label, int) else number.get(label, UNLABELLED if no_label(label) else len(known))
        for label in labels
    ]
    if beyond := sorted({str(label) for label, n in zip(labels, numbers, strict=True) if not -1 <= n < len(known)}):
        raise DataError(f"{where} has {len(known):,} classes and not the label {some(beyond)} "
                        f"(the first is label 0): add the missing names, or correct the labels")  # fmt: skip
    return known, numbers


def _said_of(left_out: LeftOut) -> list[str]:
    told = {reason: len(names) for reason, names in left_out.items() if names and not _EXPECTED.fullmatch(reason)}
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in told.items())
    return [f"{sum(told.values()):,} files are left out: {reasons}."] if told else []


def _said_of_classes(classes: Sequence[str]) -> list[str]:
    alike = defaultdict(list)
    for name in classes:
        alike[unicodedata.normalize("NFKC", name).casefold().strip()].append(name)
    pairs = [" and ".join(names) for names in alike.values() if len(names) > 1]
    return [f"Classes differ in case, blanks or Unicode form only: {some(pairs)}."] if pairs else []
