"""Which folders hold images with boxes or masks, and how they are written: by names and a look at one file.

docs/data.md says how each kind is recognized. A JSON that is cut off is COCO's where it has one of the three keys
(images, annotations, categories), or lies where others of the set do.
"""

import mmap
import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

from nextify.data.errors import reading_of
from nextify.data.sources.folder import files_in, is_image, subfolders
from nextify.data.sources.parts import is_part_folder, kind_of
from nextify.system.files import parse_json
from nextify.system.text import printable, some

Format = Literal["coco", "yolo", "voc", "masks"]

PICTURES = frozenset({"images", "image", "imgs", "img", "jpegimages", "photos"})
COMPANIONS = frozenset(
    {"masks", "mask", "labels", "label", "annotations", "annotation", "annots", "trimaps", "gt", "groundtruth"}
    | {"segmentationclass", "coco", "voc", "xml", "xmls"}
)
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_YAML = re.compile(r"^\s*['\"]?(train|val|test|path)['\"]?\s*:", re.MULTILINE)
_NAMES = re.compile(r"^['\"]?names['\"]?\s*:", re.MULTILINE)


class Pair(NamedTuple):
    """A folder of images, and the one of their annotations."""

    images: Path
    annotations: Path


def format_of(root: Path) -> Format | None:
    """How a file or folder is annotated; None where it is not. Raises ``DataError`` for what may not be read."""
    if coco_files(root):
        return "coco"
    if yaml_of(root) is not None:
        return "yolo"
    if root.is_dir():
        for ending, kind in ((".xml", "voc"), (".txt", "yolo"), ("image", "masks")):
            if pairs(root, ending):
                return kind  # type: ignore[return-value]
    return None


def coco_files(root: Path) -> dict[str, Path]:
    """COCO's files by the part that each names; ``""`` for one that names none."""
    if not root.is_dir():
        return {"": root} if root.suffix.lower() == ".json" and (_is_coco(root) or _is_cut(root)) else {}
    folders = subfolders(root)
    if inner := {name: found for name in folders if kind_of(name) and (found := _cocos_in(root / name))}:
        without = [name for name in folders if kind_of(name) and name not in inner]
        inner |= {name: cut for name in without if (cut := [*filter(_is_cut, _jsons(root / name))])}
        return {name: found[0] for name, found in inner.items()}
    for place in ("", *(name for name in folders if name.lower() in COMPANIONS)):
        if found := _cocos_in(root / place):
            others = [path for path in _jsons(root / place) if kind_of(path.stem) and path not in found]
            in_parts = any(kind_of(path.stem) for path in found)
            found += [path for path in others if _is_cut(path) or (in_parts and _must_be_coco(path))]
        instances = [path for path in found if path.name.startswith("instances")]
        if named := {path.stem: path for path in instances or found if kind_of(path.stem)}:
            return named
        if found:
            return {"": found[0]} if len(found) == 1 else {path.stem: path for path in found}
    return {}


def _must_be_coco(path: Path) -> bool:
    """Whether a JSON beside COCO's is one by its name; a test.json may have no annotations."""
    return is_part_folder(path.stem) and kind_of(path.stem) != "test"


def not_coco(root: Path) -> str:
    """What a JSON lacks that may be meant as COCO's: one that is given, or lies in a folder and is named like a part.
    Empty where there is none."""
    places = ("", *(name for name in subfolders(root) if name.lower() in COMPANIONS)) if root.is_dir() else ()
    named = [
        path
        for place in places
        for path in _jsons(root / place)
        if is_part_folder(path.stem.removeprefix("instances_"))
    ]
    for path in named or [root]:
        there = _keys_in(path) if path.suffix.lower() == ".json" else _KEYS
        if lacking := [key.decode() for key in _KEYS if key not in there]:
            return f"{printable(str(path))} is not COCO's JSON, since it has no {some(lacking)}"
    return ""


def yaml_of(root: Path) -> Path | None:
    """The file that describes a YOLO set."""
    if root.is_dir():
        files = sorted(
            (name for name in files_in(root) if name.lower().endswith((".yaml", ".yml"))),
            key=lambda n: n != "data.yaml",
        )
        return next((root / name for name in files if _is_yolo(root / name)), None)
    return root if root.suffix.lower() in (".yaml", ".yml") and _is_yolo(root) else None


def pairs(root: Path, ending: str) -> dict[str, Pair]:
    """Folders of images and of their annotations, by part; ``""`` where the folders name none. ``ending``: of the
    annotations' files, or ``image`` for masks."""
    folders = subfolders(root)
    if found := _pairs_in(root, ending):
        return found
    parts = [name for name in folders if is_part_folder(name)]
    within = {name: pair for name in parts for pair in _pairs_in(root / name, ending).values()}
    if within or ending == "image":
        return within
    beside = {name: Pair(root / name, root / name) for name in parts if _holds(root / name, ending)}
    if beside or ending == ".txt":
        return beside if any(_holds(pair.images, "image") for pair in beside.values()) else {}
    if _holds(root, ending, deep=False):  # boxes beside the images, or in a folder beside theirs
        images = root if _holds(root, "image", deep=False) else _pictures(root) or _pictures(root.parent)
        return {} if images is None else {"": Pair(images, root)}
    return {}


def _pairs_in(root: Path, ending: str) -> dict[str, Pair]:
    images = _pictures(root)
    if images is None:
        return {}
    for name in subfolders(root):
        other = root / name
        if name.lower() not in COMPANIONS or not _holds(other, ending):
            continue
        if ending == ".txt" and _holds(other, "image"):
            continue  # masks, with a text of their classes or a README
        parts = {inner for inner in subfolders(images) if is_part_folder(inner)}
        by_kind = {kind_of(inner): inner for inner in subfolders(other) if is_part_folder(inner)}
        both = {inner: other / by_kind[kind_of(inner)] for inner in sorted(parts) if kind_of(inner) in by_kind}
        if both and not any(is_image(file) for file in files_in(images)):
            return {inner: Pair(images / inner, of_part) for inner, of_part in both.items()}
        return {"": Pair(images, other)}
    return {}


def _pictures(root: Path) -> Path | None:
    return next((root / name for name in subfolders(root) if name.lower() in PICTURES), None)


def _holds(folder: Path, ending: str, *, deep: bool = True) -> bool:
    """Whether a folder holds a file of this ending, at some depth or its own. Links are followed, but for those to what
    holds the folder."""
    seen = {os.path.realpath(parent) for parent in folder.absolute().parents}
    for place, folders, files in os.walk(folder, followlinks=True):  # the fastest way through a large data set
        real = os.path.realpath(place)
        known = real in seen
        seen.add(real)
        names = (name for name in files if not known and not name.startswith("."))
        if any(is_image(name) if ending == "image" else name.lower().endswith(ending) for name in names):
            return True
        folders[:] = [name for name in folders if deep and not known and not name.startswith(".")]
    return False


def _cocos_in(folder: Path) -> list[Path]:
    return [path for path in _jsons(folder) if _is_coco(path)]


def _jsons(folder: Path) -> list[Path]:
    return [folder / name for name in files_in(folder) if name.lower().endswith(".json")]


def _is_coco(path: Path) -> bool:
    """Whether a JSON has COCO's keys, which may stand anywhere in it, or begins with some and is cut off."""
    there = _keys_in(path)
    return len(there) == len(_KEYS) or (bool(there) and _is_cut(path))


def _keys_in(path: Path) -> list[bytes]:
    if not path.is_file() or not path.stat().st_size:
        return []
    with reading_of(path), open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return [key for key in _KEYS if text.find(key) >= 0]


def _is_cut(path: Path) -> bool:
    if not path.is_file():
        return False
    with reading_of(path):
        data = path.read_bytes()
    if data.strip() and all(
        data.count(opened) == data.count(closed) for opened, closed in ((b"{", b"}"), (b"[", b"]"))
    ):
        return False
    try:
        parse_json(data)
    except ValueError:
        return True
    return False


def _is_yolo(path: Path) -> bool:
    with reading_of(path), open(path, encoding="utf-8", errors="replace") as file:
        text = file.read(2**20)
    return bool(_NAMES.search(text) and _YAML.search(text))
