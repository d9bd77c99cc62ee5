"""Find objects or regions in images: files, folders, patterns and images in memory; and write them down.

Boxes are in pixels of the upright image, ``x1, y1, x2, y2`` with the far edges exclusive. COCO's files have x, y, width
and height instead, and the category ids of the COCO annotations that the network was trained on; images, and classes of
other trainings, count from 1. YOLO's have the centre and the sides as shares of the image.
"""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nextify.data.decode import Pixels, decode, from_memory
from nextify.data.dense.annotations import Id, IndexMask, mask_api
from nextify.data.encoded import read_file
from nextify.evaluation.dense_pictures import Thing, class_color, drawn, part_of, regions_drawn
from nextify.evaluation.finder import BATCH, Finder
from nextify.evaluation.predict import Source, opened, without_own
from nextify.system.files import UnusableFolder, write_bytes_atomic, write_json_atomic, write_text_atomic
from nextify.system.text import as_csv, valid_unicode
from nextify.tasks.average_precision import Rle
from nextify.tasks.restoring import FoundObjects

LEAST_SCORE = 0.3
OBJECT_COLUMNS = ("path", "class", "index", "score", "x1", "y1", "x2", "y2")
REGION_COLUMNS = ("path", "class", "index", "share")


@dataclass(frozen=True)
class FoundObject:
    """One object of an image."""

    name: str
    index: int
    """Of its class, from 0."""
    score: float
    box: tuple[float, float, float, float]
    mask: Rle | None = None
    """COCO's compressed run lengths, its counts as text; None from a network that finds boxes only."""


@dataclass(frozen=True)
class FoundRegion:
    """All pixels of one class."""

    name: str
    index: int
    share: float
    """Of the image's pixels, 0 to 1."""


@dataclass(frozen=True, eq=False)
class DensePrediction:
    """What was found in one image, or why nothing could be."""

    path: str
    """The image's path; ``image 2`` if the third source is an image in memory."""
    height: int = 0
    width: int = 0
    objects: tuple[FoundObject, ...] = ()
    """The surest first; of a detector."""
    regions: tuple[FoundRegion, ...] = ()
    """The largest first; of a segmenter."""
    error: str = ""
    pixels: Pixels | None = None
    """``(H, W, 3)``; None on an error."""
    labels: IndexMask | None = None
    """``(H, W)`` uint8: the class of each pixel; of a segmenter."""

    def to_dict(self) -> dict[str, object]:
        """Plain data, without the arrays."""
        if self.error:
            return {"path": self.path, "error": self.error}
        stated: dict[str, object] = {"path": self.path, "height": self.height, "width": self.width, "error": None}
        if self.regions:  # a segmenter leaves no image without
            return stated | {"regions": [asdict(one) for one in self.regions]}
        return stated | {"objects": [asdict(one) for one in self.objects]}


def find(
    finder: Finder, sources: Source | Iterable[Source], *, least_score: float = LEAST_SCORE
) -> Iterator[DensePrediction]:
    """Yield a prediction for each image of ``sources``, in order, of objects that score at least ``least_score``; see
    ``nextify.evaluation.predict.expand`` for paths. Raises ``ValueError`` for a score outside 0 to 1, and ``TypeError``
    for a source that is neither a path nor an image."""
    if not 0 <= least_score <= 1:
        raise ValueError(f"least_score must be from 0 to 1, got {least_score:g}")
    entries = (
        replace(read, path=path) if read else DensePrediction(path, error=error)
        for path, read, error in opened(sources, _read)
    )
    while batch := list(islice(entries, BATCH)):
        found = finder((entry.pixels for entry in batch if entry.pixels is not None), least_score)
        for entry in batch:
            yield entry if entry.pixels is None else named(entry, next(found), finder.about.classes)


def _read(image: Source) -> DensePrediction:
    pixels = decode(read_file(image)) if isinstance(image, str | os.PathLike) else from_memory(image)
    height, width = pixels.shape[:2]
    return DensePrediction("", height, width, pixels=pixels)


def named(entry: DensePrediction, found: FoundObjects | IndexMask, classes: Sequence[str]) -> DensePrediction:
    """What a ``Finder`` found in the image of ``entry``, in words."""
    where = (entry.path, entry.height, entry.width)
    if not isinstance(found, FoundObjects):
        counts = np.bincount(found.reshape(-1), minlength=len(classes))
        order = [i for i in np.argsort(-counts, kind="stable").tolist() if counts[i]]
        regions = tuple(FoundRegion(classes[i], i, float(counts[i] / found.size)) for i in order)
        return DensePrediction(*where, regions=regions, pixels=entry.pixels, labels=found)
    return DensePrediction(*where, objects=named_objects(found, classes), pixels=entry.pixels)


def named_objects(found: FoundObjects, classes: Sequence[str]) -> tuple[FoundObject, ...]:
    """The objects of an image by name, the surest first."""
    objects = []
    for i in np.argsort(-found.scores, kind="stable").tolist():
        label, mask = int(found.labels[i]), None if found.masks is None else _as_text(found.masks[i])
        x1, y1, x2, y2 = map(float, found.boxes[i])
        objects.append(FoundObject(classes[label], label, float(found.scores[i]), (x1, y1, x2, y2), mask))
    return tuple(objects)


def _as_text(mask: Rle) -> Rle:
    counts = mask["counts"]
    return {"size": list(mask["size"]), "counts": counts.decode() if isinstance(counts, bytes) else counts}


def picture(found: DensePrediction, classes: Sequence[str]) -> bytes:
    """A copy of the image with what was found drawn on it, as PNG; the prediction must have its pixels."""
    assert found.pixels is not None
    if found.labels is not None:
        return regions_drawn(found.pixels, found.labels, classes)
    things = [
        Thing(
            *(np.array(one.box), one.index, f"{one.name} {100 * one.score:.0f} %"),
            mask=None if one.mask is None else part_of(mask_api().decode(one.mask).view(bool)),
        )
        for one in reversed(found.objects)  # the surest on top
    ]
    return drawn(found.pixels, things)


def csv_text(predictions: Iterable[DensePrediction], task: str) -> str:
    """CSV with ``OBJECT_COLUMNS`` or ``REGION_COLUMNS``, one line per object or per image and class."""
    rows: list[tuple[object, ...]] = []
    for found in predictions:
        path = valid_unicode(found.path)
        rows += [(path, one.name, one.index, *map(repr, (one.score, *one.box))) for one in found.objects]
        rows += [(path, region.name, region.index, repr(region.share)) for region in found.regions]
    return as_csv(OBJECT_COLUMNS if task == "detection" else REGION_COLUMNS, rows)


class DenseFolder:
    """The files of ``nextify predict --out``: one prediction at a time, and the lists of all at the end.

    ``drawn/`` holds a copy of each image with what was found. Of a detector, ``coco/results.json`` holds COCO's list of
    results and ``coco/images.json`` the images and classes that its numbers stand for; ``yolo/`` one text per image. Of
    a segmenter, ``masks/`` holds an index mask per image, as PNG with a palette.
    """

    def __init__(self, out: Path, finder: Finder) -> None:
        """Raises ``UnusableFolder`` for a folder whose files of these names are not of an earlier prediction, such as a
        data set with its ``masks/``."""
        self.out, self.about = out, finder.about
        self._categories = self.about.category_ids or tuple(range(1, self.about.num_classes + 1))
        self._names, self._stems = set[str](), set[str]()  # names that are given, and the images' own
        self._images: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []
        parts = ("drawn", "coco", "yolo") if self.about.task == "detection" else ("drawn", "masks")
        if not (out / "drawn").exists() and (foreign := [out / part for part in parts if (out / part).exists()]):
            raise UnusableFolder(f"{foreign[0]} was not written by nextify predict: choose another --out")
        for part in parts:
            (out / part).mkdir(parents=True, exist_ok=True)

    def without_own(self, sources: Iterable[str]) -> list[str]:
        """The paths of all images of ``sources``, without the pictures of an earlier run that lie below them."""
        found = without_own(sources, (self.out / part for part in ("drawn", "masks")))
        self._stems = {Path(path).stem.lower() for path in found}
        return found

    def add(self, found: DensePrediction) -> None:
        """Write one image's files. Raises ``OSError``."""
        name = self._free(Path(found.path).stem)
        write_bytes_atomic(self.out / "drawn" / f"{name}.png", picture(found, self.about.classes))
        if found.labels is not None:
            write_bytes_atomic(self.out / "masks" / f"{name}.png", index_png(found.labels))
            return
        write_text_atomic(self.out / "yolo" / f"{name}.txt", yolo_text(found))
        number = len(self._images) + 1
        path = valid_unicode(found.path)
        self._images.append({"id": number, "file_name": path, "height": found.height, "width": found.width})
        self._results += coco_results(found.objects, number, self._categories)

    def finish(self) -> None:
        """Write the lists of all images. Raises ``OSError``."""
        if self.about.task == "detection":
            both = zip(self._categories, self.about.classes, strict=True)
            categories = [{"id": i, "name": name} for i, name in both]
            # pycocotools before 2.0.11 wants "info".
            content = {"info": {}, "images": self._images, "categories": categories, "annotations": []}
            write_json_atomic(self.out / "coco" / "images.json", content)
            write_json_atomic(self.out / "coco" / "results.json", self._results)

    def _free(self, stem: str) -> str:
        """A name of its own for each image: images of several folders may be called alike. It is not another's own."""
        numbered = (f"{stem}-{i}" for i in count(2))
        names = chain([stem], (name for name in numbered if name.lower() not in self._stems))
        name = next(name for name in names if name.lower() not in self._names)
        self._names.add(name.lower())
        return name


def coco_results(objects: Iterable[FoundObject], image: Id, categories: Sequence[Id | None]) -> list[dict[str, object]]:
    """COCO's results of one image, whose id is ``image``. ``categories``: the id of each class; objects of classes
    without one are left out."""
    results: list[dict[str, object]] = []
    for one in objects:
        category = categories[one.index]
        if category is None:
            continue
        x1, y1, x2, y2 = one.box
        entry: dict[str, object] = {
            "image_id": image,
            "category_id": category,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": one.score,
        }
        results.append(entry if one.mask is None else entry | {"segmentation": one.mask})
    return results


def yolo_text(found: DensePrediction) -> str:
    """One line per object: class, centre x and y, width and height as shares of the image, score."""
    lines = []
    for one in found.objects:
        x1, y1, x2, y2 = one.box
        centre = (x1 + x2) / 2 / found.width, (y1 + y2) / 2 / found.height
        shares = (*centre, (x2 - x1) / found.width, (y2 - y1) / found.height, one.score)
        lines.append(f"{one.index} {' '.join(f'{share:.6f}' for share in shares)}\n")
    return "".join(lines)


def index_png(labels: IndexMask) -> bytes:
    """An index mask ``(H, W)`` as PNG, its palette the classes' colours."""
    image = Image.fromarray(labels)
    image.putpalette([round(255 * value) for label in range(256) for value in class_color(label)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
