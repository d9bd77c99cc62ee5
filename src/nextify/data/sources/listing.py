"""Which images, which class, which of them to test on: what every source comes to before an image is looked at.

Every source gives what it holds as ``Found``; ``arrange`` alone decides. The part named train is trained on; val, else
test, is tested on, and others are named as unused. Without a part to test on, a share of each class is set apart by a
fixed seed, of whole groups where the source tells any. What is left out is counted by its reason.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nextify.data.encoded import Encoded
from nextify.data.errors import DataError
from nextify.data.images import Labels
from nextify.data.sources.parts import Parts, Splitting, count_classes, natural
from nextify.system.text import plural, some

Indices = npt.NDArray[np.int64]
LeftOut = Mapping[str, Sequence[str]]
"""Names of what is in a source and not used, by the reason."""
UNLABELLED = -1
HIDDEN = "hidden"
_EXPECTED = re.compile(
    rf"{HIDDEN}|\.\w+ files|files without an extension|further images of a sample"
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
    """``(N,)``, of all images, or ``(N, K)`` of 0 and 1 where an image can have several."""
    train: Indices
    """Which are trained on, and which are tested on."""
    test: Indices
    notes: tuple[str, ...]
    undecoded_note: str = ""
    """What to say where the images are too many to be held decoded."""
    left_out: LeftOut = field(default_factory=dict)
    groups: Sequence[str] | None = None
    """Of all images, as ``Found`` has them."""
    untested: tuple[str, ...] = ()
    """Classes without images to test on; ``notes`` name them."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a source holds: the images of the parts that are used, those to train on first."""

    where: str
    """The source, as a message names it."""
    images: Encoded
    labels: Sequence[object]
    """Of each image a name, a number, or what says that there is none; a tuple of names where there can be several."""
    classes: tuple[str, ...] | None = None
    """Names of the labels 0, 1, …; None where labels are names, or numbers without names."""
    classes_in: str = ""
    """Where ``classes`` stand, for a message."""
    parts: Parts
    """As ``choose_parts`` gives them."""
    train_count: int
    groups: Sequence[str] | None = None
    """What each image shows (a patient, a plant): images of one group must not be on both sides. Empty for none."""
    rows: Sequence[int] | None = None
    """The row of each image, where a message names rows of a table rather than images."""
    remedy: str = "label them or leave them out"
    """For images without a label."""
    notes: Sequence[str] = ()
    undecoded_note: str = ""
    left_out: LeftOut = field(default_factory=dict)


def arrange(found: Found, splitting: Splitting) -> Listing:
    """The checked listing of what a source holds. Raises ``DataError`` for no image, images without a label, one class
    only, classes that only the test images have, and none left to test on."""
    where, parts, shown, names = found.where, found.parts, found.parts.shown, found.images.names
    splitting.check(parts, where)
    left = dict(found.left_out)
    said = [*found.notes, *_said_of(left)]
    tested_part = parts.test
    several = any(isinstance(label, tuple) for label in found.labels)
    is_blank = {label: all(map(no_label, label if isinstance(label, tuple) else (label,))) for label in {*found.labels}}
    blank = np.array([is_blank[label] for label in found.labels], bool)
    train, test = np.split(np.arange(len(blank)), [found.train_count])
    if tested_part is not None and len(test) and blank[test].all():
        if not splitting.to_train or splitting.tested is not None:
            raise DataError(f"{shown(tested_part)} has no labels, so nothing can be measured on it: "
                            f"label it, or give another split")  # fmt: skip
        left[f"in {shown(tested_part)}, which has no labels"] = [names[i] for i in test]
        said.append(f"{shown(tested_part)} has no labels, so it cannot be used for testing and is left out.")
        test, tested_part = test[:0], None
    if several:
        classes, labels = number_sets(found.labels, found.classes, found.classes_in)
        if unlabelled := int(blank[train].sum() + blank[test].sum()):
            images = plural(len(train) + len(test), "image has", "images have")
            said.append(f"{unlabelled:,} of {images} no label: they count as showing none of the classes.")
    else:
        _refuse_unlabelled(found, [int(i) for i in (*train, *test) if blank[i]])
        classes, numbers = number_labels(found.labels, found.classes, found.classes_in)
        labels = np.asarray(numbers, np.int64)
    if not len(labels) or (not len(train) and splitting.to_train):
        part = f" in {shown(parts.train)}" if parts.train else ""
        raise DataError(f"{where} has no images{part}: add some")
    trained = present(labels[train])
    if several and splitting.to_train and labels[train][:, trained].all():
        kind = f"has the label {some([classes[i] for i in trained])}" if len(trained) else "has no label"
        raise DataError(f"every image of {where} {kind}, so there is nothing to tell apart: add other images")
    if len(trained) == 1 and splitting.to_train and not several:
        raise DataError(
            f"{where} has one class only ({some([classes[trained[0]]])}), so there is nothing to tell apart: "
            f"add images of another class"
        )
    said += _said_of_classes([classes[i] for i in trained])
    said += splitting.said_of(parts, tested_part)
    if tested_part is None:
        train, test, note = split_train(labels, splitting, train, found.groups)
        lacks_any = parts.train and parts.test is None
        said.append(f"There is no {shown('val')} or {shown('test')}: {note}" if lacks_any else note)
    elif not len(test):
        raise DataError(f"{where} has no images in {shown(tested_part)}: add some, or rename it to hold out part of "
                        f"{shown(parts.train or 'train')}")  # fmt: skip
    tested = present(labels[test])
    if len(train) and (unknown := [classes[i] for i in np.setdiff1d(tested, trained)]):
        place = shown(tested_part or "test")
        raise DataError(f"{place} has {count_classes(unknown)} that {shown(parts.train or 'train')} lacks: add "
                        f"training images of each, or move them out of {place}")  # fmt: skip
    if absent := tuple(classes[i] for i in np.setdiff1d(trained, tested)):
        place = "The held-out split" if tested_part is None else shown(tested_part)
        metric = "mAP" if several else "accuracy"
        said.append(f"{place} has no images of {count_classes(absent)}: {metric} covers the other classes only.")
    if found.groups is not None and (both := {found.groups[i] for i in train} & {found.groups[i] for i in test} - {""}):
        said.append(f"{plural(len(both), 'group has', 'groups have')} both training and test images, so accuracy is "
                    f"inflated: {some(sorted(both, key=natural))}.")  # fmt: skip
    if found.groups is not None and (alone := sum(not name for name in found.groups)):
        said.append(f"{alone:,} of {len(found.groups):,} images have no group: each is a group of its own.")
    return Listing(
        *(classes, found.images, labels, train, test, tuple(said), found.undecoded_note, left, found.groups, absent)
    )


def _refuse_unlabelled(found: Found, missing: list[int]) -> None:
    if not missing:
        return
    if found.rows is None:
        names = some([found.images.names[i] for i in missing])
        images = plural(len(found.labels), "image has", "images have")
        raise DataError(f"{len(missing):,} of {images} no label: {names}; {found.remedy}")
    marks = some(sorted({repr(found.labels[i]) for i in missing if found.labels[i]}))
    raise DataError(
        f"{plural(len(missing), f'row of {found.where} has', f'rows of {found.where} have')} no label"
        f"{f' ({marks})' if marks else ''}: row {some([f'{found.rows[i]:,}' for i in missing])}; {found.remedy}"
    )


def split_train(
    labels: Labels, splitting: Splitting, among: Indices, groups: Sequence[str] | None = None
) -> tuple[Indices, Indices, str]:
    """Part a share of each class off, by a fixed seed: at least one image a class, and never its last. ``among``: of
    which images; those of one of the ``groups`` stay together. Raises ``DataError`` where every class has one image
    only, or the share is none."""
    fraction, seed = splitting.test_fraction, splitting.seed
    if not 0 < fraction < 1:
        raise DataError(f"test_fraction must be between 0 and 1, got {fraction}")
    own = labels[among]
    if own.ndim == 2:
        return _split_several(own, splitting, among, None if groups is None else [groups[i] for i in among])
    if groups is not None:
        groups = complete_groups(groups)
        return _split_groups(own, splitting, among, [groups[i] for i in among])
    chosen = np.zeros(len(among), bool)
    for members in members_by_number(own):
        count = min(len(members) - 1, max(1, round(len(members) * fraction)))
        shuffled = np.random.RandomState([seed & 0xFFFFFFFF, int(own[members[0]])]).permutation(len(members))
        chosen[members[shuffled[:count]]] = True
    if not chosen.any():
        raise DataError("every class has only one image, so none is left to test on: add images, or a val/ folder")
    train, test = among[~chosen], among[chosen]
    images = plural(len(among), "image")
    note = f"{len(test):,} of {images} ({fraction:.0%} of each class, seed {seed}) are held out for testing."
    return train, test, note


def _split_groups(own: Labels, splitting: Splitting, among: Indices, groups: list[str]) -> tuple[Indices, Indices, str]:
    """Whole groups in a random order, each taken where at least half of it is still wanted of its classes."""
    fraction, seed = splitting.test_fraction, splitting.seed
    total = np.bincount(own)
    wanted = np.where(total > 1, np.maximum(1, np.round(total * fraction)), 0).astype(np.int64)
    taken = np.zeros_like(total)
    by_group = members_by_number(np.unique(groups, return_inverse=True)[1])
    order = np.random.RandomState([seed & 0xFFFFFFFF]).permutation(len(by_group))
    counts = [np.unique(own[members], return_counts=True) for members in by_group]
    chosen = []
    # Where every group is larger than what is wanted, the smallest that leaves images of its classes is taken.
    for share, ordered in ((0.5, order), (0.0, sorted(order, key=lambda g: len(by_group[g])))):
        for g in ordered:
            classes, count = counts[g]
            needed = int(np.minimum(count, np.maximum(wanted - taken, 0)[classes]).sum())
            spare = ((total - taken)[classes] > count).all()
            if needed and needed >= share * count.sum() and spare:
                taken[classes] += count
                chosen.append(int(g))
                if not share:
                    break
        if chosen:
            break
    if not chosen:
        raise DataError("no group can be held out for testing without taking all images of some class: add groups, or "
                        "a column named split")  # fmt: skip
    mask = np.zeros(len(among), bool)
    mask[np.concatenate([by_group[g] for g in chosen])] = True
    note = (
        f"{mask.sum():,} of {len(among):,} images, {len(chosen):,} of {len(by_group):,} groups (about {fraction:.0%} "
        f"of each class, seed {seed}), are held out for testing; no group is in both splits."
    )
    return among[~mask], among[mask], note


def _split_several(
    own: Labels, splitting: Splitting, among: Indices, groups: Sequence[str] | None
) -> tuple[Indices, Indices, str]:
    """The rarest label first, as in iterative stratification (Sechidis et al. 2011): images, or whole groups, in a
    random order are taken while their label is wanted, and no label loses its last. Images without one count as a
    label of theirs."""
    fraction, seed = splitting.test_fraction, splitting.seed
    of_group = np.arange(len(among))
    if groups is not None:
        of_group = np.unique(complete_groups(groups), return_inverse=True)[1]
    counts = np.zeros((int(of_group.max(initial=-1)) + 1, own.shape[1] + 1), np.int64)
    np.add.at(counts, of_group, np.hstack([own, ~own.any(1, keepdims=True)]))
    total, taken = counts.sum(0), np.zeros(counts.shape[1], np.int64)
    wanted = np.where(total > 1, np.maximum(1, np.round(total * fraction)), 0).astype(np.int64)
    chosen = np.zeros(len(counts), bool)
    order = np.random.RandomState([seed & 0xFFFFFFFF]).permutation(len(counts))
    for k in np.argsort(total, kind="stable").tolist():
        for g in order[counts[order, k] > 0].tolist():
            if taken[k] >= wanted[k]:
                break
            fits = 2 * (wanted[k] - taken[k]) >= counts[g, k]
            if fits and not chosen[g] and (total - taken > counts[g])[counts[g] > 0].all():
                chosen[g], taken = True, taken + counts[g]
    if not chosen.any():
        what = "image" if groups is None else "group"
        raise DataError(f"no {what} can be held out for testing without taking all images of some class: add images, "
                        f"or a column named split")  # fmt: skip
    mask = chosen[of_group]
    note = f"{mask.sum():,} of {plural(len(among), 'image')} (about {fraction:.0%} of each class, seed {seed}) are set "
    note += "apart to test on." if groups is None else "apart to test on, in whole groups."
    return among[~mask], among[mask], note


def present(labels: Labels) -> Indices:
    """The classes that have an image."""
    return np.flatnonzero(labels.any(0)) if labels.ndim == 2 else np.unique(labels)


def members_by_number(numbers: Labels) -> list[Indices]:
    """The positions of each number that occurs, in the numbers' order."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)


def complete_groups(names: Sequence[str]) -> list[str]:
    """The name of each image's group, where an image without one is a group of its own."""
    return [name or f"\0{i}" for i, name in enumerate(names)]


def no_label(value: object) -> bool:
    """Whether a label says that there is none: an empty cell, NaN, NA, None, null or -1."""
    return value is None or value != value or str(value).strip().casefold() in _NO_LABEL


def whole(value: object) -> object:
    """A whole number that is stored as a float, as pandas does in a column with gaps; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def number_labels(
    labels: Sequence[object], known: tuple[str, ...] | None, where: str
) -> tuple[tuple[str, ...], list[int]]:
    """Class names and each label's number, ``UNLABELLED`` where there is none. ``known``: the names of 0, 1, …

    Without known names the classes are in natural order. Whole numbers are then one class however they are written (1
    and 1.0), and so are texts in two Unicode forms. Raises ``DataError`` for labels beyond the known classes, and for
    true and True, which may or may not be one class."""
    if known is None:
        plain = {
            label: "" if no_label(label) else unicodedata.normalize("NFC", str(label)).strip() for label in {*labels}
        }
        if all(re.fullmatch(r"([+-]?\d+(\.0*)?)?", value) for value in plain.values()):
            plain = {label: value.partition(".")[0] for label, value in plain.items()}
        found = {*plain.values()} - {""}
        mixed = sorted(value for value in found if value.casefold() in ("true", "false"))
        if len({value.casefold() for value in mixed}) < len(mixed):
            raise DataError(f"the labels {some(mixed)} differ only in spelling: write them alike")
        known = tuple(sorted(found, key=natural))
        number: dict[object, int] = {name: i for i, name in enumerate(known)}
        return known, [number.get(plain[label], UNLABELLED) for label in labels]
    number = {name: i for i, name in enumerate(known)}
    numbers = [
        label if isinstance(label, int) else number.get(label, UNLABELLED if no_label(label) else len(known))
        for label in labels
    ]
    if beyond := sorted({str(label) for label, n in zip(labels, numbers, strict=True) if not -1 <= n < len(known)}):
        raise DataError(f"{where} has {len(known):,} classes but no label {some(beyond)} (labels start at 0): add the "
                        f"missing names, or correct the labels")  # fmt: skip
    return known, numbers


def number_sets(sets: Sequence[object], known: tuple[str, ...] | None, where: str) -> tuple[tuple[str, ...], Labels]:
    """Class names, and ``(N, K)`` of 0 and 1, of tuples of names. Raises ``DataError`` as ``number_labels``."""
    names: list[tuple[str, ...]] = [own if isinstance(own, tuple) else () for own in sets]
    classes, numbers = number_labels([name for own in names for name in own], known, where)
    rows, columns = np.repeat(np.arange(len(names)), [len(own) for own in names]), np.array(numbers, np.int64)
    labels = np.zeros((len(names), len(classes)), np.int64)
    labels[rows[columns >= 0], columns[columns >= 0]] = 1
    return classes, labels


def _said_of(left_out: LeftOut) -> list[str]:
    told = {reason: len(names) for reason, names in left_out.items() if names and not _EXPECTED.fullmatch(reason)}
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in told.items())
    return [f"{plural(sum(told.values()), 'file is', 'files are')} left out: {reasons}."] if told else []


def _said_of_classes(classes: Sequence[str]) -> list[str]:
    alike = defaultdict(list)
    for name in classes:
        alike[unicodedata.normalize("NFKC", name).casefold().strip()].append(name)
    pairs = [" and ".join(names) for names in alike.values() if len(names) > 1]
    return [f"Some classes differ only in case, spaces or Unicode form: {some(pairs)}."] if pairs else []
