"""Average precision of boxes and instance masks as COCO defines it (Lin et al. 2014), by faster-coco-eval.

A found object is right if its class is, and its IoU with a true object that no surer one has taken reaches a threshold.
AP is the mean precision at 101 recalls, averaged over the classes that have objects and over the IoU thresholds 0.50 to
0.95 in steps of 0.05; of each image, the 100 surest objects of each class count. Crowd regions are neither to be found
nor wrong to be found. Sizes are areas in pixels of the original image: small below 32², large above 96².
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nextify.data.dense.annotations import Objects, mask_api

Floats = npt.NDArray[np.floating[Any]]
Rle = dict[str, Any]
"""COCO's compressed run lengths: ``{"size": [height, width], "counts": bytes}``."""
Size = Literal["all", "small", "medium", "large"]
SIZES: tuple[Size, ...] = ("all", "small", "medium", "large")
MOST_FOUND = 100
"""Objects of one class and image that count; COCO's number."""


class Observation(NamedTuple):
    """What was found in one image, and what is there; in pixels of the original image."""

    image: int
    """Its place in the set."""
    height: int
    width: int
    boxes: Floats
    """``(M, 4)``: x1, y1, x2, y2."""
    scores: Floats
    """``(M,)``."""
    labels: npt.NDArray[np.integer[Any]]
    """``(M,)``, from 0."""
    masks: Sequence[Rle] | None
    """M encoded masks, see ``encoded``; None where the network finds boxes only."""
    truth: Objects


def encoded(mask: npt.NDArray[np.bool_]) -> Rle:
    """Run lengths of a mask ``(H, W)``. Raises ``DataError`` where faster-coco-eval is missing."""
    found: Rle = mask_api().encode(np.asfortranarray(mask, np.uint8))
    return found


def encoded_part(part: npt.NDArray[np.bool_], top: int, left: int, size: tuple[int, int]) -> Rle:
    """Likewise of a mask of ``size`` (height, width) that holds ``part``, and nothing beside it."""
    height, width = size
    columns, rows = np.diff(np.pad(part.T, ((0, 0), (1, 1))).view(np.int8)).nonzero()
    ends, times = np.unique((left + columns) * height + top + rows, return_counts=True)
    ends = ends[(times == 1) & (ends < height * width)]  # a run may go on at the top of the next column
    counts = np.diff(ends, prepend=0, append=height * width).tolist()
    found: Rle = mask_api().frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return found


@dataclass(frozen=True, eq=False)
class Precision:
    """Precision and recall of every class, threshold and size; all averages are taken of these."""

    thresholds: Floats
    """``(T,)`` IoU."""
    recalls: Floats
    """``(R,)`` recalls that ``precision`` is given at, 0 to 1."""
    precision: Floats
    """``(T, R, K, 4)``, 0 to 1; the last axis is ``SIZES``; -1 where a class has no objects of a size."""
    recall: Floats
    """``(T, K, 4)``: the highest recall; -1 as above."""

    def mean(self, threshold: float | None = None, size: Size = "all", label: int | None = None) -> float | None:
        """AP in percent at an IoU ``threshold`` (None averages over all) of the class ``label`` (None averages over all
        that have objects); None where there are no such objects."""
        return _mean(self._at(self.precision, threshold, size)[..., slice(None) if label is None else label])

    def mean_recall(self, threshold: float, label: int) -> float | None:
        """The highest recall of a class, in percent."""
        return _mean(self._at(self.recall, threshold, "all")[..., label])

    def curve(self, threshold: float, label: int | None = None) -> tuple[float, ...] | None:
        """Precision, 0 to 1, at each of ``recalls``; of a class, or the mean of the classes that have objects."""
        values = self._at(self.precision, threshold, "all")[0]  # (R, K)
        values = values[:, values[0] > -1] if label is None else values[:, [label]]
        return tuple(values.mean(1).tolist()) if values.size and values[0, 0] > -1 else None

    def _at(self, values: Floats, threshold: float | None, size: Size) -> Floats:
        chosen = slice(None) if threshold is None else np.isclose(self.thresholds, threshold)
        return values[chosen][..., SIZES.index(size)]


def _mean(values: Floats) -> float | None:
    there = values[values > -1]
    return 100 * float(there.mean()) if there.size else None


@dataclass(frozen=True)
class ClassPrecision:
    """One class; percent, None where the class has no objects."""

    name: str
    objects: int
    """True ones, without crowd regions."""
    found: int
    ap: float | None
    ap50: float | None
    recall50: float | None
    """Share of the objects that are found at IoU 0.5, at any score."""
    mask_ap: float | None = None


@dataclass(frozen=True, eq=False)
class DetectionMetrics:
    """Average precision of a set of images."""

    images: int
    classes: tuple[str, ...]
    boxes: Precision = field(repr=False)
    masks: Precision | None = field(repr=False)
    """None where the network finds none or the set has none."""
    objects: tuple[int, ...]
    """True objects of each class, without crowd regions."""
    found: tuple[int, ...]
    seen: Sequence[Observation] = field(repr=False)
    """What they are made of, in the images' order."""

    def values(self) -> dict[str, float]:
        """Percent: ``BOXES``; ``ap_small``, ``ap_medium`` and ``ap_large`` for the sizes that objects have; and, where
        there are masks, ``MASKS``."""
        figures = {"ap": self.boxes.mean(), "ap50": self.boxes.mean(0.5), "ap75": self.boxes.mean(0.75)}
        figures |= {f"ap_{size}": self.boxes.mean(size=size) for size in SIZES[1:]}
        if self.masks is not None:
            figures |= {"mask_ap": self.masks.mean(), "mask_ap50": self.masks.mean(0.5)}
        return {key: value for key, value in figures.items() if value is not None}

    @cached_property
    def per_class(self) -> tuple[ClassPrecision, ...]:
        return tuple(
            ClassPrecision(
                *(name, self.objects[k], self.found[k], self.boxes.mean(label=k), self.boxes.mean(0.5, label=k)),
                recall50=self.boxes.mean_recall(0.5, k),
                mask_ap=None if self.masks is None else self.masks.mean(label=k),
            )
            for k, name in enumerate(self.classes)
        )


def average_precision(found: Sequence[Observation], classes: Sequence[str]) -> DetectionMetrics:
    """AP over all images, each observed once, in any order. Raises ``ValueError`` where there is no object in any
    image, so that AP is not defined, and ``DataError`` where faster-coco-eval is not installed."""
    found = sorted(found, key=lambda seen: seen.image)  # of equal scores, the first image's come first
    number = len(classes)
    true = [seen.truth.labels[~seen.truth.crowd] for seen in found]
    objects = np.bincount(np.concatenate([*true, []]).astype(int), minlength=number)
    if not objects.any():
        raise ValueError("no image has an object to be found, so average precision is not defined: choose other images")
    with_masks = all(seen.masks is not None and (seen.truth.masks is not None or not len(seen.truth)) for seen in found)
    labels = np.concatenate([*(seen.labels for seen in found), []]).astype(int)
    return DetectionMetrics(
        images=len(found),
        classes=tuple(classes),
        boxes=_measured(found, number, "bbox"),
        masks=_measured(found, number, "segm") if with_masks else None,
        objects=tuple(objects.tolist()),
        found=tuple(np.bincount(labels, minlength=number).tolist()),
        seen=found,
    )


def _measured(found: Sequence[Observation], number: int, kind: Literal["bbox", "segm"]) -> Precision:
    mask_api()  # refuses where it is missing
    from faster_coco_eval import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    truth, guesses = (_annotations(found, kind, true) for true in (True, False))
    images = [{"id": i, "height": seen.height, "width": seen.width} for i, seen in enumerate(found, 1)]
    categories = [{"id": k, "name": str(k)} for k in range(number)]
    sets = [COCO({"images": images, "annotations": some, "categories": categories}) for some in (truth, guesses)]
    evaluation = COCOeval_faster(*sets, iouType=kind, ranges=RANGES)
    evaluation.params.maxDets = [MOST_FOUND]
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = (np.asarray(evaluation.eval[key]) for key in ("precision", "recall"))
    settings = evaluation.params
    return Precision(settings.iouThrs, settings.recThrs, precision[..., 0], recall[..., 0])


RANGES = {"small": [0, 32**2], "medium": [32**2, 96**2], "large": [96**2, 1e10]}
"""Areas of COCO's sizes, both ends included; those of ``SIZES`` after "all"."""


def _annotations(found: Sequence[Observation], kind: str, true: bool) -> list[dict[str, object]]:
    """The true or the found objects as COCO has them; ids from 1, since its matching takes 0 for none."""
    masks = mask_api()
    annotations: list[dict[str, Any]] = []
    for image, seen in enumerate(found, 1):
        side = seen.truth if true else seen
        boxes = np.asarray(side.boxes, np.float64).reshape(-1, 4)
        sides = boxes[:, 2:] - boxes[:, :2]
        areas = seen.truth.areas if true else sides.prod(1)
        for i, (box, label) in enumerate(zip(np.hstack([boxes[:, :2], sides]), side.labels, strict=True)):
            entry = {"id": len(annotations) + 1, "image_id": image, "category_id": int(label), "bbox": box.tolist()}
            entry |= {"area": float(areas[i]), "iscrowd": int(true and seen.truth.crowd[i])}
            if kind == "segm":
                mask = encoded(seen.truth.mask(i, seen.height, seen.width)) if true else seen.masks[i]  # type: ignore[index]
                entry["segmentation"] = mask
                if not true:
                    entry["area"] = float(masks.area(mask))
            if not true:
                entry["score"] = float(seen.scores[i])
            annotations.append(entry)
    return annotations
