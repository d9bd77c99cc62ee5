"""An image folder: which files, which class, which part.

Accepted: a folder for each part, in any spelling that ``parts.py`` knows, each with one folder per class; or one folder
of class folders, which is split per class with a fixed seed. Class folders are searched in depth. Every other file is
left out for a reason that is counted: hidden, another format, a file server's thumbnail, a result of ours.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from nextify.data.decode import EXTENSIONS, PLUGINS
from nextify.data.encoded import Files
from nextify.data.errors import DataError, printable, some
from nextify.data.sources.listing import HIDDEN, Listing, Splitting, arrange
from nextify.data.sources.parts import (
    Parts,
    choose_parts,
    count_classes,
    is_part_folder,
    kind_of,
    looks_like_part,
    natural,
)

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
OURS = frozenset({"preflight.json", "nextify.json", "checkpoint.pt", "result.json", "study.json"})
"""Files that tell a folder of our results."""
_RESULTS, _SERVER = "results of nextify", "in thumbnail and recycle folders of a file server"
_PICTURES, _COMPANIONS = ({"images", "imgs", "img", "jpegimages"}, {"masks", "labels", "annotations", "trimaps"})


class _Found:
    """Images of a folder by part and class, and what else lies there; names are below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out: dict[str, list[str]] = defaultdict(list)

    def images_in(self, folder: str) -> list[str]:
        """The images at any depth, sorted. Raises ``DataError``."""
        found = []
        for name, reason in _files_below(self.root, folder):
            if reason:
                self.left_out[reason].append(name)
            else:
                found.append(name)
        return sorted(found)

    def classes_in(self, below: str, *, may_be_empty: bool) -> dict[str, list[str]]:
        """Class name to the names of its images, below ``root / below``. Raises ``DataError``."""
        folder = self.root / below
        shown, prefix = printable(str(folder)), f"{below}/" if below else ""
        for name in files_in(folder, hidden=True):
            reason = _reason(name) or "beside the class folders"
            self.left_out[reason].append(f"{prefix}{name}")
        by_class = {}
        for name in sorted(subfolders(folder, hidden=True), key=natural):
            reason = _folder_reason(folder / name)
            if reason:
                self.left_out[reason] += [file for file, _ in _files_below(self.root, f"{prefix}{name}")]
            else:
                by_class[name] = self.images_in(f"{prefix}{name}")
        _no_annotations(folder, by_class)
        if not any(by_class.values()):
            raise DataError(self._no_images(folder, shown))
        empty = [name for name, files in by_class.items() if not files]
        if empty and may_be_empty:
            return {name: files for name, files in by_class.items() if files}
        if empty:
            there = {r: n for r, n in self.left_out.items() if any(f.startswith(f"{prefix}{empty[0]}/") for f in n)}
            hint = f" (there are {some([f'{len(n):,} {r}' for r, n in there.items()])})" if there else ""
            raise DataError(f"{shown} has {count_classes(empty)} without images{hint}: add some, or move it elsewhere")
        return by_class

    def _no_images(self, folder: Path, shown: str) -> str:
        files = files_in(folder)
        if any(map(is_image, files)):
            return (
                f"{shown} has images but no class folders: put the images of each class in one folder{_or_list(folder)}"
            )
        archives = [name for name in files if name.lower().endswith(ARCHIVES)]
        if archives:
            return f"{shown} has no images, but {some(archives)}: unpack it and give its folder"
        there = [f"{len(names):,} {reason}" for reason, names in self.left_out.items() if reason != HIDDEN]
        beside = f" (there are {some(there)})" if there else ""
        return (
            f"{shown} has no images{beside}: it needs one folder per class with files such as .jpg or .png in it"
            f"{_or_list(folder)}"
        )


def list_folder(root: Path, splitting: Splitting) -> Listing:
    """The images of a folder. Looks at names only. Raises ``DataError``."""
    where, found = printable(str(root)), _Found(root)
    folders = [name for name in subfolders(root) if not _folder_reason(root / name)]
    named = _part_folders(root, folders)
    notes = []
    parts: Parts | None = None
    if named:
        parts = choose_parts(named, where, _shown, to_train=splitting.to_train)
        used = [_inner(root, name) for name in parts.used]
        found.left_out.update(_beside(root, {*parts.used}))
    elif not splitting.to_train and kind_of(root.name) in ("val", "test"):
        parts, used = Parts(None, root.name), [""]
    else:
        used = [""]
        if taken := [name for name in folders if is_part_folder(name)]:
            notes.append(f"{some(list(map(_shown, taken)))} holds images and no class folders, so it is a class.")
    trains = parts is None or parts.train is not None
    by_part = [
        found.classes_in(below, may_be_empty=not (trains and i == 0) or not splitting.to_train)
        for i, below in enumerate(used)
    ]
    if splitting.to_train and len(by_part[0]) == 1:
        raise DataError(_one_class(root / used[0], *by_part[0]))
    classes = tuple(dict.fromkeys(name for part in by_part for name in part))
    images = [(name, label) for part in by_part for label, cls in enumerate(classes) for name in part.get(cls, [])]
    return arrange(
        where,
        classes,
        Files(root, tuple(name for name, _ in images)),
        [label for _, label in images],
        parts,
        sum(map(len, by_part[0].values())) if trains else 0,
        splitting,
        shown=_shown,
        notes=notes,
        left_out=found.left_out,
    )


def subfolders(folder: Path, *, hidden: bool = False) -> list[str]:
    """Names of the folders in a folder, hidden ones only where asked for. Raises ``DataError``."""
    with _entries(str(folder)) as entries:
        return [entry.name for entry in entries if (hidden or not _hidden(entry.name)) and entry.is_dir()]


def files_in(folder: Path, *, hidden: bool = False) -> list[str]:
    """Names of the files in a folder, sorted, hidden ones only where asked for. Raises ``DataError``."""
    with _entries(str(folder)) as entries:
        return sorted(entry.name for entry in entries if (hidden or not _hidden(entry.name)) and not entry.is_dir())


def files_below(folder: Path) -> Iterator[str]:
    """Names below a folder of its files at any depth, without hidden ones and our results. Raises ``DataError``."""
    return (name for name, reason in _files_below(folder, "") if reason not in (HIDDEN, _RESULTS, _SERVER))


def _part_folders(root: Path, folders: list[str]) -> list[str]:
    """Which of a folder's folders are parts: all, or those that are called so and hold class folders."""
    kinds = {kind_of(name) for name in folders}
    holding = [name for name in folders if kind_of(name) and subfolders(root / name)]
    if folders and all(map(is_part_folder, folders)):
        return folders
    if holding and None not in kinds and len(kinds) > 1:
        return folders  # such as cats_train and cats_test
    if any(map(is_part_folder, holding)):
        return [name for name in folders if is_part_folder(name) or looks_like_part(name)]
    if (
        folders
        and all(kind_of(name) or looks_like_part(name) for name in folders)
        and any(map(looks_like_part, folders))
    ):
        return folders
    return []


def _inner(root: Path, part: str) -> str:
    """A part's own folder within one of its name, as some archives unpack: ``seg_train/seg_train``."""
    inner = subfolders(root / part)
    if len(inner) == 1 and kind_of(inner[0]) == kind_of(part) and is_part_folder(inner[0]):
        return f"{part}/{inner[0]}"
    return part


def _beside(root: Path, used: set[str]) -> dict[str, list[str]]:
    """What lies in a folder of parts and in none that is used, by reason."""
    left: dict[str, list[str]] = defaultdict(list)
    for name in files_in(root, hidden=True):
        left[_reason(name) or "beside the parts"].append(name)
    for name in sorted(set(subfolders(root, hidden=True)) - used):
        aside = "which is not used" if kind_of(name) else "beside the parts"
        reason = _folder_reason(root / name) or f"in {printable(name)}/, {aside}"
        left[reason] += [file for file, _ in _files_below(root, name)]
    return left


def _no_annotations(folder: Path, by_class: dict[str, list[str]]) -> None:
    """Refuse the layouts of detection and segmentation, whose folders are no classes."""
    lower = {name.lower(): name for name in by_class}
    pictures, others = (
        next((lower[n] for n in sorted(lower) if n in names), None) for names in (_PICTURES, _COMPANIONS)
    )
    if pictures and others and len(by_class) <= 3:
        kind = "a segmentation" if by_class[others] else "a detection"
        raise DataError(
            f"{printable(str(folder))} is laid out as {kind} set ({pictures}/ beside {others}/), where folders are no "
            f"classes: give {printable(str(folder / pictures))} if its folders are the classes"
        )


def _one_class(folder: Path, only: str) -> str:
    inner = folder / only
    below = subfolders(inner)
    has_parts = any(kind_of(name) == "train" for name in below)
    hint = (
        f"give {printable(str(inner))}" if has_parts else f"add a folder of images of another class{_or_list(folder)}"
    )
    return f"{printable(str(folder))} has one class only ({printable(only)}), so there is nothing to tell apart: {hint}"


def _shown(part: str) -> str:
    return f"{part}/"


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
    if lists:
        return f", or give {printable(str(folder / lists[0]))} if it lists paths and labels"
    lines = [name for name in files_in(folder) if name.lower().endswith(".jsonl")]
    return f", or write the paths and labels of {lines[0]} as a .csv" if lines else ""


def _hidden(name: str) -> bool:
    return name.startswith(".")


def is_image(name: str) -> bool:
    """Whether a file has an image's extension."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _reason(name: str) -> str:
    """Why a file is no image of the set; empty where it is one."""
    extension = os.path.splitext(name)[1].lower()
    if _hidden(name):
        return HIDDEN
    if is_image(name):
        return ""
    if extension in PLUGINS:
        return f"{extension} files, which need pip install {PLUGINS[extension][1]}"
    if extension in OTHER_FORMATS:
        return f"{extension} files, which are not read: convert them to .png or .jpg"
    return f"{extension} files" if extension else "files without an extension"


def _folder_reason(folder: Path) -> str:
    """Why nothing below a folder is an image of the set; empty where it may be."""
    if _hidden(folder.name):
        return HIDDEN
    if folder.name in SERVER_FOLDERS:
        return _SERVER
    places = [folder]
    for depth in range(3):  # results lie in OUT/FINGERPRINT, and OUT in runs/ where nothing else is said
        if any(not OURS.isdisjoint(files_in(place)) for place in places):
            return _RESULTS
        if depth < 2:
            places = [place / name for place in places for name in subfolders(place)[:50]]
    return ""


def _files_below(root: Path, folder: str) -> Iterator[tuple[str, str]]:
    """Each file at any depth, its name below ``root`` and why it is left out; a folder linked into itself is entered
    once."""
    seen: set[str] = set()
    pending = [(folder, "")]
    while pending:
        name, reason = pending.pop()
        path = root / name
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        with _entries(str(path)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                below = f"{name}/{entry.name}" if name else entry.name
                if entry.is_dir():
                    special = HIDDEN if _hidden(entry.name) else _SERVER if entry.name in SERVER_FOLDERS else ""
                    pending.append((below, reason or special))
                else:
                    yield below, reason or _reason(entry.name)
