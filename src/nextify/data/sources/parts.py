"""The parts of a data set by their names: one table for folders, files, shards, splits and columns.

The words are those of Hugging Face datasets (https://huggingface.co/docs/datasets/repository_structure), in any case,
set off by whatever is no letter: ``Training``, ``seg_train``, ``imagenet1k-validation-07.tar``.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from nextify.data.errors import DataError
from nextify.data.source import LabelTask
from nextify.system.text import some

Kind = Literal["train", "val", "test"]
Tested = Literal["val", "test"]
"""A part to test on."""

WORDS: dict[str, Kind] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_NEUTRAL = frozenset({"set", "data", "dataset", "split", "part", "images", "image", "img", "imgs", "seg", "folder"})
"""Words that may stand beside a part's in a folder's name; with any other it may be a class, such as test_tube."""
_LIKE = re.compile(r"(train|valid|val|test|eval|dev)[a-z]|trainval|minival|hold|holdout|heldout|unlabell?ed")


def as_split(part: str) -> str:
    """A part as a message has it."""
    return f"split {part}"


def as_folder(part: str) -> str:
    """A part that is a folder, as a message has it."""
    return f"{part}/"


@dataclass(frozen=True)
class Parts:
    """The parts of a source that are used, as it spells them."""

    train: str | None
    """Empty: the source names no parts, and this is all of it. None: there is none, and none is needed."""
    test: str | None = None
    """None: part of ``train`` is set apart."""
    unused: tuple[str, ...] = ()
    shown: Callable[[str], str] = as_split
    """How a message names a part."""

    @property
    def used(self) -> tuple[str, ...]:
        return tuple(part for part in (self.train, self.test) if part is not None)


@dataclass(frozen=True)
class Splitting:
    """How a set without test images is split, and what is learned of it."""

    test_fraction: float = 0.2
    seed: int = 0
    to_train: bool = True
    """False: the images are to be tested on only, so none need be there to train on, nor several classes."""
    tested: Tested | None = None
    """The part that must be tested on; None takes val, else test."""
    task: LabelTask | None = None
    """Whether an image has one class or any number of labels; None recognizes it."""

    def check(self, parts: Parts, where: str) -> None:
        """Raise ``DataError`` where a source lacks the part to test on."""
        if self.tested is not None and kind_of(parts.test or "") != self.tested:
            has = f" (only {parts.shown(parts.test)})" if parts.test is not None else ""
            raise DataError(f"--split {self.tested} asks for a split that {where} does not have{has}: choose another, "
                            f"or leave --split out")  # fmt: skip

    def said_of(self, parts: Parts, tested: str | None) -> list[str]:
        """What to say of parts that are not used, where ``tested`` is tested on; None for a share of train."""
        if not parts.unused:
            return []
        which = "a share of the training images" if tested is None else parts.shown(tested)
        said = [f"{which} is the test set; {some(list(map(parts.shown, parts.unused)))} is not used."]
        if self.to_train and tested is not None and any(kind_of(name) == "test" for name in parts.unused):
            said.append("nextify evaluate --split test measures a bundle on the split named test.")
        return said


def kind_of(name: str) -> Kind | None:
    """The part that a name says; None where it says none, or more than one."""
    kinds = {WORDS[word] for word in _words(name) if word in WORDS}
    return kinds.pop() if len(kinds) == 1 else None


def is_part_folder(name: str) -> bool:
    """Whether a folder's name says a part and nothing else."""
    return kind_of(name) is not None and not own_words(name)


def own_words(name: str) -> frozenset[str]:
    """What a name says beside its part: ``cats`` of ``cats_train``."""
    return frozenset(word for word in _words(name) if word not in WORDS and word not in _NEUTRAL)


def looks_like_part(name: str) -> bool:
    """Whether a name seems to say a part that is not known: ``trainval``, ``testA``, ``train_val``, ``holdout``."""
    words = _words(name)
    return kind_of(name) is None and (
        any(_LIKE.fullmatch(word) for word in words) or len({WORDS[word] for word in words if word in WORDS}) > 1
    )


def choose_parts(
    names: Iterable[str], where: str, splitting: Splitting, shown: Callable[[str], str] = as_split
) -> Parts:
    """The parts to use of those that a source names (only ``""``: it names none): the one to train on, and the first of
    val and test, or the one that must be tested on. Raises ``DataError`` for none to train on where one is needed, for
    several of them, and for a name that seems to say another part."""
    if (names := {*names}) == {""}:
        return Parts("", shown=shown)
    by_kind: dict[Kind, list[str]] = {"train": [], "val": [], "test": []}
    unknown = []
    for name in sorted(names, key=lambda name: (name != kind_of(name), natural(name))):
        if (kind := kind_of(name)) is not None:
            by_kind[kind].append(name)
        elif looks_like_part(name):
            unknown.append(shown(name))
    if unknown:
        raise DataError(f"{where} has {some(unknown)}, which may be a training or a test split: "
                        f"rename it to train, val or test, or move it elsewhere")  # fmt: skip
    trains, tests = by_kind["train"], by_kind["val"] + by_kind["test"]
    if splitting.tested == "test":
        tests = by_kind["test"] + by_kind["val"]
    if len(trains) > 1:
        raise DataError(f"{where} has several training splits, {some([shown(name) for name in trains])}: merge them")
    if not trains and splitting.to_train:
        there = f"{some(list(map(shown, tests)))} but " if tests else ""
        raise DataError(f"{where} has {there}no {shown('train')}: add {shown('train')}")
    return Parts(trains[0] if trains else None, tests[0] if tests else None, tuple(tests[1:]), shown)


def natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sorts 2 before 10, and upper case with lower."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def count_classes(names: Sequence[str]) -> str:
    """``class a``, or ``2 classes a, b``."""
    return f"{'class' if len(names) == 1 else f'{len(names)} classes'} {some(names)}"


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name.casefold())
