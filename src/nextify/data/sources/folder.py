"""An image folder: which files, which class, which part.

Accepted: ``train/`` with ``val/`` (or ``valid/``, ``validation/``, ``test/``), each with one folder a class; or one
folder of class folders, which is split per class with a fixed seed. Class folders are searched in depth. Hidden files
and files without an image's extension are ignored.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from nextify.data.decode import EXTENSIONS
from nextify.data.encoded import Files
from nextify.data.errors import DataError, printable
from nextify.data.sources.listing import (
    TRAIN_NAME,
    Listing,
    Parts,
    Splitting,
    arrange,
    choose_parts,
    count_classes,
    is_part,
    natural,
)


def list_folder(root: Path, splitting: Splitting) -> Listing:
    """The images of a folder. Looks at names only. Raises ``DataError``."""
    folders = subfolders(root)
    parts: Parts | None = None
    if TRAIN_NAME in map(str.lower, folders) or (folders and all(map(is_part, folders))):
        parts = choose_parts(filter(is_part, folders), printable(str(root)), _shown)
    by_part = [_class_files(root, name) for name in (parts.used if parts else ("",))]
    classes = tuple(by_part[0])
    if new := [name for by_class in by_part[1:] for name in by_class if name not in by_part[0]]:
        assert parts is not None
        assert parts.test is not None
        raise DataError(
            f"{_shown(parts.test)} has {count_classes(new)} that {_shown(parts.train)} lacks: "
            f"add training images of each, or remove the folder from {_shown(parts.test)}"
        )
    found = [
        (name, label) for by_class in by_part for label, cls in enumerate(classes) for name in by_class.get(cls, [])
    ]
    return arrange(
        printable(str(root)),
        classes,
        Files(root, tuple(name for name, _ in found)),
        [label for _, label in found],
        parts,
        sum(map(len, by_part[0].values())),
        splitting,
        shown=_shown,
    )


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, without hidden ones. Raises ``DataError``."""
    with _entries(str(folder)) as entries:
        return [entry.name for entry in entries if not _hidden(entry.name) and entry.is_dir()]


def files_in(folder: Path) -> list[str]:
    """Names of the files in a folder, without hidden ones, sorted. Raises ``DataError``."""
    with _entries(str(folder)) as entries:
        return sorted(entry.name for entry in entries if not _hidden(entry.name) and not entry.is_dir())


def _shown(part: str) -> str:
    return f"{part}/"


def _class_files(root: Path, below: str) -> dict[str, list[str]]:
    """Class name to the names of its images, below ``root / below``. Raises ``DataError``."""
    folder = root / below
    shown = printable(str(folder))
    by_class = {name: _images_in(root, folder / name) for name in sorted(subfolders(folder), key=natural)}
    if not any(by_class.values()):
        if any(map(_is_image, files_in(folder))):
            raise DataError(
                f"{shown} has images but no class folders: put the images of each class in one folder{_or_list(folder)}"
            )
        raise DataError(
            f"{shown} has no images: it needs one folder per class with files such as .jpg or .png in it"
            f"{_or_list(folder)}"
        )
    empty = [name for name, files in by_class.items() if not files]
    if empty:
        raise DataError(f"{shown} has {count_classes(empty)} without images: add some, or delete the folder")
    if len(by_class) == 1:
        (only,) = by_class
        inner = {name.lower() for name in subfolders(folder / only)}
        hint = (
            f"give {shown}/{printable(only)}"
            if TRAIN_NAME in inner
            else f"add a folder of images of another class{_or_list(folder)}"
        )
        raise DataError(f"{shown} has one class only ({printable(only)}), so there is nothing to tell apart: {hint}")
    return by_class


@contextlib.contextmanager
def _entries(folder: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as entries:
            yield entries
    except OSError as error:
        raise DataError(f"cannot look into {printable(folder)} ({error.strerror}): check its permissions") from None


def _or_list(folder: Path) -> str:
    """A further remedy where the folder has what may be a manifest."""
    lists = [name for name in files_in(folder) if name.lower().endswith((".csv", ".tsv"))]
    return f", or give {printable(str(folder / lists[0]))} if it lists paths and labels" if lists else ""


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _images_in(root: Path, folder: Path) -> list[str]:
    """Names below ``root`` of the images at any depth, sorted; a folder linked into itself is entered once."""
    found: list[str] = []
    seen: set[str] = set()
    pending = [(str(folder), folder.relative_to(root).as_posix())]
    while pending:
        path, name = pending.pop()
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        with _entries(path) as entries:
            for entry in entries:
                if not _hidden(entry.name):
                    below = f"{name}/{entry.name}"
                    if entry.is_dir():
                        pending.append((entry.path, below))
                    elif _is_image(entry.name):
                        found.append(below)
    return sorted(found)
