"""A network for boxes or masks on a set of images: the figures, and the pictures of them.

Figures are in pixels of the original images: what the network finds on its canvas is taken back to them first. Classes
are matched by name, as in classification.
"""

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nextify.data import DataError
from nextify.data.dense.annotations import IGNORED, DenseImages, DenseSet, Id, IndexMask
from nextify.evaluation.dense_intervals import DRAWS, Interval, ap_intervals, miou_intervals
from nextify.evaluation.dense_metrics import SAME_OBJECT, best_score, matched, object_confusion, outcome
from nextify.evaluation.dense_pictures import (
    Regions,
    Shown,
    classes_picture,
    precision_recall_picture,
    prediction_sheet,
)
from nextify.evaluation.dense_predict import coco_results, named_objects
from nextify.evaluation.evaluate import (
    Measurement,
    Part,
    begin_evaluation,
    measurement,
    own_run,
    part_of,
    place_classes,
    sparse,
    write_evaluation,
)
from nextify.evaluation.finder import Finder
from nextify.evaluation.identity import digest
from nextify.evaluation.pictures import heading, matrix_picture
from nextify.system import processes
from nextify.system.text import plural
from nextify.tasks.average_precision import ClassPrecision, Observation, average_precision
from nextify.tasks.classification import Inference
from nextify.tasks.metric_specs import BOXES, MASKS, REGIONS, MetricSpec
from nextify.tasks.restoring import FoundObjects
from nextify.tasks.segmentation_metrics import SegmentationMetrics, by_class, pixel_confusion

COCO_RESULTS = "coco-results.json"
WORST_IMAGES = 12
CURVES = (0.5, 0.75, 0.9)
"""IoU thresholds whose precision-recall curves are kept."""
Progress = Callable[[int, int], None]
"""Called with the images done so far and their number."""


@dataclass(frozen=True)
class Curve:
    """Precision at the recalls 0, 0.01, …, 1."""

    iou: float
    name: str | None
    """The class; None for the mean of the classes that have objects."""
    precision: tuple[float, ...]
    """101 values, 0 to 1."""


@dataclass(frozen=True)
class WorstObjects:
    """An image with a low F1 at ``least_score``."""

    name: str
    f1: float
    """0 to 1."""
    right: int
    wrong_class: int
    false: int
    missed: int


@dataclass(frozen=True)
class _DenseEvaluation(Measurement):
    """What both kinds of networks are described by."""

    metrics: Mapping[str, float]
    """Percent, by the keys of the task's ``metric_specs``, over all images."""
    intervals: Mapping[str, Interval]
    """95 % intervals of some of them over the images, percent (``dense_intervals.py``)."""
    confusion: tuple[tuple[int, ...], ...]
    """Row the true class, column the found one: pixels, or objects at IoU 0.5 with the background last."""

    def to_dict(self) -> dict[str, object]:
        """Plain data; ``confusion`` as in ``Evaluation.to_dict``, the background's index being the last."""
        return {**asdict(self), "confusion": sparse(self.confusion), "bootstrap_draws": DRAWS}


@dataclass(frozen=True)
class DetectionEvaluation(_DenseEvaluation):
    """What a detector gives on a set of images: AP also by the sizes that objects have, and of masks where there are
    any; intervals of ``ap`` and ``ap50``."""

    objects: int
    """Without crowd regions."""
    classes: tuple[ClassPrecision, ...]
    curves: tuple[Curve, ...]
    least_score: float
    """The score of the highest F1, which confusion, worst images and pictures are made at."""
    f1: float
    """0 to 1; over all objects, at ``least_score`` and IoU 0.5."""
    worst: tuple[WorstObjects, ...]
    category_ids: tuple[Id | None, ...] = ()
    """COCO's id of each class, None of one that the images' annotations do not have; empty where they are not COCO's,
    or several files of COCO's give two images the same id."""
    task: str = "detection"

    @property
    def files(self) -> tuple[str, ...]:
        """Names of what ``evaluate_dense`` leaves; COCO's results only where the images' annotations are COCO's, and
        worst.png only where anything is wrong."""
        results, worst = [COCO_RESULTS] * bool(self.category_ids), ["worst.png"] * bool(self.worst)
        return ("evaluation.json", *results, "curves.png", "classes.png", "confusion.png", *worst)

    @property
    def metric_specs(self) -> tuple[MetricSpec, ...]:
        return BOXES + MASKS if "mask_ap" in self.metrics else BOXES


@dataclass(frozen=True)
class ClassIou:
    """One class; percent."""

    name: str
    pixels: int
    """True ones."""
    iou: float | None
    """None for a class that neither is nor was found anywhere."""
    recall: float | None
    """Share of its pixels that were found to be of it; None without pixels."""
    precision: float | None
    """Share of the pixels found to be of it that are; None where there are none."""


@dataclass(frozen=True)
class WorstRegions:
    """An image with a low mean IoU."""

    name: str
    miou: float
    """Percent, over the classes that occur in the image or were found in it."""
    pixel_accuracy: float


@dataclass(frozen=True)
class SegmentationEvaluation(_DenseEvaluation):
    """What a segmenter gives on a set of images, over all their pixels; an interval of ``miou``."""

    classes: tuple[ClassIou, ...]
    worst: tuple[WorstRegions, ...]
    task: str = "segmentation"

    @property
    def files(self) -> tuple[str, ...]:
        """Names of what ``evaluate_dense`` leaves; worst.png only where anything is wrong."""
        return ("evaluation.json", "classes.png", "confusion.png", *["worst.png"] * bool(self.worst))

    @property
    def metric_specs(self) -> tuple[MetricSpec, ...]:
        return REGIONS


def evaluate_dense(
    finder: Finder,
    images: DenseImages,
    *,
    part: Part = "test",
    notes: Sequence[str] = (),
    out: str | Path | None = None,
    on_progress: Progress = lambda done, count: None,
) -> DetectionEvaluation | SegmentationEvaluation:
    """Evaluate a network for boxes or masks on images.

    Of several processes each takes its run of the images, and all get the whole; every process must call this.

    Args:
        part: the images' test part, their training part, or both.
        out: a folder for evaluation.json and the result's other ``files``.

    Raises:
        DataError: images for another task, or with classes that the network does not know.
        ValueError: nothing to measure on, such as images without objects.
        UnusableFolder: ``out`` holds another evaluation.
    """
    out = None if out is None else Path(out)
    about = finder.about
    if about.task != images.task:
        raise DataError(f"the bundle is for {about.task}, and {images.name} was opened for {images.task}")
    notes = list(notes)
    where = "classes of the annotations"
    if about.task == "segmentation":
        where += ", give the --ignore-index that nextify train had"
    then = "AP is over the other classes" if about.task == "detection" else "pixels taken for them count as wrong"
    places = place_classes(about.classes, images.name, images.classes, notes, where, then)
    if None not in (about.ignore_index, images.ignore_index) and about.ignore_index != images.ignore_index:
        notes.append(
            f"The network was trained with index {about.ignore_index} of the masks ignored, but here index "
            f"{images.ignore_index} is."
        )
    weights = digest(finder.model) if isinstance(finder.model, nn.Module) else finder.runtime
    prepared = [about.classes, about.canvas, about.mean, about.std, finder.bf16]
    asked = begin_evaluation(out, [weights, finder.name, prepared, images.fingerprint, images.ignore_index, part])
    data, sets = part_of(images, part)
    chosen = [(some, i) for some in sets for i in range(len(some))]
    head = measurement(finder.name, data, len(chosen), finder.device, Inference(finder.bf16), notes, asked)
    if about.task == "detection":
        head["category_ids"] = _category_ids(finder, images, chosen, places)
    measure = _objects if about.task == "detection" else _regions
    found, contents = measure(finder, chosen, places, head, on_progress)
    if out is not None and processes.is_first():
        write_evaluation(out, found.to_dict(), contents())
    return found


def figures(found: DetectionEvaluation | SegmentationEvaluation) -> str:
    """Such as ``AP 31.52 % (28.90 to 34.21), AP50 …``, the intervals in parentheses."""
    texts = []
    for spec in found.metric_specs:
        interval = found.intervals.get(spec.key)
        between = "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
        texts.append(f"{spec.text(found.metrics[spec.key])}{between}")
    return ", ".join(texts)


Chosen = Sequence[tuple[DenseSet, int]]
Places = npt.NDArray[np.int64]
Files = Callable[[], dict[str, bytes]]
"""Makes the pictures and COCO's results, by the names of their files."""


def _category_ids(finder: Finder, images: DenseImages, chosen: Chosen, places: Places) -> tuple[Id | None, ...]:
    """As ``DetectionEvaluation`` has them."""
    image_ids = {some.ids[k] for some, k in chosen if some.ids is not None}
    if not images.category_ids or len(image_ids) < len(chosen):
        return ()
    known = dict(zip(places.tolist(), images.category_ids, strict=True))
    return tuple(known.get(label) for label in range(len(finder.about.classes)))


def _coco_results(seen: Sequence[Observation], chosen: Chosen, found: DetectionEvaluation) -> bytes:
    """What was found, as COCO's JSON of results with the ids of the images' annotations."""
    names = [row.name for row in found.classes]
    rows: list[dict[str, object]] = []
    for one in seen:
        some, k = chosen[one.image]
        assert some.ids is not None
        objects = named_objects(FoundObjects(one.boxes, one.scores, one.labels.astype(np.int64), one.masks), names)
        rows += coco_results(objects, some.ids[k], found.category_ids)
    return json.dumps(rows).encode()


def _found(
    finder: Finder, chosen: Chosen, numbers: Sequence[int], on_progress: Progress = lambda done, count: None
) -> Iterator[tuple[int, FoundObjects | IndexMask]]:
    """What is found in the chosen images of these ``numbers``, each with its number."""
    images = (some.load(k) for some, k in (chosen[i] for i in numbers))
    for done, (i, found) in enumerate(zip(numbers, finder(images), strict=True), 1):
        yield i, found
        on_progress(done, len(numbers))


def _objects(
    finder: Finder, chosen: Chosen, places: Places, head: dict[str, Any], on_progress: Progress
) -> tuple[DetectionEvaluation, Files]:
    names, mine = finder.about.classes, []
    for i, found in _found(finder, chosen, own_run(len(chosen)), on_progress):
        assert isinstance(found, FoundObjects)
        some, k = chosen[i]
        truth = some.objects(k)
        height, width = some.sizes[k].tolist()
        mine.append(Observation(i, height, width, *found, replace(truth, labels=places[truth.labels])))
    seen = [observation for part in processes.gathered(mine) for observation in part]
    measured = average_precision(seen, names)
    takes = [matched(observation) for observation in seen]
    least_score, f1 = best_score(seen, takes)
    outcomes = [outcome(observation, taken, least_score) for observation, taken in zip(seen, takes, strict=True)]
    confusion = object_confusion(seen, outcomes, len(names))
    ranked = sorted(range(len(seen)), key=lambda i: (outcomes[i].f1, -len(outcomes[i].missed) - len(outcomes[i].false)))
    worst = [i for i in ranked[:WORST_IMAGES] if outcomes[i].f1 < 1]
    precision = measured.boxes
    classes = [None, *range(len(names))]
    curves = [(iou, k, precision.curve(iou, k)) for iou in CURVES for k in (classes if iou == SAME_OBJECT else [None])]
    result = DetectionEvaluation(
        **head,
        objects=sum(measured.objects),
        metrics=measured.values(),
        intervals=ap_intervals(seen, len(names)),
        classes=measured.per_class,
        curves=tuple(
            Curve(iou, None if k is None else names[k], curve) for iou, k, curve in curves if curve is not None
        ),
        least_score=least_score,
        f1=f1,
        confusion=tuple(map(tuple, confusion.tolist())),
        worst=tuple(
            WorstObjects(chosen[i][0].name(chosen[i][1]), outcomes[i].f1, *map(len, outcomes[i])) for i in worst
        ),
    )

    def draw() -> dict[str, bytes]:
        shown = [Shown(some.name(k), some.load(k), seen[i]) for i, (some, k) in ((i, chosen[i]) for i in worst)]
        title = heading(result)
        background = (*names, "background")
        words = f"{title}\nobjects at IoU {SAME_OBJECT:g} with a score of at least {least_score:.2f}"
        contents = {
            "curves.png": precision_recall_picture(precision, names, title),
            "classes.png": _class_bars(result),
            "confusion.png": matrix_picture(
                confusion, background, words, "found class", "share of the true class's objects"
            ),
        }
        if worst:
            contents["worst.png"] = prediction_sheet(shown, names, f"{title}: the lowest F1", least_score)
        if result.category_ids:
            contents[COCO_RESULTS] = _coco_results(seen, chosen, result)
        return contents

    return result, draw


def _regions(
    finder: Finder, chosen: Chosen, places: Places, head: dict[str, Any], on_progress: Progress
) -> tuple[SegmentationEvaluation, Files]:
    names = finder.about.classes
    number = len(names)
    known = np.full(IGNORED + 1, IGNORED, np.uint8)
    known[: len(places)] = places
    total, mine = np.zeros((number, number), np.int64), []
    for i, found in _found(finder, chosen, own_run(len(chosen)), on_progress):
        assert not isinstance(found, FoundObjects)
        some, k = chosen[i]
        counts = pixel_confusion(torch.from_numpy(found), torch.from_numpy(known[some.mask(k)]), number)
        total += counts
        alone = SegmentationMetrics.of(counts, 1) if counts.any() else None
        shares = (alone.miou, alone.pixel_accuracy) if alone is not None else (100.0, 100.0)
        mine.append((i, *shares, by_class(counts)))
    parts = processes.gathered((total, mine))
    total = sum((counts for counts, _ in parts), np.zeros((number, number), np.int64))
    measured = SegmentationMetrics.of(total, len(chosen))
    rows = [row for _, of_part in parts for row in of_part]
    ranked = sorted(rows, key=lambda row: row[1:3])
    worst = [row for row in ranked[:WORST_IMAGES] if row[2] < 100]
    true, guessed, right = total.sum(1).tolist(), total.sum(0).tolist(), total.diagonal().tolist()
    result = SegmentationEvaluation(
        **head,
        metrics=measured.values(),
        intervals=miou_intervals(np.stack([row[3] for row in rows])),
        classes=tuple(
            ClassIou(
                *(name, true[k], measured.iou[k]),
                recall=100 * right[k] / true[k] if true[k] else None,
                precision=100 * right[k] / guessed[k] if guessed[k] else None,
            )
            for k, name in enumerate(names)
        ),
        confusion=tuple(map(tuple, total.tolist())),
        worst=tuple(WorstRegions(chosen[i][0].name(chosen[i][1]), *shares) for i, *shares, _ in worst),
    )

    def draw() -> dict[str, bytes]:
        title, shown = heading(result), []
        for i, found in _found(finder, chosen, [i for i, *_ in worst[: WORST_IMAGES // 2]]):
            assert not isinstance(found, FoundObjects)
            some, k = chosen[i]
            shown.append(Shown(some.name(k), some.load(k), Regions(found, known[some.mask(k)])))
        words = f"{title}\n{figures(result)}"
        pictures = {
            "classes.png": _class_bars(result),
            "confusion.png": matrix_picture(
                total, names, words, "found class", "share of the true class's pixels, %", percent=True
            ),
        }
        if shown:
            pictures["worst.png"] = prediction_sheet(shown, names, f"{title}: the lowest mIoU")
        return pictures

    return result, draw


def _class_bars(found: DetectionEvaluation | SegmentationEvaluation) -> bytes:
    if isinstance(found, SegmentationEvaluation):
        pixels = max(1, sum(row.pixels for row in found.classes))
        ious = [(row.name, f"{100 * row.pixels / pixels:.1f} % of the pixels", (row.iou,)) for row in found.classes]
        return classes_picture(ious, ("IoU",), f"{heading(found)}: IoU\n{textwrap.fill(figures(found), 70)}")
    with_masks = "mask_ap" in found.metrics
    rows = [
        (row.name, plural(row.objects, "object"), (row.ap, row.ap50, row.mask_ap)[: 2 + with_masks])
        for row in found.classes
    ]
    return classes_picture(
        rows, ("AP", "AP50", "mask AP")[: 2 + with_masks], f"{heading(found)}\n{textwrap.fill(figures(found), 70)}"
    )
