"""YOLO's annotations: one text file per image, and a ``data.yaml`` with the parts and the class names.

A line is a class number, then the middle, width and height of a box as shares of the image's sides, or the corners of
an outline (https://docs.ultralytics.com/datasets/detect/). A labels file lies where the image does, with ``labels`` for
``images`` in its path, or beside the image. Without a file, or with an empty one, an image has no objects.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from nextify.data.dense.found import Annotated, Annotation, Picture, class_names, text_list
from nextify.data.errors import DataError, reading_of
from nextify.data.sources.annotated import Pair, pairs, yaml_of
from nextify.data.sources.folder import images_below, is_image
from nextify.data.sources.parts import Splitting, as_folder, choose_parts, natural
from nextify.system.text import plural, printable, shortened, some

MOST_UNNAMED = 1000
"""Classes that a set may have without naming them; more are a mistake in a label."""


def list_yolo(root: Path, splitting: Splitting) -> Annotated:
    """The images that a ``data.yaml`` names, or of ``images/`` beside ``labels/``. Boxes are shares of the image until
    its size is known (``in_pixels``). Raises ``DataError``."""
    where = printable(str(root))
    description, notes, keypoints = yaml_of(root), list[str](), 0
    if description is None and (unread := root / "data.yaml").is_file():
        description = unread  # which says what is wrong with it
    if description is None:
        folders = pairs(root, ".txt")
        named: dict[str, tuple[list[str], Pair | None]] = {
            name: ([str(pair.images / file) for file in images_below(pair.images)], pair)
            for name, pair in folders.items()
        }
        known = class_names([root, *{pair.annotations for pair in folders.values()}])
        classes = None if known is None else known[0]
    else:
        found = _read_yaml(description)
        classes = _names(found, printable(description.name))
        match found.get("kpt_shape"):
            case [int(points), int(numbers)]:
                keypoints = points * numbers
                notes.append("The objects have keypoints (kpt_shape), which are left out: only boxes are used.")
        named = {
            name: (_images(found[name], found.get("path"), description, name, notes), None)
            for name in ("train", "val", "test")
            if found.get(name)
        }
    parts = choose_parts(named, where, splitting, as_folder if description is None else _as_key)
    made = {name: _part(sorted(named[name][0], key=natural), named[name][1], where, keypoints) for name in parts.used}
    rows = [(picture.path, one) for part in made.values() for picture in part for one in picture.objects]
    largest = max((one.label for _, one in rows), default=0)
    if classes is None:
        if largest >= MOST_UNNAMED:
            raise DataError(f"{where} has objects of class {largest:,} but names no classes, in "
                            f"{_files(rows, MOST_UNNAMED)}: correct the number, or name the classes in data.yaml or "
                            f"classes.txt")  # fmt: skip
        classes = tuple(map(str, range(largest + 1)))
        notes.append("There is no data.yaml and no classes.txt: classes are named by their numbers.")
    elif largest >= len(classes):
        raise DataError(f"{where} names {len(classes)} classes but has objects of class {largest} (the first is 0), "
                        f"in {_files(rows, len(classes))}: name the class, or correct the labels")  # fmt: skip
    scored = list(dict.fromkeys(os.path.basename(path) for path, one in rows if one.scored))
    return Annotated(
        where=where,
        parts=parts,
        made=made,
        classes=classes,
        shares=True,
        notes=notes,
        warnings=[
            f"The labels of {plural(len(scored), 'image')} have a sixth number, such as a network's score: it is "
            f"ignored, and every box counts as true ({some(scored)})."
        ]
        if scored
        else [],
    )


def _files(rows: Sequence[tuple[str, Annotation]], first: int) -> str:
    """The files with objects of class ``first`` or above."""
    return some(list(dict.fromkeys(os.path.basename(path) for path, one in rows if one.label >= first)))


def in_pixels(one: Annotation, height: int, width: int) -> Annotation:
    """An annotation in shares of its image in pixels."""
    x1, y1, x2, y2 = one.box
    mask = one.mask
    if isinstance(mask, list):
        mask = [[value * (height if i % 2 else width) for i, value in enumerate(piece)] for piece in mask]
    return one._replace(box=(x1 * width, y1 * height, x2 * width, y2 * height), mask=mask)


def _as_key(name: str) -> str:
    return f"{name}: of data.yaml"


def _read_yaml(path: Path) -> dict[str, object]:
    import yaml

    with reading_of(path):
        data = path.read_bytes()
    try:
        found = yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise DataError(
            f"{printable(str(path))} is not valid YAML ({str(error).partition(chr(10))[0]}): correct it"
        ) from None
    if not isinstance(found, dict):
        raise DataError(f"{printable(str(path))} has no names and splits, which a data.yaml needs: add them")
    return found


def _names(found: dict[str, object], where: str) -> tuple[str, ...]:
    names = found.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names or len({*map(str, names)}) < len(names):
        raise DataError(f"{where} needs names: a list of different names, or a mapping of numbers from 0 to names; "
                        f"got {shortened(names)}")  # fmt: skip
    if isinstance(count := found.get("nc"), int) and count != len(names):
        raise DataError(f"{where} says nc: {count} and names {len(names)} classes: correct one of them")
    return tuple(map(str, names))


def _images(value: object, base: object, description: Path, part: str, notes: list[str]) -> list[str]:
    """The image files of a part: those in a folder, or that a list names; or in several of them."""
    where = printable(description.name)
    found: list[str] = []
    for one in value if isinstance(value, list) else [value]:
        start, inner = _resolved(str(one), base, description)
        if start is None:
            raise DataError(f"{where} says {part}: {printable(str(one))}, which does not exist: correct the path (it "
                            f"is relative to path:, or to {where})")  # fmt: skip
        if (said := _said_of_base(base, start, description)) and said not in notes:
            notes.append(said)
        path = start / inner
        if path.is_dir():
            found += [str(path / file) for file in images_below(path)]
        else:
            lines = [Path(line) for line in text_list(path)]
            found += [os.path.normpath(line if line.is_absolute() else path.parent / line) for line in lines]
    return found


def _said_of_base(base: object, start: Path, description: Path) -> str:
    """What to say where ``path:`` is not where the images are, or is outside the set; else empty."""
    here = description.parent.resolve()
    said = f"{printable(description.name)} says path: {printable(str(base))}"
    if not base or (here / str(base)).resolve() == here:
        return ""
    if start.resolve() == here:
        return f"{said}, but its images are not there: those next to the file are used."
    outside = not start.resolve().is_relative_to(here)
    return f"{said}: its images are those in {printable(str(start.resolve()))}." if outside else ""


def _resolved(value: str, base: object, description: Path) -> tuple[Path | None, str]:
    """The folder in which a path of a data.yaml lies, and the path in it; Roboflow's begin with ``../`` where they mean
    the file's own folder."""
    here = description.parent
    plain = value
    while plain.startswith("../"):
        plain = plain.removeprefix("../")
    starts = [here / str(base), Path(str(base)), here] if base else [here]
    return next(((start, v) for v in (value, plain) for start in starts if (start / v).exists()), (None, value))


def _part(images: Sequence[str], pair: Pair | None, where: str, keypoints: int) -> list[Picture]:
    part = []
    for image in filter(is_image, images):
        path = _labels_of(Path(image), pair)
        part.append(Picture(os.path.abspath(image), () if path is None else _read(path, keypoints)))
    if not any(picture.objects for picture in part):
        raise DataError(f"{where} has no objects in its labels, which are .txt files in labels/, next to images/")
    return part


def _labels_of(image: Path, pair: Pair | None) -> Path | None:
    places = []
    if pair is not None:
        inner = image.with_suffix(".txt").relative_to(os.path.abspath(pair.images))
        places = [pair.annotations / inner, pair.annotations / inner.name]
    head, found, tail = str(image.with_suffix(".txt")).rpartition("/images/")
    places += [Path(f"{head}/labels/{tail}")] if found else []
    return next((path for path in (*places, image.with_suffix(".txt")) if path.is_file()), None)


def _read(path: Path, keypoints: int) -> list[Annotation]:
    """The objects of a labels file; ``keypoints``: numbers of them that follow each box."""
    objects = []
    for number, line in enumerate(text_list(path), 1):
        where = f"{printable(path.name)}, line {number}"
        try:
            values = [float(text) for text in line.split()]
        except ValueError:
            values = []
        if len(values) == 5 + keypoints:
            del values[5:]
        if len(values) not in (5, 6) and (len(values) < 7 or not len(values) % 2):
            raise DataError(f"{where}: {shortened(line)} is neither a class and a box of four numbers nor a class and "
                            f"the corners of an outline: correct it")  # fmt: skip
        if not all(map(math.isfinite, values)) or values[0] != int(values[0]) or not 0 <= values[0] < 2**31:
            raise DataError(
                f"{where}: {shortened(line)} must begin with a class number from 0 and hold finite numbers: correct it"
            )
        shares = values[1:5] if len(values) == 6 else values[1:]
        if max(shares) > 2 or min(shares) < -1:
            raise DataError(f"{where}: {shortened(line)} is not in fractions of the image's sides, from 0 to 1: "
                            f"divide pixels by its width and height")  # fmt: skip
        if len(values) <= 6:
            x, y, width, height = shares
            box = x - width / 2, y - height / 2, x + width / 2, y + height / 2
            objects.append(Annotation(int(values[0]), box, scored=len(values) == 6))
        else:
            xs, ys = values[1::2], values[2::2]
            objects.append(Annotation(int(values[0]), (min(xs), min(ys), max(xs), max(ys)), mask=[values[1:]]))
    return objects
