"""Pascal VOC's annotations (http://host.robots.ox.ac.uk/pascal/VOC/): one XML per image, and lists of the parts.

Boxes are whole pixels counted from 1, the far edges included, as in VOC itself; where a box in any XML of the set
begins at 0, they are taken as counted from 0, the far edges excluded. Objects marked difficult are ignored, as in VOC's
own measure.
"""

import math
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from nextify.data.dense.annotations import Size
from nextify.data.dense.found import Annotated, Annotation, Picture, as_list, part_lists, text_list
from nextify.data.errors import DataError, reading_of
from nextify.data.sources.annotated import Pair, pairs
from nextify.data.sources.folder import files_below, images_below
from nextify.data.sources.parts import Splitting, as_folder, choose_parts, natural
from nextify.system.text import plural, printable, shortened, some

_SPLITS = ("ImageSets/Main", "ImageSets", "")
"""Folders, below that of the data set or of its XML files, that may hold lists of the parts."""


_Box = tuple[float, float, float, float]


class _Found(NamedTuple):
    size: Size | None
    objects: list[tuple[str, _Box, bool]]
    """Class, box and whether it is difficult."""
    filename: str


def list_voc(root: Path, splitting: Splitting) -> Annotated:
    """The images of a folder of XML files, or of one such folder per part. Raises ``DataError``."""
    where = printable(str(root))
    folders = pairs(root, ".xml")
    lists = {}
    if [*folders] == [""]:
        annotations = folders[""].annotations
        places = (root, annotations, annotations.parent)
        lists = part_lists(place / inner for place in places for inner in _SPLITS)
    parts = choose_parts(lists or folders, where, splitting, as_list if lists else as_folder)
    left: dict[str, list[str]] = {}
    chosen: dict[str, list[tuple[str, _Found]]] = {}
    read = cache(_read)
    for name in parts.used:
        pair = folders["" if lists else name]
        chosen[name] = _part(pair, lists.get(name), root, left, read)
    first = 0 if _begins_at_0({pair.annotations for pair in folders.values()}, read) else 1
    everything = [one for found in chosen.values() for _, one in found]
    classes = sorted({label for one in everything for label, *_ in one.objects}, key=natural)
    number = {name: label for label, name in enumerate(classes)}

    def picture(path: str, one: _Found) -> Picture:
        objects = [
            Annotation(number[label], _counted_from_0(box, first), difficult) for label, box, difficult in one.objects
        ]
        return Picture(path, objects, size=one.size)

    counted = "pixels from 0, since some begin there" if not first else "pixels from 1, as VOC does"
    return Annotated(
        where=where,
        parts=parts,
        made={name: [picture(path, one) for path, one in found] for name, found in chosen.items()},
        classes=tuple(classes),
        notes=[f"Boxes count {counted}."],
        left_out=left,
    )


def _begins_at_0(folders: Iterable[Path], read: Callable[[Path], _Found]) -> bool:
    """Whether a box does in any XML, also of parts that are not used, so that a file is always read in the same way."""
    for folder in folders:
        for name, _ in files_below(folder):
            if name.lower().endswith(".xml"):
                with suppress(DataError):  # a damaged file is refused where it is used
                    if any(min(box) <= 0 for _, box, _ in read(folder / name).objects):
                        return True
    return False


def _counted_from_0(box: _Box, first: int) -> _Box:
    x1, y1, x2, y2 = box
    # A box whose edges coincide is no pixel wide, however they are counted: nobody outlines one pixel.
    return (x1 - first, y1 - first, x2, y2) if x2 > x1 and y2 > y1 else box


def _part(
    pair: Pair, split: Path | None, root: Path, left: dict[str, list[str]], read: Callable[[Path], _Found]
) -> list[tuple[str, _Found]]:
    xmls: dict[str, Path] = {}
    for name, _ in files_below(pair.annotations):
        if name.lower().endswith(".xml"):
            stem = os.path.splitext(name)[0].rpartition("/")[2]
            if stem in xmls:
                first = printable(str(xmls[stem].relative_to(pair.annotations)))
                raise DataError(f"{first} and {printable(name)} have the same name, and VOC finds images by name: "
                                f"rename one, or give their folders one at a time")  # fmt: skip
            xmls[stem] = pair.annotations / name
    images: dict[str, list[str]] = {}
    for name in images_below(pair.images):
        images.setdefault(os.path.splitext(name)[0].rpartition("/")[2], []).append(name)
    if split is None:
        stems = sorted(xmls, key=natural)
        if bare := sorted(images.keys() - xmls.keys(), key=natural):
            left["images without an .xml file"] = bare
    else:
        stems = [_stem(line) for line in text_list(split)]
        listed = printable(str(split.relative_to(root) if split.is_relative_to(root) else split))
        if len({*stems}) < len(stems):
            twice = sorted({stem for stem in stems if stems.count(stem) > 1})
            raise DataError(f"{listed} lists {plural(len(twice), 'image')} more than once: {some(twice)}; "
                            f"list each once")  # fmt: skip
        if lacking := [stem for stem in stems if stem not in xmls]:
            count = plural(len(lacking), "image that has", "images that have")
            raise DataError(f"{listed} lists {count} no .xml file: {some(lacking)}; add it, or correct the list")
    found = [read(xmls[stem]) for stem in stems]
    choices = [
        images.get(stem) or images.get(_stem(one.filename)) or [] for stem, one in zip(stems, found, strict=True)
    ]
    if lost := [one.filename or stem for stem, one, files in zip(stems, found, choices, strict=True) if not files]:
        count = plural(len(lost), "image is", "images are")
        raise DataError(f"{count} annotated but missing from {printable(str(pair.images))}: {some(lost)}; "
                        f"add them, or leave their .xml files out")  # fmt: skip
    own = [[file for file in files if file.rpartition("/")[2] == one.filename] or files
           for one, files in zip(found, choices, strict=True)]  # fmt: skip
    if twice := [file for files in own if len(files) > 1 for file in files]:
        raise DataError(f"{printable(str(pair.images))} has several images of one name: {some(twice)}; keep the one "
                        f"that was annotated, or name it in the .xml file's filename")  # fmt: skip
    return [(os.path.abspath(pair.images / file), one) for (file,), one in zip(own, found, strict=True)]


def _stem(line: str) -> str:
    """The image that a line of a list names, which may have an ending, and a number after it."""
    name = line.rpartition("/")[2].split()[0] if line.split() else ""
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() in (".jpg", ".jpeg", ".png", ".xml", ".bmp") else name


def _read(path: Path) -> _Found:
    where = printable(path.name)
    with reading_of(path):
        data = path.read_bytes()
    try:
        tree = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise DataError(f"{where} is not valid XML ({error}): write it again") from None
    objects = []
    for one in tree.iter("object"):
        name, box = (one.findtext("name") or "").strip(), one.find("bndbox")
        if not name:
            raise DataError(f"{where} has an object without a name: add it, or leave the object out")
        texts = [(box.findtext(side) if box is not None else None) or "" for side in ("xmin", "ymin", "xmax", "ymax")]
        values = [_number(text) for text in texts]
        if not all(map(math.isfinite, values)):
            raise DataError(f"{where} has an object whose bndbox is not four numbers: {shortened(texts)}; correct it")
        objects.append((name, (values[0], values[1], values[2], values[3]), _number(one.findtext("difficult")) == 1))
    height, width = (_number(tree.findtext(f"size/{side}")) for side in ("height", "width"))
    known = math.isfinite(height) and math.isfinite(width) and height > 0 and width > 0
    return _Found((int(height), int(width)) if known else None, objects, (tree.findtext("filename") or "").strip())


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
