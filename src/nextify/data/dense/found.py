"""What a source of annotations holds, before an image is looked at, and which of it is trained and tested on."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nextify.data.dense.annotations import Id, Mask, Size
from nextify.data.errors import DataError, reading_of
from nextify.data.sources.annotated import PICTURES
from nextify.data.sources.folder import files_in, subfolders
from nextify.data.sources.listing import Indices, split_train
from nextify.data.sources.parts import Parts, Splitting, is_part_folder, kind_of
from nextify.system.text import plural, printable, some


class Annotation(NamedTuple):
    """One object as its source has it."""

    label: int
    """Which of the classes."""
    box: tuple[float, float, float, float]
    crowd: bool = False
    area: float | None = None
    mask: Mask | None = None
    scored: bool = False
    """Whether it has a score, as what a network found has."""


class Picture(NamedTuple):
    """One image as its source has it."""

    path: str
    objects: Sequence[Annotation] = ()
    """For index masks empty."""
    mask: str = ""
    """Path of its index mask; else empty."""
    size: Size | None = None
    """That the annotations say."""
    id: Id | None = None
    """COCO's."""


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """What a source holds, in the parts that are used."""

    where: str
    parts: Parts
    made: Mapping[str, Sequence[Picture]]
    """The images of each part."""
    classes: tuple[str, ...] | None
    """None: as many as the index masks have."""
    category_ids: tuple[Id, ...] = ()
    """COCO's of each class; else empty."""
    shares: bool = False
    """Whether boxes and outlines are shares of the image's sides, as YOLO has them."""
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def train(self) -> Sequence[Picture]:
        """Of a source without parts, all of it."""
        return () if self.parts.train is None else self.made[self.parts.train]

    @property
    def test(self) -> Sequence[Picture]:
        return () if self.parts.test is None else self.made[self.parts.test]


def divided(found: Annotated, splitting: Splitting) -> tuple[Indices, Indices, list[str]]:
    """Which images are trained and tested on, counted over those of ``train`` and then of ``test``, and what to say.
    Raises ``DataError`` where there are none."""
    first, second = len(found.train), len(found.test)
    everything = np.arange(first + second)
    parts, shown, where = found.parts, found.parts.shown, found.where
    if not len(everything) or (splitting.to_train and not first):
        raise DataError(f"{where} has no images{f' in {shown(parts.train)}' if parts.train else ''}: add some")
    for part in (found.train, found.test):
        counts = Counter(one.path for one in part)
        if twice := [os.path.basename(path) for path, count in counts.items() if count > 1]:
            raise DataError(f"{where} lists {plural(len(twice), 'image')} more than once: {some(twice)}; "
                            f"list each once")  # fmt: skip
    itself_tested = parts.train == "" and not splitting.to_train and kind_of(Path(where).stem) == splitting.tested
    if not itself_tested:
        splitting.check(parts, where)
    said = splitting.said_of(parts, parts.test)
    if parts.test is not None:
        if not second:
            raise DataError(f"{where} has no images in {shown(parts.test)}: add some")
        return everything[:first], everything[first:], said
    if not splitting.to_train and kind_of(Path(where).stem) in ("val", "test"):
        return everything[:0], everything, said
    if first == 1:
        raise DataError(f"{where} has only one image, so none is left to test on: add images")
    train, test, _ = split_train(np.zeros(first, np.int64), splitting, everything)
    share = f"{splitting.test_fraction:.0%}, seed {splitting.seed}"
    return train, test, [*said, f"{len(test):,} of {plural(first, 'image')} ({share}) are held out for testing."]


def located(names: Sequence[str], near: Path, root: Path, part: str, where: str) -> list[str]:
    """The path of each image that annotations in the folder ``near`` list, in the folder in which most of some of them
    lie. ``part``: whose images they are; ``""`` for none. Raises ``DataError`` where none is found below ``root``."""
    bases = list(dict.fromkeys(_bases(near, root, part)))
    probes = names[:: max(1, len(names) // 20)]
    hits = [sum(os.path.isfile(base / name) for name in probes) for base in bases]
    if names and not max(hits):
        raise DataError(
            f"none of the images that {where} lists is in {printable(str(root))} or in images/ there "
            f"(such as {printable(names[0])}): put them there"
        )
    base = bases[hits.index(max(hits))]
    return [os.path.abspath(base / name) for name in names]


def _bases(near: Path, root: Path, part: str) -> list[Path]:
    """Folders in which the images may lie, the likelier first: a part's own, and folders of pictures."""
    inner = [root / name for name in subfolders(root)]
    pictures = [folder for folder in (*inner, *map(root.parent.joinpath, subfolders(root.parent)))
                if folder.name.lower() in PICTURES]  # fmt: skip
    deeper = [folder / name for folder in pictures for name in subfolders(folder)]
    own = [folder for folder in (*inner, *deeper) if folder.name == part]
    return [near, *own, root, *pictures, *deeper, *inner]


def as_list(part: str) -> str:
    """A part that a list names, as a message has it."""
    return f"{part}.txt"


def part_lists(folders: Iterable[Path]) -> dict[str, Path]:
    """VOC's lists of the parts, in the first folder that has some: those named by a part and nothing else, as there may
    be further ones for each class."""
    for folder in filter(Path.is_dir, folders):
        stems = [name.removesuffix(".txt") for name in files_in(folder) if name.endswith(".txt")]
        if named := {stem: folder / f"{stem}.txt" for stem in stems if is_part_folder(stem)}:
            return named
    return {}


def text_list(path: Path) -> list[str]:
    """The lines of a list, such as a split's or of class names, without empty ones. Raises ``DataError``."""
    try:
        with reading_of(path):
            lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{printable(str(path))} is not UTF-8: save it as UTF-8") from None
    return [line.strip() for line in lines if line.strip()]


def class_names(folders: Sequence[Path]) -> tuple[tuple[str, ...], str] | None:
    """The lines of ``classes.txt`` (or ``labels.txt``, ``codes.txt``, …) and its path, where there is one. Raises
    ``DataError`` where it names no class, or one twice."""
    for folder in folders:
        for file in files_in(folder):
            if file.lower() in ("classes.txt", "labels.txt", "class_names.txt", "codes.txt", "obj.names"):
                names, where = text_list(folder / file), printable(str(folder / file))
                if not names:
                    raise DataError(f"{where} names no class: write one name per line")
                if twice := [name for name, count in Counter(names).items() if count > 1]:
                    raise DataError(f"{where} names {some(twice)} more than once: give each class a name of its own")
                return tuple(names), where
    return None
