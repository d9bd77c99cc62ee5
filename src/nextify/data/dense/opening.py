"""``open_dense``: images for detection or segmentation, in whatever they lie."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nextify.data.checks import check, examine
from nextify.data.dense.annotations import (
    IGNORED,
    MOST_CLASSES,
    DenseImages,
    DenseSet,
    DenseTask,
    IndexMask,
    IndexMasks,
    Objects,
    SelectedMasks,
    Size,
)
from nextify.data.dense.checks import Findings, check_mask_size, check_sizes, checked_objects
from nextify.data.dense.coco import list_coco
from nextify.data.dense.found import Annotated, Picture, divided
from nextify.data.dense.index_masks import StoredMasks, class_table, indexed, list_masks, read_mask, unknown_values
from nextify.data.dense.scenes import Part, SceneMasks, SceneObjects, Scenes
from nextify.data.dense.voc import list_voc
from nextify.data.dense.yolo import in_pixels, list_yolo
from nextify.data.encoded import Files
from nextify.data.errors import DataError
from nextify.data.images import ImageSet
from nextify.data.opening import DECODED_LIMIT
from nextify.data.source import DENSE_KINDS as KINDS
from nextify.data.source import PREFIX, source_name
from nextify.data.sources.annotated import Format, format_of, not_coco
from nextify.data.sources.listing import Indices, Listing
from nextify.data.sources.parts import Splitting, Tested, count_classes
from nextify.system.text import plural, printable, some

VERSION = 1
"""Part of every fingerprint: raised when reading annotations changes."""


def recognize(source: str | Path) -> DenseTask | None:
    """What a source is annotated for, by its names and a look at one file; None for one of classification.

    Boxes make it detection, also where they come with instance masks; index masks make it segmentation.
    """
    if source == "scenes":
        return "detection"
    path = Path(source).expanduser()
    if not path.exists():
        return None
    found = format_of(path)
    return None if found is None else "segmentation" if found == "masks" else "detection"


def open_dense(
    source: str | Path,
    *,
    task: DenseTask | None = None,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    cache: str | Path | None = None,
    to_train: bool = True,
    tested: Tested | None = None,
    skip_unreadable: bool = False,
    ignore_index: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> DenseImages:
    """The images of a source with their annotations, checked.

    Args:
        source: ``scenes`` (``scenes.py``), or a path: a COCO JSON or a folder of them (``coco.py``), a folder of VOC's
            XML files (``voc.py``), a YOLO ``data.yaml`` or its folder (``yolo.py``), or a folder of images beside a
            folder of masks (``index_masks.py``).
        task: None is what ``recognize`` says; ``segmentation`` paints the outlines and run lengths of objects.
        test_fraction, split_seed, cache, to_train, tested, skip_unreadable, on_progress: as ``open_images`` has them.
        ignore_index: an index of the masks whose pixels neither train nor count, beside 255.

    Raises:
        DataError: what is wrong and what to do about it.
    """
    cache = None if cache is None else Path(cache)
    if ignore_index is not None and not 0 <= ignore_index <= IGNORED:
        raise DataError(f"ignore_index must be an index of the masks, from 0 to {IGNORED}, got {ignore_index}")
    if source == "scenes":
        if tested == "val":
            raise DataError("scenes has no val split: choose --split test, or leave it out")
        if ignore_index is not None:
            raise DataError("ignore_index is for index masks, and scenes has none: leave it out")
        return _scenes(task or "detection")
    path = _path(source)
    splitting = Splitting(test_fraction, split_seed, to_train, tested)
    found, recognized = _listed(path, splitting)
    task = task or recognized
    if ignore_index is not None and recognized != "segmentation":
        raise DataError(f"ignore_index is for index masks, and {found.where} has none: leave it out")
    if recognized == "segmentation" and task != recognized:
        raise DataError(f"{found.where} has index masks but no objects to detect: leave --task out")
    train, test, said = divided(found, splitting)
    pictures = [*found.train, *found.test]
    root = Path(os.path.commonpath([os.path.dirname(one.path) for one in pictures]))
    files = Files(root, [os.path.relpath(one.path, root).replace(os.sep, "/") for one in pictures])
    used = np.concatenate([train, test])
    records, unreadable = examine(files, used, cache, decode=skip_unreadable, on_progress=on_progress)
    sizes = [(records[i].header.height, records[i].header.width) if i in records else None
             for i in range(len(pictures))]  # fmt: skip
    check_sizes(files.names, [one.size for one in pictures], sizes)
    looked = _Looked(found, pictures, files.names, sizes, train, test)
    made = _index_masks(looked, ignore_index) if recognized == "segmentation" else _objects(looked)
    if recognized != task:
        made = _painted(made, looked)
    if task == "segmentation" and len(made.classes) > MOST_CLASSES:
        raise DataError(f"{found.where} has {len(made.classes):,} classes, but index masks hold at most "
                        f"{MOST_CLASSES}: merge some")  # fmt: skip
    images = check(
        Listing(
            ("image",),
            files,
            np.zeros(len(pictures), np.int64),
            train,
            test,
            (*found.notes, *said, *made.notes),
            left_out={**found.left_out, **made.left_out},
        ),
        name=source_name(str(source), tested),
        cache=cache,
        decoded_limit=DECODED_LIMIT,
        skip_unreadable=skip_unreadable,
        to_train=to_train,
        on_progress=on_progress,
        looked=(records, unreadable),
    )
    digest = hashlib.sha256(json.dumps([VERSION, task, made.classes, images.fingerprint]).encode())
    for i in used.tolist():
        digest.update(made.digest(i))
    return DenseImages(
        name=images.name,
        task=task,
        classes=made.classes,
        train=_set(images.train, made, task, looked),
        test=_set(images.test, made, task, looked),
        mirror_keeps_class=True,
        fingerprint=digest.hexdigest(),
        notes=images.notes,
        category_ids=found.category_ids if task == "detection" else (),
        ignore_index=ignore_index,
        warnings=(*made.warnings, *images.warnings),
        test_images_also_in_training=images.test_images_also_in_training,
        left_out=images.left_out,
    )


@dataclass(frozen=True)
class _Looked:
    """What a source holds, once its images were looked at: each has a number, counted over ``train`` and ``test``."""

    found: Annotated
    pictures: Sequence[Picture]
    names: Sequence[str]
    """Below the folder that holds all images."""
    sizes: Sequence[Size | None]
    """Of the images themselves; None for those that cannot be read."""
    train: Indices
    test: Indices

    @property
    def used(self) -> list[int]:
        return [*self.train.tolist(), *self.test.tolist()]


@dataclass(frozen=True)
class _Made:
    """Annotations that were checked, by the images' numbers."""

    classes: tuple[str, ...]
    notes: list[str]
    warnings: list[str]
    left_out: dict[str, list[str]]
    objects: dict[int, Objects] | None = None
    masks: IndexMasks | None = None
    digests: dict[int, bytes] = field(default_factory=dict)
    """Of index masks."""

    def digest(self, index: int) -> bytes:
        """What the fingerprint takes from an image's annotations."""
        if self.objects is None:
            return self.digests.get(index, b"")
        objects = self.objects.get(index)
        if objects is None:
            return b""
        arrays = objects.boxes.astype("<f4"), objects.labels.astype("<i8"), objects.crowd, objects.areas.astype("<f8")
        masks = b"" if objects.masks is None else json.dumps(objects.masks, sort_keys=True).encode()
        return b"".join(array.tobytes() for array in arrays) + masks


_LISTS: dict[Format, Callable[[Path, Splitting], Annotated]] = {
    "coco": list_coco,
    "voc": list_voc,
    "yolo": list_yolo,
    "masks": list_masks,
}


def _path(source: str | Path) -> Path:
    """Where the images of a source lie that has a path."""
    path = Path(source).expanduser()
    if source in ("digits", "cifar10") or (isinstance(source, str) and source.startswith(PREFIX)):
        raise DataError(f"{source} has labels but no boxes or masks: give {KINDS}")
    if not path.exists():
        raise DataError(f"no such folder or file: {printable(str(source))}; give {KINDS}")
    return path


def _listed(path: Path, splitting: Splitting) -> tuple[Annotated, DenseTask]:
    kind = format_of(path)
    if kind is None:
        said = not_coco(path) or f"{printable(str(path))} has no boxes or masks in a known format"
        raise DataError(f"{said}: give {KINDS}")
    return _LISTS[kind](path, splitting), "segmentation" if kind == "masks" else "detection"


def _set(images: ImageSet, made: _Made, task: DenseTask, looked: _Looked) -> DenseSet:
    names, number = images.names or (), {name: i for i, name in enumerate(looked.names)}
    chosen = [number[name] for name in names]
    objects = [made.objects[i] for i in chosen] if made.objects is not None and task == "detection" else None
    masks = None if made.masks is None else SelectedMasks(made.masks, chosen)
    sizes = np.array([looked.sizes[i] for i in chosen], np.int64).reshape(-1, 2)
    ids = [own for i in chosen if (own := looked.pictures[i].id) is not None]
    return DenseSet(task, images.store, sizes, names, objects, masks, ids=ids or None, digests=images.digests)


def _objects(looked: _Looked) -> _Made:
    found, train, test = looked.found, looked.train, looked.test
    findings, objects = Findings(), {}
    for i in looked.used:
        if (size := looked.sizes[i]) is not None:
            own = looked.pictures[i].objects
            own = [in_pixels(one, *size) for one in own] if found.shares else own
            objects[i] = checked_objects(own, size, looked.names[i], findings)
    classes = found.classes or ()
    counted = {i: one.labels[~one.crowd] for i, one in objects.items()}
    counts = [
        np.bincount(np.concatenate([[], *(counted[i] for i in part.tolist() if i in counted)]).astype(np.int64),
                    minlength=len(classes))
        for part in (train, test)
    ]  # fmt: skip
    notes, warnings = findings.notes(), [*found.warnings, *findings.warnings()]
    notes.append(f"{counts[0].sum():,} objects to train on and {counts[1].sum():,} to test on, of "
                 f"{plural(len(classes), 'class', 'classes')}.")  # fmt: skip
    if len(train) and not counts[0].sum():
        raise DataError(f"{found.where} has no objects to train on: annotate some images")
    if not counts[1].sum():
        raise DataError(f"{found.where} has no objects to test on: annotate some images to test on")
    if len(train) and (unknown := [classes[i] for i in np.flatnonzero((counts[1] > 0) & (counts[0] == 0))]):
        if (parts := found.parts).test is not None:
            raise DataError(f"{parts.shown(parts.test)} has {count_classes(unknown)} that "
                            f"{parts.shown(parts.train or '')} lacks: annotate some to train on")  # fmt: skip
        warnings.append(f"No training image has objects of {count_classes(unknown)}, only test images do.")
    if absent := [classes[i] for i in np.flatnonzero((counts[0] > 0) & (counts[1] == 0))]:
        notes.append(f"No test image has objects of {count_classes(absent)}: the metrics cover the other classes only.")
    if never := [classes[i] for i in np.flatnonzero(sum(counts) == 0)]:
        notes.append(f"No image has objects of {count_classes(never)}.")
    return _Made(classes, notes, warnings, findings.left_out(), objects)


def _painted(made: _Made, looked: _Looked) -> _Made:
    """Index masks painted of the masks of objects, smaller objects above larger ones, crowds as ignored."""
    masks, digests = {}, {}
    classes = tuple(dict.fromkeys(("background", *made.classes)))  # of which the source may have one of that name
    painted = np.array([classes.index(name) for name in made.classes])
    for i, objects in (made.objects or {}).items():
        size = looked.sizes[i]
        if size is None:
            continue
        if objects.masks is None:
            raise DataError(f"{looked.found.where} has objects with boxes but no outlines "
                            f"({printable(looked.names[i])}), which segmentation needs: annotate outlines, or train "
                            f"with --task detection")  # fmt: skip
        mask = np.zeros(size, np.uint8)
        for k in sorted(range(len(objects)), key=lambda k: (not objects.crowd[k], -objects.areas[k])):
            mask[objects.mask(k, *size)] = IGNORED if objects.crowd[k] else painted[objects.labels[k]]
        masks[i] = mask
        digests[i] = hashlib.sha256(mask.tobytes()).digest()
    notes = [*made.notes, "Masks are drawn from the objects' outlines, smaller objects over larger ones; the rest is "
             "background."]  # fmt: skip
    return _Made(classes, notes, made.warnings, made.left_out, None, masks, digests)


def _index_masks(looked: _Looked, ignored: int | None) -> _Made:
    found, train, test = looked.found, looked.train, looked.test
    paths = [one.mask for one in looked.pictures]
    present = np.zeros((len(paths), 256), bool)
    held: dict[int, IndexMask] = {}
    digests = {}
    size_of_all = 0
    for i in looked.used:
        values = read_mask(paths[i])
        if (size := looked.sizes[i]) is not None:
            check_mask_size(paths[i], (values.shape[0], values.shape[1]), size, looked.names[i])
        present[i] = np.bincount(values.reshape(-1), minlength=256) > 0
        digests[i] = hashlib.sha256(values.tobytes()).digest()
        size_of_all += values.nbytes
        if size_of_all <= DECODED_LIMIT:
            held[i] = values
    trained = np.logical_or.reduce(present[train if len(train) else test])
    classes, table, notes = class_table(np.logical_or.reduce(present), trained, found.classes, ignored)
    known = indexed(trained, ignored) if found.classes is None else len(found.classes)
    if odd := [(i, v) for i in looked.used for v in unknown_values(present[i], known, ignored)]:
        which = sorted({value for _, value in odd})
        count = plural(len({i for i, _ in odd}), "mask holds", "masks hold")
        told = some([f"{os.path.basename(paths[i])} ({value})" for i, value in odd])
        remedy = "name them in classes.txt" if found.classes is not None else "train on images of them"
        raise DataError(f"{count} indices outside the {known} classes (0 to {known - 1}): {told}; correct the masks, "
                        f"{remedy}, or ignore one with --ignore-index {which[0]}")  # fmt: skip
    counted = present[:, table != IGNORED]
    for part, purpose in ((train, "train"), (test, "test")):
        if len(part) and not counted[part].any():
            told = some([str(value) for value in np.flatnonzero(present[part].any(0))])
            raise DataError(f"all {plural(len(part), 'mask')} to {purpose} on hold only ignored pixels "
                            f"({told}): store the index of each pixel's class")  # fmt: skip
    warnings = []
    if len(train) and len(classes) < 2:
        warnings.append(f"The masks hold one class only ({some(classes)}), so there is nothing to tell apart.")
    if bare := [os.path.basename(paths[i]) for i in looked.used if not counted[i].any()]:
        warnings.append(f"{plural(len(bare), 'mask holds', 'masks hold')} only ignored pixels, so nothing is learned "
                        f"or measured from {'its image' if len(bare) == 1 else 'their images'}: "
                        f"{some(bare)}.")  # fmt: skip
    for part, purpose in ((train, "train"), (test, "test")):
        there = {*table[np.flatnonzero(present[part].any(0))].tolist()}
        if len(part) and (absent := [name for k, name in enumerate(classes) if k not in there]):
            notes.append(f"No mask to {purpose} on has pixels of {count_classes(absent)}.")
    masks: IndexMasks = StoredMasks(paths, table)
    if size_of_all <= DECODED_LIMIT:
        masks = {i: table[values] for i, values in held.items()}
    digests = {i: digest + table.tobytes() for i, digest in digests.items()}
    return _Made(classes, notes, warnings, {}, None, masks, digests)


def _scenes(task: DenseTask) -> DenseImages:
    digits = tuple(str(digit) for digit in range(10))
    classes = digits if task == "detection" else ("background", *digits)
    digest = hashlib.sha256(json.dumps([VERSION, "scenes", task, classes]).encode())

    def part(name: Part) -> DenseSet:
        store = Scenes(name)
        digest.update(store.load(0).tobytes())  # tells apart what other versions of Pillow might draw
        return DenseSet(
            task,
            store,
            np.tile(np.array(store.load(0).shape[:2], np.int64), (len(store), 1)),
            [f"{name}/{i:03}" for i in range(len(store))],
            SceneObjects(name) if task == "detection" else None,
            SceneMasks(name) if task == "segmentation" else None,
            has_masks=task == "detection",
        )

    train, test = part("train"), part("test")
    return DenseImages(
        name="scenes",
        task=task,
        classes=classes,
        train=train,
        test=test,
        mirror_keeps_class=False,
        fingerprint=digest.hexdigest(),
        notes=(f"{len(train):,} scenes to train and {len(test)} to test on, drawn from different handwritten digits.",),
        test_images_also_in_training=0,
    )
