"""The files of a set that lies in several, Parquet or tar: which, in which order, and which part each belongs to.

The part is told by a file's name (``imagenet1k-train-0000.tar``) or by the folder it is in (``train/``), at any depth,
as on the Hugging Face Hub. Files that are given by name or by a pattern may tell no part.
"""

import glob
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from nextify.data.errors import DataError
from nextify.data.sources.folder import files_below, is_image
from nextify.data.sources.listing import LeftOut
from nextify.data.sources.parts import Parts, Splitting, choose_parts, kind_of, looks_like_part, natural
from nextify.system.text import plural, printable, some

CLASSES_FILE = "classes.txt"
"""Names of numbered labels, beside tar shards."""
_BRACES = re.compile(r"\{([^{}]*)\}")
MOST_SHARDS = 10**6
"""Files that a range in braces may name."""
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")


@dataclass(frozen=True)
class Shards:
    """The files that are used, those of the training part first."""

    root: Path
    files: tuple[str, ...]
    """Below ``root``, with ``/``."""
    train_files: int
    parts: Parts
    where: str
    """The source, as a message names it."""
    left_out: LeftOut = field(default_factory=dict)
    """Files that are not used, by the reason."""

    @property
    def paths(self) -> list[Path]:
        return [self.root / name for name in self.files]


def shards_in(folder: Path, suffix: str, splitting: Splitting) -> Shards | None:
    """The files of a folder that end in ``suffix``, at any depth; None where there are none, or folders of images, of
    which one is no reason: such as pictures for a page that describes the set. Raises ``DataError`` for files without a
    part beside files with one, for several data sets, and for test files only, where some are to be trained on."""
    found: list[str] = []
    left: dict[str, list[str]] = {}
    pictured: set[str] = set()
    for name, reason in files_below(folder, every=True):
        if not reason and is_image(name):
            pictured.add(name.rpartition("/")[0])
            if len(pictured) > 1:
                return None
        if reason == f"{suffix} files":
            found.append(name)
        elif name != CLASSES_FILE:
            left.setdefault(reason or f"images next to the {suffix} files", []).append(name)
    if not found:
        return None
    # The folders that a file lies in, without those that say its part, tell its data set.
    sets = {"/".join(part for part in name.split("/")[:-1] if kind_of(part) is None) for name in found}
    where = printable(str(folder))
    if len(sets) > 1:
        there = some([f"{where}/{name}" for name in sorted(sets, key=natural)])
        raise DataError(f"{where} holds several data sets, {there}: give one of them")
    return _by_part(folder, found, where, left, splitting)


def shards_of(pattern: str, splitting: Splitting) -> Shards:
    """The files that a path with braces names, or the one that a path without them names. Raises ``DataError`` for
    files that are not there, and for files without a part beside files with one."""
    expanded = [os.path.expanduser(path) for path in expand_braces(pattern)]
    paths = [Path(path) for each in expanded for path in _matches(each)]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise DataError(
            f"{len(missing):,} of {plural(len(paths), 'file')} that {printable(pattern)} names "
            f"{'is' if len(missing) == 1 else 'are'} missing: {some(missing)}; correct the pattern or put them there"
        )
    root = Path(os.path.commonpath([path.parent for path in paths]))
    names = [path.relative_to(root).as_posix() for path in paths]
    if len(kinds := {part_of(name) for name in names}) == 1:
        (kind,) = kinds
        if kind in ("val", "test") and not splitting.to_train:  # measured as a whole
            return Shards(root, tuple(names), 0, Parts(None, kind), printable(pattern))
        return Shards(root, tuple(names), len(names), Parts(""), printable(pattern))
    return _by_part(root, names, printable(pattern), {}, splitting)


def _matches(path: str) -> list[str]:
    """The files that a path with ``*`` or ``?`` matches, sorted; a path that is there, or matches nothing, as it is."""
    return [path] if os.path.exists(path) else sorted(glob.glob(path), key=natural) or [path]


def part_of(name: str) -> str | None:
    """``train``, ``val`` or ``test`` as a file's name or its folder has it; None where they say nothing."""
    *folders, file = name.split("/")
    kinds = (kind_of(place.partition(".")[0]) for place in (file, *reversed(folders)))
    return next((kind for kind in kinds if kind is not None), None)


def expand_braces(pattern: str) -> list[str]:
    """``a-{00..02}.tar`` and ``{train,test}.tar`` as a shell expands them; anything else as it is."""
    found = _BRACES.search(pattern)
    if not found:
        return [pattern]
    choices = found[1].split(",")
    if numbers := _RANGE.fullmatch(found[1]):
        first, last = int(numbers[1]), int(numbers[2])
        if last - first > MOST_SHARDS:
            raise DataError(
                f"{{{found[1]}}} in {printable(pattern)} names {last - first + 1:,} files: write a range that exists"
            )
        choices = [f"{i:0{len(numbers[1])}d}" for i in range(first, last + 1)]
        if not choices:
            raise DataError(f"{{{found[1]}}} in {printable(pattern)} counts down: write the smaller number first")
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [before + choice + rest for choice in choices for rest in expand_braces(after)]


def _by_part(root: Path, names: list[str], where: str, left: dict[str, list[str]], splitting: Splitting) -> Shards:
    names = sorted(names, key=natural)
    if odd := [name for name in names if not (root / name).is_file()]:
        raise DataError(f"{where}: {some(odd)} is not a regular file: put the file itself there")
    of_part: dict[str, list[str]] = defaultdict(list)
    for name in names:
        of_part[part_of(name) or ""].append(name)
    known = of_part.keys() - {""}
    if odd := [name for name in of_part.get("", ()) if known or looks_like_part(Path(name).stem)]:
        others = f", where others say {some(sorted(known))}" if known else ""
        raise DataError(f"{where}: the name of {some(odd)} does not name a split{others}: rename or move the file")
    parts = choose_parts(of_part, where, splitting)
    left |= {f"in the split {p}, which is not used": of_part[p] for p in parts.unused}
    train_files = 0 if parts.train is None else len(of_part[parts.train])
    return Shards(root, tuple(n for p in parts.used for n in of_part[p]), train_files, parts, where, left)
