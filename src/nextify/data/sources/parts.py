"""The parts of a data set by their names: one table for folders, files, shards, splits and columns.

The words are those of Hugging Face datasets (https://huggingface.co/docs/datasets/repository_structure), in any case,
set off by whatever is no letter: ``Training``, ``seg_train``, ``imagenet1k-validation-07.tar``.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from nextify.data.errors import DataError
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


@dataclass(frozen=True)
class Parts:
    """The named parts of a source that are used, as it spells them."""

    train: str | None
    """None: there is none, and none is needed."""
    test: str | None
    """None: part of ``train`` is set apart."""
    unused: tuple[str, ...] = ()

    @property
    def used(self) -> tuple[str, ...]:
        return tuple(part for part in (self.train, self.test) if part is not None)


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


def as_split(part: str) -> str:
    """A part as a message has it."""
    return f"split {part}"


def choose_parts(
    names: Iterable[str],
    where: str,
    shown: Callable[[str], str] = as_split,
    *,
    to_train: bool = True,
    tested: Tested | None = None,
) -> Parts:
    """The parts to use: the one to train on, and the first of val and test, or ``tested``. ``shown`` gives a name as a
    message has it. Raises ``DataError`` for none to train on, though ``to_train``; for several of them; and for a name
    that seems to say another part."""
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
    if tested == "test":
        tests = by_kind["test"] + by_kind["val"]
    if len(trains) > 1:
        raise DataError(f"{where} has several training splits, {some([shown(name) for name in trains])}: merge them")
    if not trains and to_train:
        raise DataError(f"{where} has {some([shown(t) for t in tests])} but no {shown('train')}: add {shown('train')}")
    if to_train or not tests:
        return Parts(trains[0], tests[0] if tests else None, tuple(tests[1:]))
    return Parts(trains[0] if trains else None, tests[0], tuple(tests[1:]))


def natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sorts 2 before 10, and upper case with lower."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def count_classes(names: Sequence[str]) -> str:
    """``class a``, or ``2 classes a, b``."""
    return f"{'class' if len(names) == 1 else f'{len(names)} classes'} {some(names)}"


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name.casefold())
