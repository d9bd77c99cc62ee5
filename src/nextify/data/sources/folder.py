"""An image folder: which files, which class, which part.

A folder for each part, each with one folder per class; or one folder of class folders, which is split per class with a
fixed seed. Class folders are searched in depth, and every other file is left out for a reason that is counted.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import combinations
from operator import itemgetter
from pathlib import Path

from nextify.data.arrays import NUMPY
from nextify.data.decode import EXTENSIONS, PLUGINS
from nextify.data.encoded import Files
from nextify.data.errors import DataError, reading_of
from nextify.data.sources.listing import HIDDEN, UNLABELLED, Found
from nextify.data.sources.parts import (
    Parts,
    Splitting,
    as_folder,
    choose_parts,
    count_classes,
    is_part_folder,
    kind_of,
    looks_like_part,
    natural,
    own_words,
)
from nextify.data.sources.several import Names, merged_files
from nextify.system.text import plural, printable, some

OTHER_FORMATS = frozenset(
    {".jp2", ".j2k", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".tga", ".dcm", ".nii", ".exr"}
    | {".svg", ".ico", ".hdr", ".avi", ".mov", ".mp4", ".pdf", ".npy", ".npz"}
)
"""Extensions of images that are not read, in lower case."""
ARCHIVES = (".zip", ".7z", ".rar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SERVER_FOLDERS = frozenset(
    {"@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot", "$RECYCLE.BIN", "__MACOSX", "lost+found"}
    | {"System Volume Information", "Thumbs"}
)
_NUMPY_TOO: ContextVar[bool] = ContextVar("numpy_too", default=False)
"""Whether NumPy files count as images: in a folder without any other image, and beside a table that lists some."""
_MARKER = re.compile(r"(preflight|nextify|study|index-[0-9a-f]{16})\.json|checkpoint\.pt")
"""Files that tell a folder of our results; those of ``_SIGNED`` do where they name us too, as others use such names."""
_SIGNED = frozenset({"result.json", "results.json", "evaluation.json", "robustness.json"})
_OUR_FOLDERS = re.compile("cache|bundle|trials|unfinished|tensorboard|[0-9a-f]{12}")
"""Folders of ours beside such a file."""
_OUR_PICTURES = frozenset(
    {"curves", "confusion", "reliability", "mistakes", "roadmap", "robustness"}
    | {"growth", "latency-accuracy", "accuracy-flops"}
)
"""Pictures of ours beside such a file; others there are the user's, as where ``--out`` was a class's folder."""
_RESULTS, _SERVER = "results of nextify", "in thumbnail and recycle folders of a file server"
_LINKED = "links to other images of the data set, or to a folder that contains it"
_PICTURES, _COMPANIONS = ({"images", "imgs", "img", "jpegimages"}, {"masks", "labels", "annotations", "trimaps"})
_Rows = list[tuple[str, str | None]]
"""Names of images below the root, and their classes: None for images without class folders."""


class _Walk:
    """Goes through a folder, and keeps what is left out by its reason; names are below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out: dict[str, list[str]] = defaultdict(list)
        self.empty: set[str] = set()
        """Class folders without an image."""

    def leave(self, files: Iterable[tuple[str, str]], reason: str = "") -> None:
        for name, own in files:
            self.left_out[own or reason].append(name)

    def part(self, below: str, *, to_train: bool) -> _Rows:
        """The images of a part, by class, in the classes' order. Raises ``DataError``."""
        folder, prefix = self.root / below, f"{below}/" if below else ""
        shown = printable(str(folder))
        names = sorted(subfolders(folder, hidden=True), key=natural)
        loose = [(f"{prefix}{name}", reason_of(name)) for name in files_in(folder, hidden=True)]
        if below and not to_train and all(map(_is_special, names)) and any(not reason for _, reason in loose):
            self.leave((name, reason) for name, reason in loose if reason)
            self.leave(file for name in names for file in files_below(self.root, f"{prefix}{name}", every=True))
            return [(name, None) for name, reason in loose if not reason]
        self.leave(loose, "next to the class folders")
        by_class: dict[str, list[str]] = {}
        for name in names:
            files = list(files_below(self.root, f"{prefix}{name}", every=True))
            self.leave((file, reason) for file, reason in files if reason)
            images = sorted(file for file, reason in files if not reason)
            if not _is_special(name) and (images or not any(reason == _RESULTS for _, reason in files)):
                by_class[name] = images
        _refuse_annotations(folder, by_class)
        if not any(by_class.values()):
            raise DataError(self._no_images(folder, shown))
        if (empty := [name for name, files in by_class.items() if not files]) and to_train:
            there = {r: n for r, n in self.left_out.items() if any(f.startswith(f"{prefix}{empty[0]}/") for f in n)}
            hint = f" (there are {some([f'{len(n):,} {r}' for r, n in there.items()])})" if there else ""
            raise DataError(f"{shown} has {count_classes(empty)} without images{hint}: add some, or move it elsewhere")
        self.empty.update(empty)
        return [(file, name) for name, files in by_class.items() for file in files]

    def parts_within(self, rows: _Rows, where: str, splitting: Splitting) -> tuple[Parts | None, list[_Rows]]:
        """The rows by part, where each class folder holds parts (``cat/train/1.png``); else all of them as one. Raises
        ``DataError`` where some classes hold parts and others do not, or the parts hold class folders."""
        places = [file.split("/", 2) for file, _ in rows]
        parts_of = [place[1] if len(place) == 3 and is_part_folder(place[1]) else "" for place in places]
        of_class: dict[str, set[str]] = defaultdict(set)
        for place, part in zip(places, parts_of, strict=True):
            of_class[place[0]].add(part)
        held = [name for name, own in of_class.items() if len({kind_of(part) for part in own if part}) > 1]
        if not held and "" in parts_of:
            return None, [rows]
        if odd := ["/".join(place) for place, part in zip(places, parts_of, strict=True) if not part]:
            raise DataError(
                f"{where} has class folders with splits in them ({some(list(map(as_folder, held)))}) and "
                f"{plural(len(odd), 'image')} outside them ({some(odd)}): move these into splits too, or elsewhere"
            )
        if all("/" in place[2] for place in places):
            raise DataError(
                f"{where} holds several data sets, {some([as_folder(name) for name in of_class])}, each with splits "
                f"of class folders: give one of them"
            )
        parts = choose_parts(parts_of, where, splitting, _shown_within)
        by_part: dict[str, _Rows] = {part: [] for part in (*parts.used, *parts.unused)}
        for row, part in zip(rows, parts_of, strict=True):
            by_part[part].append(row)
        for part in parts.unused:
            self.leave((file, f"in {_shown_within(part)}, which is not used") for file, _ in by_part[part])
        return parts, [by_part[part] for part in parts.used]

    def _no_images(self, folder: Path, shown: str) -> str:
        files = files_in(folder)
        if any(map(is_image, files)):
            return (
                f"{shown} has images but no class folders: put the images of each class in one folder{_or_list(folder)}"
            )
        if archives := [name for name in files if name.lower().endswith(ARCHIVES)]:
            return f"{shown} has no images, only {some(archives)}: unpack it and give its folder"
        there = [f"{len(names):,} {reason}" for reason, names in self.left_out.items() if reason != HIDDEN]
        beside = f" (there are {some(there)})" if there else ""
        return (
            f"{shown} has no images{beside}: it needs one folder per class with files such as .jpg or .png in it"
            f"{_or_list(folder)} (docs/data.md)"
        )


def list_folder(root: Path, splitting: Splitting) -> Found:
    """The images of a folder. Looks at names only. Raises ``DataError``."""
    where, walk = printable(str(root)), _Walk(root)
    folders = data_folders(root)
    named = part_folders(root, folders)
    notes = []
    parts, below = choose_parts(named or [""], where, splitting, as_folder), [""]
    if named:
        below = [_inner(root, name) for name in parts.used]
        walk.leave(_beside(root, {*parts.used}, {*below}, parts.unused))
        if odd := [as_folder(name) for name in named if not is_part_folder(name)]:
            notes.append(f"By name, these folders are taken as splits, not classes: {some(odd)}.")
    elif not splitting.to_train and kind_of(root.name) in ("val", "test"):
        parts = Parts(None, root.name, shown=as_folder)
    elif taken := [name for name in folders if is_part_folder(name)]:
        notes.append(
            f"{some(list(map(as_folder, taken)))} holds images but no class folders, so it is taken as a class."
        )
    elif len({*map(kind_of, taken := list(filter(kind_of, folders)))}) > 1:
        notes.append(
            f"{some(list(map(as_folder, taken)))} have no class folders in common, so they are taken as classes."
        )
    trains = splitting.to_train and parts.train is not None
    rows = [walk.part(name, to_train=trains and i == 0) for i, name in enumerate(below)]
    several = splitting.task == "multilabel"
    if splitting.to_train and len({name for _, name in rows[0]}) == 1 and not several:
        raise DataError(_one_class(root / below[0], str(rows[0][0][1])))
    within = None
    if not named:
        within, rows = walk.parts_within(rows[0], where, splitting)
        if within is not None:
            parts = within
            notes.append(f"The class folders hold splits: {some(list(map(_shown_within, parts.used)))}.")
    if within is None:
        notes += _said_of_inner(rows[0], below[0])
    # One class however its name is composed: macOS and Linux write é differently.
    classes: dict[str, str] = {}
    for _, name in (row for part in rows for row in part if row[1] is not None):
        classes.setdefault(unicodedata.normalize("NFC", str(name)), str(name))
    number = {name: label for label, name in enumerate(classes)}

    def numbered(row: tuple[str, str | None]) -> tuple[str, int]:
        return row[0], UNLABELLED if row[1] is None else number[unicodedata.normalize("NFC", row[1])]

    if empty := sorted(walk.empty - {*classes.values()}, key=natural):
        notes.append(f"There are no images in {some(list(map(as_folder, empty)))}.")
    images: Sequence[tuple[str, int | Names]] = [
        row for part in rows for row in sorted(map(numbered, part), key=itemgetter(1))
    ]
    train_count = len(rows[0])
    if several:
        merged = [merged_files(root, part) for part in rows]
        images, train_count = [row for part, _ in merged for row in part], len(merged[0][0])
        together = plural(sum(count for _, count in merged), "image appears", "images appear")
        notes.append(
            f"{together} in several class folders (by link or content), so their names become labels of one image."
        )
    return Found(
        where=where,
        images=Files(root, tuple(name for name, _ in images)),
        labels=[label for _, label in images],
        classes=None if several else tuple(classes.values()),
        parts=parts,
        train_count=0 if parts.train is None else train_count,
        notes=notes,
        left_out=walk.left_out,
    )


@dataclass(frozen=True)
class Unlabelled:
    """Images without classes."""

    root: Path
    names: Sequence[str]
    """Of the images to use, below ``root``, sorted."""
    notes: Sequence[str]
    """What to say of a val or test split that is left out."""


def list_unlabelled(root: Path) -> Unlabelled | None:
    """The images of a folder that holds them, though not in several folders that could be classes and nowhere else, or
    of such a training part of it; None where there are classes, or no images. Beside a val or test split nothing counts
    as a class."""
    if not root.is_dir():
        return None
    folders = data_folders(root)
    if parts := part_folders(root, folders):
        train = next((root / name for name in parts if kind_of(name) == "train"), None)
        return None if train is None else list_unlabelled(train)
    tests = [name for name in folders if is_part_folder(name) and kind_of(name) != "train"]
    every = sorted(images_below(root))
    names = [name for name in every if name.partition("/")[0] not in tests]
    places = {name.rpartition("/")[0].partition("/")[0] for name in names}
    left_out = len(every) - len(names)
    if not names or not (left_out or "" in places or len(places) == 1):
        return None
    said = f"{plural(left_out, 'image')} in {some([*map(as_folder, tests)])} left out, as test images."
    return Unlabelled(root, names, [said] if left_out else [])


def subfolders(folder: Path, *, hidden: bool = False) -> list[str]:
    """Names of the folders in a folder, hidden ones only where asked for. Raises ``DataError``."""
    return [name for name, is_folder in _entries(folder) if is_folder and (hidden or not _hidden(name))]


def files_in(folder: Path, *, hidden: bool = False) -> list[str]:
    """Names of the files in a folder, sorted, hidden ones only where asked for. Raises ``DataError``."""
    return [name for name, is_folder in _entries(folder) if not is_folder and (hidden or not _hidden(name))]


def files_below(root: Path, folder: str = "", *, every: bool = False) -> Iterator[tuple[str, str]]:
    """Each file at any depth, its name below ``root``, and why it is no image of the set, or an empty reason.

    A folder that is linked into itself is entered once, and a link below ``folder`` to one beside it, or to what holds
    it, is not followed: the images of other classes would count as this one's. ``every`` includes hidden files, our own
    results and what a file server keeps.
    """
    beside = os.path.realpath(root / folder.rpartition("/")[0])
    seen: set[str] = set()
    pending = [(folder, _folder_reason(folder.rpartition("/")[2]))]
    while pending:
        name, reason = pending.pop()
        path = root / name
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        entries = _entries(path)
        ours = not reason and bool(name) and _is_results(path, entries)
        if reason and not every:
            continue
        for entry, is_folder in entries:
            below = f"{name}/{entry}" if name else entry
            if is_folder:
                to = os.path.realpath(path / entry) if name and os.path.islink(path / entry) else ""
                if to and os.path.commonpath([to, beside]) in (to, beside):
                    yield below, reason or _LINKED
                else:
                    results = _RESULTS if ours and _OUR_FOLDERS.fullmatch(entry) else ""
                    pending.append((below, reason or results or _folder_reason(entry)))
            elif ours and (not is_image(entry) or os.path.splitext(entry)[0] in _OUR_PICTURES):
                if every:
                    yield below, _RESULTS
            elif every or not _hidden(entry):
                yield below, reason or reason_of(entry)


def images_below(root: Path) -> Iterator[str]:
    """Names of the images of a folder, at any depth."""
    return (name for name, reason in files_below(root) if not reason)


def data_folders(root: Path) -> list[str]:
    """Names of the folders in a folder that may hold images: no hidden ones, a file server's, or only our results."""

    def ours(name: str) -> bool:
        nothing_else = next(files_below(root, name), None) is None
        return nothing_else and any(reason == _RESULTS for _, reason in files_below(root, name, every=True))

    return [name for name in subfolders(root) if not _is_special(name) and not ours(name)]


def part_folders(root: Path, folders: list[str]) -> list[str]:
    """Which of a folder's folders are parts: all, or those that are called so and hold class folders. Raises
    ``DataError`` where they may as well be classes, such as ``training shoes/`` and ``test tube/`` with common
    subfolders."""
    if folders and all(map(is_part_folder, folders)):
        return folders
    inner = {name: {*data_folders(root / name)} for name in folders if kind_of(name)}
    holding = [name for name, within in inner.items() if within]
    if len({kind_of(name) for name in inner}) > 1:
        pairs = combinations(inner, 2)
        common = any(inner[one] & inner[other] for one, other in pairs if kind_of(one) != kind_of(other))
        own = {own_words(name) for name in inner}
        # Such as cats_train and cats_test; or train and cats_val.
        if len(inner) == len(folders) and (len(own) == 1 or (common and len(own - {frozenset()}) == 1)):
            return folders
        if common and not any(map(is_part_folder, holding)):
            raise DataError(
                f"{printable(str(root))} has {some(list(map(as_folder, inner)))}, which may be splits or classes: "
                f"if they are splits, rename them to train, val and test; if they are classes, move the images out of "
                f"their subfolders"
            )
    if any(map(is_part_folder, holding)):
        return [name for name in folders if is_part_folder(name) or looks_like_part(name)]
    if any(map(looks_like_part, folders)) and all(kind_of(name) or looks_like_part(name) for name in folders):
        return folders
    return []


def _inner(root: Path, part: str) -> str:
    """A part's own folder within one of its name, as some archives unpack: ``seg_train/seg_train``."""
    inner = subfolders(root / part)
    if len(inner) == 1 and kind_of(inner[0]) == kind_of(part) and is_part_folder(inner[0]):
        return f"{part}/{inner[0]}"
    return part


def _beside(root: Path, used: set[str], inner: set[str], unused: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What lies in a folder of parts, or in a part around its ``inner`` folder, and in none that is used."""
    for place in ("", *sorted(used - inner)):
        for name in files_in(root / place, hidden=True):
            yield f"{place}/{name}".lstrip("/"), reason_of(name) or "next to the splits"
    for name in sorted(set(subfolders(root, hidden=True)) - used):
        aside = f"in {printable(name)}/, {'which is not used' if name in unused else 'next to the splits'}"
        for file, reason in files_below(root, name, every=True):
            yield file, reason if reason in (HIDDEN, _RESULTS, _SERVER) else aside


def _refuse_annotations(folder: Path, by_class: dict[str, list[str]]) -> None:
    """Refuse the layouts of detection and segmentation, whose folders are no classes."""
    lower = {name.lower(): name for name in by_class}
    pictures, others = (
        next((lower[n] for n in sorted(lower) if n in names), None) for names in (_PICTURES, _COMPANIONS)
    )
    if pictures and others and len(by_class) <= 3:
        kind = "a segmentation" if by_class[others] else "a detection"
        raise DataError(
            f"{printable(str(folder))} is laid out as {kind} set ({pictures}/ next to {others}/), whose folders are "
            f"not classes: give {printable(str(folder / pictures))} if its folders are the classes"
        )


def _one_class(folder: Path, only: str) -> str:
    inner = folder / only
    has_parts = any(kind_of(name) == "train" for name in subfolders(inner))
    hint = f"add a folder of images of another class{_or_list(folder)}"
    if has_parts:
        hint = f"give {printable(str(inner))}"
    elif len(subfolders(inner)) > 1:
        hint = f"give {printable(str(inner))} if its folders are the classes, or {hint}"
    return f"{printable(str(folder))} has one class only ({printable(only)}), so there is nothing to tell apart: {hint}"


def _said_of_inner(rows: _Rows, below: str) -> list[str]:
    """A note where all class folders hold the same folders and nothing else, which may be the classes instead: such as
    ``camera1/cat``, ``camera1/dog``, ``camera2/cat`` and ``camera2/dog``."""
    inner: dict[str, set[str]] = defaultdict(set)
    for file, name in rows:
        _, *folders = file.removeprefix(f"{below}/").split("/")[:-1]
        inner[str(name)].add(folders[0] if folders else "")
    first = next(iter(inner.values()))
    if len(inner) == 1 or len(first) == 1 or "" in first or any(own != first for own in inner.values()):
        return []
    return [
        f"All class folders hold the same folders, {some(sorted(first, key=natural))}, whose names are not used: if "
        f"those are the classes, put each one's images in one folder."
    ]


def _shown_within(part: str) -> str:
    """A part that is a folder within each class folder, as a message has it."""
    return f"*/{part}/"


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Name of each entry, sorted, and whether it is a folder. Raises ``DataError``."""
    with reading_of(folder), os.scandir(folder) as entries:
        return sorted((entry.name, entry.is_dir()) for entry in entries)


def _or_list(folder: Path) -> str:
    """A further remedy where the folder has what may be a manifest."""
    lists = [name for name in files_in(folder) if name.lower().endswith((".csv", ".tsv", ".jsonl"))]
    return f", or give {printable(str(folder / lists[0]))} if it lists paths and labels" if lists else ""


def _hidden(name: str) -> bool:
    return name.startswith(".")


def is_image(name: str) -> bool:
    """Whether a file has an image's extension."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS or (is_numpy(name) and _NUMPY_TOO.get())


def is_numpy(name: str) -> bool:
    """Whether a file has the extension of a NumPy file."""
    return os.path.splitext(name)[1].lower() in NUMPY


def holds_numpy(root: Path) -> bool:
    """Whether a folder holds NumPy files and no other image."""
    found = False
    for name, _ in files_below(root):
        if os.path.splitext(name)[1].lower() in EXTENSIONS:
            return False
        found = found or is_numpy(name)
    return found


@contextmanager
def numpy_files(count: bool) -> Iterator[None]:
    """Within, whether NumPy files count as images."""
    before = _NUMPY_TOO.set(count)
    try:
        yield
    finally:
        _NUMPY_TOO.reset(before)


def reason_of(name: str) -> str:
    """Why a file is no image of the set; empty where it is one."""
    if _hidden(name):
        return HIDDEN
    if is_image(name):
        return ""
    extension = os.path.splitext(name)[1].lower()
    if extension in PLUGINS:
        return f"{extension} files, which need pip install {PLUGINS[extension][1]}"
    if extension in OTHER_FORMATS:
        return f"{extension} files, which are not supported: convert them to .png or .jpg"
    return f"{extension} files" if extension else "files without an extension"


def _folder_reason(name: str) -> str:
    """Why nothing below a folder of this name is an image of the set; empty where it may be."""
    return HIDDEN if _hidden(name) else _SERVER if name in SERVER_FOLDERS else ""


def _is_special(name: str) -> bool:
    return bool(_folder_reason(name))


def _is_results(folder: Path, entries: list[tuple[str, bool]]) -> bool:
    """Whether a folder is one of ours: an ``--out``, a training's, a cache's, or one of results."""
    names = {name for name, is_folder in entries if not is_folder}
    if any(map(_MARKER.fullmatch, names)):
        return True
    for name in filter(lambda name: os.path.isfile(folder / name), names & _SIGNED):
        with reading_of(folder / name), open(folder / name, "rb") as file:
            if b'"nextify"' in file.read(2**24):
                return True
    return ("cache", True) in entries and any(map(_MARKER.fullmatch, files_in(folder / "cache")))
