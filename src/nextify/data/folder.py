"""An image folder: which files, which class, which split, and everything that can be wrong with them.

Accepted: ``train/`` with ``val/`` (or ``valid/``, ``validation/``, ``test/``), each with one folder a class; or one
folder of class folders, which is split per class with a fixed seed. Class folders are searched in depth. Hidden files
and files without an image's extension are ignored.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nextify.data.decode import EXTENSIONS, Header, Pixels, UnreadableImage, decode, quiet, read_header
from nextify.data.errors import DataError, printable, some
from nextify.data.images import FileStore, Images, ImageSet, MixedStore, Store, UniformStore
from nextify.data.kept import keep, open_kept
from nextify.files import write_text_atomic

VERSION = 1
"""Part of every fingerprint and index: raised when decoding or listing changes."""
TEST_NAMES = ("val", "valid", "validation", "test")
"""Folders that hold the test images, in order of preference."""
IMBALANCE = 10
"""Ratio of the largest class to the smallest from which a note is made."""
THREADED_PIXELS = 128 * 128
"""Mean size of an image from which decoding in threads pays."""


@dataclass(frozen=True)
class Split:
    """Files of a training or test set: names below the root, with ``/``, and their classes."""

    names: tuple[str, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """What one look at a file gives."""

    digest: str
    header: Header


def open_folder(
    root: Path, *, name: str, test_fraction: float, split_seed: int, cache: Path | None, decoded_limit: int
) -> Images:
    """The images of a folder, checked. Raises ``DataError``."""
    classes, train, test, notes = list_folder(root, test_fraction, split_seed)
    records = examine(root, (*train.names, *test.names), cache)
    train_records, test_records = records[: len(train.names)], records[len(train.names) :]
    fingerprint = _fingerprint(classes, train, test, records)
    notes += _notes(classes, train, test, train_records, test_records)
    held = sum(r.header.height * r.header.width * 3 for r in records) <= decoded_limit
    sets = []
    for part, split, found in (("train", train, train_records), ("test", test, test_records)):
        keep_under = None if cache is None else cache / f"{fingerprint[:16]}-{part}"
        store: Store = FileStore(root, split.names)
        if held:
            store, refused = _decoded(root, split.names, [r.header for r in found], keep_under)
            if refused is not None:
                notes.append(f"Decoded images could not be kept in {cache} ({refused.strerror}); held in memory.")
        sets.append(ImageSet(np.array(split.labels, np.int64), store, split.names, keep_under))
    sizes = {(r.header.height, r.header.width) for r in records}
    return Images(
        name=name,
        classes=classes,
        train=sets[0],
        test=sets[1],
        mirror_keeps_class=True,
        fingerprint=fingerprint,
        notes=tuple(notes),
        native_size=sizes.pop() if len(sizes) == 1 else None,
    )


# -- listing -------------------------------------------------------------------------------------------------------


def list_folder(
    root: Path, test_fraction: float = 0.2, split_seed: int = 0
) -> tuple[tuple[str, ...], Split, Split, list[str]]:
    """Classes, training files, test files and notes. Looks at names only. Raises ``DataError``."""
    if not root.exists():
        raise DataError(f"no such folder: {printable(str(root))}; give 'digits', 'cifar10' or a folder of images")
    if not root.is_dir():
        raise DataError(f"{printable(str(root))} is a file: give the folder that holds the class folders")
    folders = {name.lower(): name for name in _folders(root)}
    tests = [folders[name] for name in TEST_NAMES if name in folders]
    if "train" in folders:
        train_name = folders["train"]
        by_class = _class_files(root, train_name)
        classes = tuple(by_class)
        train = _split_of(classes, by_class)
        if not tests:
            train, test, note = split_train(classes, train, test_fraction, split_seed)
            return classes, train, test, [f"There is no val/ or test/: {note}"]
        test_by_class = _class_files(root, tests[0])
        unknown = [name for name in test_by_class if name not in by_class]
        if unknown:
            raise DataError(
                f"{tests[0]}/ has {_classes(unknown)} that {train_name}/ lacks: "
                f"add training images of each, or remove the folder from {tests[0]}/"
            )
        notes = []
        if len(tests) > 1:
            notes.append(f"{tests[0]}/ is the test set; {some([f'{other}/' for other in tests[1:]])} is not used.")
        absent = [name for name in classes if name not in test_by_class]
        if absent:
            notes.append(f"{tests[0]}/ has no images of {_classes(absent)}: accuracy is over the other classes.")
        test = _split_of(classes, test_by_class)
        _enough(classes, train)
        return classes, train, test, notes
    if tests and len(tests) == len(folders):
        raise DataError(f"{printable(str(root))} has {some([f'{t}/' for t in tests])} but no train/: add train/")
    by_class = _class_files(root, "")
    classes = tuple(by_class)
    train, test, note = split_train(classes, _split_of(classes, by_class), test_fraction, split_seed)
    return classes, train, test, [note]


def split_train(
    classes: tuple[str, ...], files: Split, test_fraction: float, split_seed: int
) -> tuple[Split, Split, str]:
    """Parts ``test_fraction`` of each class off, by a fixed seed: at least one image a class, and never its last."""
    if not 0 < test_fraction < 1:
        raise DataError(f"test_fraction must be between 0 and 1, got {test_fraction}")
    labels = np.array(files.labels)
    chosen: set[int] = set()
    for label in range(len(classes)):
        members = np.flatnonzero(labels == label)
        count = min(len(members) - 1, max(1, round(len(members) * test_fraction)))
        order = np.random.RandomState([split_seed & 0xFFFFFFFF, label]).permutation(len(members))
        chosen.update(int(i) for i in members[order[:count]])
    if not chosen:
        raise DataError("every class has one image, so none is left to test on: add images, or a val/ folder")

    def part(indices: list[int]) -> Split:
        return Split(tuple(files.names[i] for i in indices), tuple(files.labels[i] for i in indices))

    train = part([i for i in range(len(labels)) if i not in chosen])
    test = part(sorted(chosen))
    _enough(classes, train)
    note = (
        f"{len(test.names):,} of {len(labels):,} images ({test_fraction:.0%} of each class, seed {split_seed}) "
        f"are set apart to test on."
    )
    return train, test, note


def natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sorts 2 before 10, and upper case with lower."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def _class_files(root: Path, below: str) -> dict[str, list[str]]:
    """Class name to the names of its images, below ``root / below``. Raises ``DataError``."""
    folder = root / below
    shown = printable(str(folder))
    by_class = {name: _images_in(root, folder / name) for name in sorted(_folders(folder), key=natural)}
    if not any(by_class.values()):
        with _entries(str(folder)) as entries:
            loose = any(_is_image(entry.name) and not _hidden(entry.name) for entry in entries)
        if loose:
            raise DataError(f"{shown} has images but no class folders: put the images of each class in one folder")
        raise DataError(f"{shown} has no images: it needs one folder per class with files such as .jpg or .png in it")
    empty = [name for name, files in by_class.items() if not files]
    if empty:
        raise DataError(f"{shown} has {_classes(empty)} without images: add some, or delete the folder")
    if len(by_class) == 1:
        (only,) = by_class
        inner = {name.lower() for name in _folders(folder / only)}
        hint = f"give {shown}/{printable(only)}" if "train" in inner else "add a folder of images of another class"
        raise DataError(f"{shown} has one class only ({printable(only)}), so there is nothing to tell apart: {hint}")
    return by_class


def _classes(names: list[str]) -> str:
    return f"{'class' if len(names) == 1 else f'{len(names)} classes'} {some(names)}"


def _enough(classes: tuple[str, ...], train: Split) -> None:
    if len(train.names) < len(classes):
        raise DataError(
            f"{len(train.names)} training images are fewer than the {len(classes)} classes: add images of each class"
        )


def _split_of(classes: tuple[str, ...], by_class: dict[str, list[str]]) -> Split:
    pairs = [(name, label) for label, cls in enumerate(classes) for name in by_class.get(cls, [])]
    return Split(tuple(name for name, _ in pairs), tuple(label for _, label in pairs))


def _folders(folder: Path) -> list[str]:
    with _entries(str(folder)) as entries:
        return [entry.name for entry in entries if not _hidden(entry.name) and entry.is_dir()]


@contextlib.contextmanager
def _entries(folder: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    try:
        with os.scandir(folder) as entries:
            yield entries
    except OSError as error:
        raise DataError(f"cannot look into {printable(folder)} ({error.strerror}): check its permissions") from None


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


# -- looking at the files ------------------------------------------------------------------------------------------


def examine(root: Path, names: tuple[str, ...], cache: Path | None = None) -> list[Record]:
    """Digest and header of each file; with ``cache``, files of unchanged size and time are not read again.

    Raises ``DataError`` that names the unreadable ones.
    """
    index_path = None
    known: dict[str, list[Any]] = {}
    if cache is not None:
        place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
        index_path = cache / f"index-{place}.json"
        with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
            index = json.loads(index_path.read_text("utf-8"))
            known = index["files"] if index["version"] == VERSION else {}
    records: list[Record] = []
    entries: dict[str, list[Any]] = {}
    unreadable: list[tuple[str, str]] = []
    with quiet():
        for name in names:
            path = os.path.join(root, name)
            try:
                status = os.stat(path)
                entry = known.get(name)
                if entry is None or entry[:2] != [status.st_size, status.st_mtime_ns]:
                    data = _read(path)
                    header = read_header(data)
                    digest = hashlib.sha256(data).hexdigest()
                    size = (header.height, header.width)
                    entry = [status.st_size, status.st_mtime_ns, digest, *size, header.traits]
            except OSError as error:
                dangling = os.path.islink(path) and not os.path.exists(path)
                unreadable.append((name, "dangling link" if dangling else error.strerror or "unreadable"))
            except UnreadableImage as error:
                unreadable.append((name, str(error)))
            else:
                entries[name] = entry
                records.append(Record(entry[2], Header(*entry[3:])))
    _refuse(unreadable, len(names))
    if index_path is not None and entries != known:
        with contextlib.suppress(OSError):  # an index that cannot be written only costs the next start
            index_path.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomic(index_path, json.dumps({"version": VERSION, "files": entries}))
    return records


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _refuse(unreadable: list[tuple[str, str]], total: int) -> None:
    if unreadable:
        raise DataError(
            f"{len(unreadable):,} of {total:,} images cannot be read: "
            f"{some([f'{name} ({reason})' for name, reason in unreadable])}; remove or replace them"
        )


def _decoded(
    root: Path, names: tuple[str, ...], headers: list[Header], keep_under: Path | None
) -> tuple[UniformStore | MixedStore, OSError | None]:
    """All images decoded, from the cache where they are there already. Raises ``DataError``."""
    sizes = np.array([(h.height, h.width) for h in headers], np.int64)
    uniform = bool((sizes == sizes[0]).all())
    values = int(sizes.prod(1).sum()) * 3
    shape = (len(names), *map(int, sizes[0]), 3) if uniform else (values,)
    path = None if keep_under is None else keep_under.with_name(f"{keep_under.name}.npy")
    refused = None
    kept = None if path is None else open_kept(path)
    if kept is None or kept.array.shape != shape:
        images = _decode_all(root, names, headers)
        kept, refused = keep(path, shape, (image[None] if uniform else image.reshape(-1) for image in images))
    return (UniformStore(kept) if uniform else MixedStore(kept, sizes)), refused


def _decode_all(root: Path, names: tuple[str, ...], headers: list[Header]) -> Iterator[Pixels]:
    unreadable: list[tuple[str, str]] = []

    def one(index: int) -> Pixels | str:
        header = headers[index]
        try:
            pixels = decode(_read(os.path.join(root, names[index])))
        except OSError as error:
            return error.strerror or "unreadable"
        except UnreadableImage as error:
            return str(error)
        return pixels if pixels.shape[:2] == (header.height, header.width) else "its size is not what its header says"

    def outcomes() -> Iterable[Pixels | str]:
        large = sum(h.height * h.width for h in headers) / len(headers) >= THREADED_PIXELS
        if not large:
            yield from map(one, range(len(names)))
            return
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for start in range(0, len(names), 64):
                yield from pool.map(one, range(start, min(start + 64, len(names))))

    with quiet():
        for name, header, outcome in zip(names, headers, outcomes(), strict=True):
            if isinstance(outcome, str):
                unreadable.append((name, outcome))
                outcome = np.zeros((header.height, header.width, 3), np.uint8)
            yield outcome
    _refuse(unreadable, len(names))


# -- what is said of them ------------------------------------------------------------------------------------------


def _fingerprint(classes: tuple[str, ...], train: Split, test: Split, records: list[Record]) -> str:
    digest = hashlib.sha256(json.dumps([VERSION, "folder", classes, len(train.names)]).encode())
    pairs = zip((*train.names, *test.names), (*train.labels, *test.labels), records, strict=True)
    for name, label, record in pairs:
        digest.update(f"{name}\0{label}\0{record.digest}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _notes(
    classes: tuple[str, ...], train: Split, test: Split, train_records: list[Record], test_records: list[Record]
) -> list[str]:
    notes = []
    records = train_records + test_records
    total = len(records)
    said = {
        "g": "are grayscale and become RGB with three equal channels",
        "t": "have transparency, which is laid on white",
        "r": "are turned by their EXIF orientation",
        "a": "are animated; the first frame is used",
    }
    for trait, what in said.items():
        count = sum(trait in record.header.traits for record in records)
        if count:
            notes.append(f"{'All' if count == total else f'{count:,} of {total:,}'} images {what}.")
    sizes = sorted({(r.header.height * r.header.width, r.header.height, r.header.width) for r in records})
    if len(sizes) > 1:
        (_, *small), (_, *large) = sizes[0], sizes[-1]
        notes.append(f"The images have {len(sizes):,} sizes, from {_size(small)} to {_size(large)} pixels.")
    counts = Counter(train.labels)
    (most, largest), (least, smallest) = counts.most_common()[0], counts.most_common()[-1]
    if largest > IMBALANCE * smallest:
        notes.append(
            f"Classes are unequal: {printable(classes[most])} has {largest:,} training images, "
            f"{printable(classes[least])} {smallest:,}."
        )
    notes += _duplicate_notes(train, test, train_records, test_records)
    return notes


def _size(height_width: list[int]) -> str:
    return f"{height_width[1]}×{height_width[0]}"


def _duplicate_notes(train: Split, test: Split, train_records: list[Record], test_records: list[Record]) -> list[str]:
    notes = []
    trained = {record.digest: i for i, record in enumerate(train_records)}
    both = [(i, trained[r.digest]) for i, r in enumerate(test_records) if r.digest in trained]
    if both:
        first, second = test.names[both[0][0]], train.names[both[0][1]]
        notes.append(
            f"{len(both):,} test images are also training images (the same bytes), so accuracy is flattered: "
            f"{printable(first)} is {printable(second)}."
        )
    labels: dict[str, set[int]] = {}
    for record, label in zip(train_records + test_records, train.labels + test.labels, strict=True):
        labels.setdefault(record.digest, set()).add(label)
    torn = sum(len(found) > 1 for found in labels.values())
    if torn:
        notes.append(f"{torn:,} images stand in more than one class.")
    return notes
