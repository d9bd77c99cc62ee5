"""COCO's annotations (https://cocodataset.org/#format-data): boxes, outlines, run lengths and crowds."""

import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nextify.data.dense.annotations import Mask, Rle, Size, run_lengths
from nextify.data.dense.found import Annotated, Annotation, Picture, located
from nextify.data.errors import DataError, reading_of
from nextify.data.sources.annotated import coco_files
from nextify.data.sources.parts import Splitting, choose_parts, is_part_folder, kind_of
from nextify.system.files import parse_json
from nextify.system.text import plural, printable, shortened, some

Record = dict[str, Any]
FAR = 100_000
"""Pixels from which a coordinate is a mistake: painting an outline takes memory by its length."""


def list_coco(root: Path, splitting: Splitting) -> Annotated:
    """The images of a JSON, or of a folder with one JSON per part. Raises ``DataError``."""
    where = printable(str(root))
    files = coco_files(root)
    folder = root if root.is_dir() else root.parent
    if len(files) > 1 and not any(map(kind_of, files)):
        raise DataError(
            f"{where} has {some([path.name for path in files.values()])}: give one of them, "
            f"or name them train.json and val.json"
        )

    def shown(name: str) -> str:
        return f"{name}/" if any(path.parent.name in files for path in files.values()) else f"{name}.json"

    parts = choose_parts(files, where, splitting, shown)
    read = {name: _read(files[name]) for name in parts.used}
    numbers, classes, notes = _classes(read, where)
    made = {name: _part(found, files[name], folder, name, numbers) for name, found in read.items()}
    if "" in made and (inner := _by_folder(made[""], read[""])) is not None:
        parts, made = choose_parts(inner, where, splitting), inner
    return Annotated(where=where, parts=parts, made=made, classes=classes, category_ids=tuple(numbers), notes=notes)


def _read(path: Path) -> Record:
    """The file's object, with lists of images, annotations and categories."""
    where = printable(str(path))
    with reading_of(path):
        data = path.read_bytes()
    try:
        found = parse_json(data)
    except ValueError as error:
        cut = "truncated and " if _is_cut_off(error) else ""
        raise DataError(
            f"{where} is {cut}not valid JSON ({str(error).partition(chr(10))[0]}): write it again"
        ) from None
    wanted = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}
    for key, needed in wanted.items():
        rows = found.get(key) if isinstance(found, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{where} has no list of {key}, which COCO files need: write it again")
        if lacking := [field for field in needed if any(field not in row for row in rows)]:
            raise DataError(f"{where} has {key} without {some(lacking)}: add it")
        for row, field in itertools.product(rows, needed):
            if not _is_usable(row[field], field):
                kind = "neither a number nor text" if field.endswith("id") else "not text"
                raise DataError(f"{where} has {key} whose {field} is {kind}: {shortened(row[field])}{_id(row)}; "
                                f"correct it")  # fmt: skip
    return found  # type: ignore[no-any-return]


def _is_usable(value: object, field: str) -> bool:
    """Whether a name can be written, and an id be looked up."""
    if field.endswith("id") and not isinstance(value, str):
        return _is_number(value)
    try:
        text = os.fsencode(value if field == "file_name" else str(value))  # type: ignore[arg-type]
    except (TypeError, UnicodeEncodeError):
        return False
    return bool(text) and b"\0" not in text


def _is_cut_off(error: ValueError) -> bool:
    """Whether what is no JSON only lacks its end."""
    if isinstance(error, json.JSONDecodeError):
        rest = error.doc[error.pos :].rstrip()
        return (
            error.msg.startswith("Unterminated")
            or rest == "-"
            or any(word.startswith(rest) for word in ("true", "false", "null"))
        )
    return isinstance(error, UnicodeDecodeError) and error.reason == "unexpected end of data"


def _classes(read: dict[str, Record], where: str) -> tuple[dict[Any, int], tuple[str, ...], list[str]]:
    """Label of each category's id, the names, and what to say. Categories are in the order of their ids."""
    of_part = [{row["id"]: str(row["name"]) for row in found["categories"]} for found in read.values()]
    for found in read.values():
        pairs = {(row["id"], str(row["name"])) for row in found["categories"]}
        if twice := sorted(str(i) for i, count in Counter(i for i, _ in pairs).items() if count > 1):
            raise DataError(f"{where} has several categories with the id {some(twice)}: give each its own id")
    if any(names != of_part[0] for names in of_part):
        raise DataError(
            f"{where} has different categories in its splits {some([*read])}: give all splits the same categories"
        )
    names = of_part[0]
    counts = Counter(row["category_id"] for found in read.values() for row in found["annotations"])
    above = {str(row.get("supercategory")) for found in read.values() for row in found["categories"]
             if row["id"] in counts}  # fmt: skip
    # Roboflow lists the data set's own name as a category, to which the others belong.
    roots = [i for i, name in names.items() if i not in counts and name in above]
    names = {i: name for i, name in names.items() if i not in roots or len(names) == len(roots)}
    notes = [f"Category {some([of_part[0][i] for i in roots])} has no objects, only subcategories: left out."]
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise DataError(f"{where} has several categories named {some(twice)}: give each its own name, or merge them")
    ordered = sorted(names, key=lambda i: (isinstance(i, str), i))
    return {i: label for label, i in enumerate(ordered)}, tuple(names[i] for i in ordered), notes if roots else []


def _part(found: Record, path: Path, root: Path, name: str, numbers: dict[Any, int]) -> list[Picture]:
    where = printable(path.name)
    images, rows = found["images"], found["annotations"]
    files = [str(image["file_name"]) for image in images]
    if twice := [file for file, count in Counter(files).items() if count > 1]:
        raise DataError(f"{where} lists {plural(len(twice), 'image')} more than once: {some(twice)}; list each once")
    place = {image["id"]: i for i, image in enumerate(images)}
    if len(place) < len(images):
        raise DataError(f"{where} has several images with the same id: give each image its own id")
    if lost := sorted({repr(row["image_id"]) for row in rows if row["image_id"] not in place}):
        raise DataError(f"{where} has annotations of images that it does not list, image_id {some(lost)}: "
                        f"list these images, or leave the annotations out")  # fmt: skip
    if unknown := sorted({repr(row["category_id"]) for row in rows if row["category_id"] not in numbers}):
        raise DataError(f"{where} has annotations of unknown classes, category_id {some(unknown)}: "
                        f"add them to its categories, or correct the annotations")  # fmt: skip
    objects: list[list[Annotation]] = [[] for _ in images]
    for row in rows:
        i = place[row["image_id"]]
        objects[i].append(_annotation(row, numbers[row["category_id"]], f"{where}, {printable(files[i])}"))
    sizes = [_size(image, f"{where}, {printable(file)}") for image, file in zip(images, files, strict=True)]
    paths = located(files, path.parent, root, name, where)
    return [
        Picture(path, own, size=size, id=image["id"])
        for path, own, size, image in zip(paths, objects, sizes, images, strict=True)
    ]


def _annotation(row: Record, label: int, where: str) -> Annotation:
    def odd(what: str, value: object, remedy: str = "correct it") -> DataError:
        return DataError(f"{where} has {what}: {shortened(value)}{_id(row)}; {remedy}")

    box, area, crowd = row.get("bbox"), row.get("area"), row.get("iscrowd")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise odd("an annotation whose bbox is not x, y, width and height", box, "correct it, or leave it out")
    if area is not None and not _is_number(area):
        raise odd("an annotation whose area is not a number", area)
    if crowd not in (None, 0, 1):
        raise odd("an annotation whose iscrowd is neither 0 nor 1", crowd)
    x, y, width, height = map(float, box)
    return Annotation(
        label,
        (x, y, x + width, y + height),
        bool(crowd),
        float(area) if area is not None and area > 0 else None,
        _mask(row.get("segmentation"), odd),
    )


def _mask(found: object, odd: Callable[[str, object, str], DataError]) -> Mask | None:
    match found:
        case None | []:
            return None
        case {"size": [int(height), int(width)], "counts": str() | list() as counts}:
            runs = run_lengths(counts) if isinstance(counts, str) else counts
            if runs is None or not all(type(run) is int and run >= 0 for run in runs):
                raise odd("a mask whose run lengths are not whole numbers from 0", counts, "write it again")
            if sum(runs) != height * width:
                raise odd("a mask whose run lengths do not add up to its size", counts, "write it again")
            return Rle(size=[height, width], counts=counts)
        case list() if all(isinstance(piece, list) and all(map(_is_number, piece)) for piece in found):
            if max((abs(value) for piece in found for value in piece), default=0) > FAR:
                raise odd(f"an outline that reaches beyond {FAR:,} pixels", found, "correct it")
            if uneven := [piece for piece in found if len(piece) % 2]:
                raise odd("an outline whose last point has no y", uneven[0], "correct it")
            return [piece for piece in found if len(piece) >= 6] or None
        case _:
            raise odd("a segmentation that is neither outlines nor run lengths", found, "write it again")


def _id(row: Record) -> str:
    """Which annotation of a file a message is about."""
    return f" (id {shortened(row['id'])})" if "id" in row else ""


def _size(image: Record, where: str) -> Size | None:
    sides = image.get("height"), image.get("width")
    if None in sides or 0 in sides:
        return None
    height, width = (int(side) if isinstance(side, float) and side.is_integer() else side for side in sides)
    if (
        not isinstance(height, int)
        or not isinstance(width, int)
        or not 0 < min(height, width) <= max(height, width) <= FAR
    ):
        raise DataError(
            f"{where} has a height or width that is not a positive number of pixels: {shortened(sides[0])} and "
            f"{shortened(sides[1])}; correct them, or leave them out"
        )
    return height, width


def _is_number(value: object) -> bool:
    """Whether a value is a number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _by_folder(made: list[Picture], found: Record) -> dict[str, list[Picture]] | None:
    """The images by the part that each one's own folder names; None unless all do."""
    names = [str(image["file_name"]).rpartition("/")[0].rpartition("/")[2] for image in found["images"]]
    if not names or not all(map(is_part_folder, names)):
        return None
    parts: dict[str, list[Picture]] = {}
    for name, one in zip(names, made, strict=True):
        parts.setdefault(name, []).append(one)
    return parts
