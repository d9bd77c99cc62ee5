"""The files of a set that lies in several: which there are, in which order, and which part each belongs to.

For Parquet files and tar shards alike. A folder of them tells the part by a file's beginning (``train-*.tar``,
``test-00000-of-00002.parquet``) or by the folder a file is in (``train/``, ``test/``), also below ``data/``, as on the
Hugging Face Hub. Files that are given by name or by a pattern such as ``data-{000..003}.tar`` may tell no part.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nextify.data.errors import DataError, printable, some
from nextify.data.sources.folder import files_in, subfolders
from nextify.data.sources.listing import TEST_NAMES, TRAIN_NAME, Parts, choose_parts, is_part, natural

_PART = re.compile(rf"({'|'.join((TRAIN_NAME, *TEST_NAMES))})(?:-|[_.]?[0-9]|\.)", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
DATA_FOLDER = "data"


@dataclass(frozen=True)
class Shards:
    """The files that are used, those of the training part first."""

    root: Path
    files: tuple[str, ...]
    """Below ``root``, with ``/``."""
    train_files: int
    parts: Parts | None
    where: str
    """The source, as a message names it."""

    @property
    def paths(self) -> list[Path]:
        return [self.root / name for name in self.files]


def shards_in(folder: Path, suffix: str) -> Shards | None:
    """The files of a folder that end in ``suffix``; None where it is a folder of something else.

    An archive beside class folders makes no set of shards.

    Raises:
        DataError: files without a part beside files with one; test files only.
    """
    folders = subfolders(folder)
    named = [name for name in folders if is_part(name) or name.lower() == DATA_FOLDER]
    if len(named) < len(folders) or any(subfolders(folder / name) for name in named):
        return None
    found = [f"{name}/{file}" for name in named for file in files_in(folder / name) if file.lower().endswith(suffix)]
    if not found:
        found = [file for file in files_in(folder) if file.lower().endswith(suffix)]
    return _by_part(folder, found, printable(str(folder))) if found else None


def shards_of(pattern: str) -> Shards:
    """The files that a path with braces names, or the one that a path without them names.

    Raises:
        DataError: files that are not there; files without a part beside files with one.
    """
    paths = [Path(path).expanduser() for path in expand_braces(pattern)]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise DataError(
            f"{len(missing):,} of {len(paths):,} files that {printable(pattern)} names are not there: {some(missing)}; "
            f"correct the pattern or put them there"
        )
    root = Path(os.path.commonpath([path.parent for path in paths]))
    names = [path.relative_to(root).as_posix() for path in paths]
    if len({part_of(name) for name in names}) == 1:
        return Shards(root, tuple(names), len(names), None, printable(pattern))
    return _by_part(root, names, printable(pattern))


def part_of(name: str) -> str | None:
    """``train``, ``val``, … as a file's name or its folder has it; None where they say nothing."""
    *folders, file = name.split("/")
    for folder in reversed(folders):
        if is_part(folder):
            return folder.lower()
    found = _PART.match(file)
    return found[1].lower() if found else None


def expand_braces(pattern: str) -> list[str]:
    """``a-{00..02}.tar`` and ``{train,test}.tar`` as a shell expands them; anything else as it is."""
    found = _BRACES.search(pattern)
    if not found:
        return [pattern]
    choices = found[1].split(",")
    if numbers := _RANGE.fullmatch(found[1]):
        first, last = int(numbers[1]), int(numbers[2])
        choices = [f"{i:0{len(numbers[1])}d}" for i in range(first, last + 1)]
        if not choices:
            raise DataError(f"{{{found[1]}}} in {printable(pattern)} counts down: write the smaller number first")
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [before + choice + rest for choice in choices for rest in expand_braces(after)]


def _by_part(root: Path, names: Sequence[str], where: str) -> Shards:
    names = sorted(names, key=natural)
    part = {name: part_of(name) for name in names}
    known = {p for p in part.values() if p is not None}
    if not known:
        return Shards(root, tuple(names), len(names), None, where)
    if odd := [name for name in names if part[name] is None]:
        raise DataError(
            f"{where}: the name of {some(odd)} says no part, where others say {some(sorted(known))}: "
            f"rename or move the file"
        )
    parts = choose_parts(known, where)
    files = [[name for name in names if part[name] == used] for used in parts.used]
    return Shards(root, tuple(name for of_part in files for name in of_part), len(files[0]), parts, where)
