"""What is wrong with boxes and masks: each kind is counted, named, and handled by a rule (docs/data.md)."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nextify.data.dense.annotations import Mask, Objects, Size, mask_area
from nextify.data.dense.found import Annotation
from nextify.data.errors import DataError
from nextify.system.text import plural, printable, some

ROUNDING = 1.0
"""Pixels by which a box may reach beyond its image without a word."""


@dataclass
class Findings:
    """What was found in a set's boxes, by the images' names."""

    outside: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    crowds: list[str] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)
    unmasked: list[str] = field(default_factory=list)
    masked: int = 0

    def notes(self) -> list[str]:
        """What to say that need not worry."""
        said = []
        if self.bare:
            said.append(f"{plural(len(self.bare), 'image has', 'images have')} no objects: kept as background.")
        if self.crowds:
            said.append(f"{_boxes(self.crowds, 'marks an area', 'mark areas')} to ignore (a crowd or a difficult "
                        f"object): neither trained on nor counted.")  # fmt: skip
        if self.masked and self.unmasked:
            said.append(f"{plural(len(self.unmasked), 'object has', 'objects have')} no mask, in {_in(self.unmasked)}: "
                        f"instance masks are not used.")  # fmt: skip
        return said

    def warnings(self) -> list[str]:
        """What may be a mistake in the annotations."""
        kinds = (
            (self.outside, "reaches", "reach", "beyond the image", "clipped"),
            (self.beyond, "lies", "lie", "outside the image", "left out"),
            (self.empty, "has", "have", "no area", "left out"),
            (self.twice, "repeats", "repeat", "another of the same class", "left out"),
        )
        return [
            f"{_boxes(found, one, several)} {what} and {'is' if len(found) == 1 else 'are'} {then}, in {_in(found)}."
            for found, one, several, what, then in kinds
            if found
        ]

    def left_out(self) -> dict[str, list[str]]:
        """The images whose boxes are not used, by the reason."""
        reasons = {
            "boxes outside their image": self.beyond,
            "boxes without area": self.empty,
            "repeated boxes": self.twice,
        }
        return {reason: names for reason, names in reasons.items() if names}


def check_sizes(names: Sequence[str], said: Sequence[Size | None], sizes: Sequence[Size | None]) -> None:
    """Raise ``DataError`` where annotations were made for images of another size."""
    odd = [
        f"{name} is {size[1]}×{size[0]} but annotated as {own[1]}×{own[0]}"
        for name, own, size in zip(names, said, sizes, strict=True)
        if own is not None and size is not None and own != size
    ]
    if odd:
        raise DataError(
            f"{plural(len(odd), 'image is', 'images are')} not the size given in the annotations, so boxes would be "
            f"misplaced: {some(odd)}; give the images that were annotated, or correct the sizes"
        )


def checked_objects(found: Sequence[Annotation], size: Size, name: str, findings: Findings) -> Objects:
    """The objects of an image of ``size`` (height, width) by the rules above; what is found goes to ``findings``.
    Raises ``DataError`` for run lengths of another size."""
    height, width = size
    kept: list[tuple[Annotation, tuple[float, ...]]] = []
    masks_at: dict[tuple[object, ...], list[Mask | None]] = {}
    for one in found:
        x1, y1, x2, y2 = one.box
        if x2 <= x1 or y2 <= y1:
            findings.empty.append(name)
            continue
        box = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
        if box[0] >= box[2] or box[1] >= box[3]:
            findings.beyond.append(name)
            continue
        if max(-x1, -y1, x2 - width, y2 - height) > ROUNDING:
            findings.outside.append(name)
        others = masks_at.setdefault((one.label, one.crowd, box), [])
        if one.mask in others:
            findings.twice.append(name)
            continue
        others.append(one.mask)
        kept.append((one, box))
        if one.crowd:
            findings.crowds.append(name)
        if one.mask is None:
            findings.unmasked.append(name)
        else:
            findings.masked += 1
            _check_mask(one.mask, size, name)
    if not found:
        findings.bare.append(name)
    boxes = np.array([box for _, box in kept], np.float32).reshape(-1, 4)
    masks = tuple(one.mask for one, _ in kept if one.mask is not None)
    return Objects(
        boxes,
        np.array([one.label for one, _ in kept], np.int64),
        np.array([one.crowd for one, _ in kept], bool),
        np.array([_area(one, box) for one, box in kept], np.float64),
        masks if len(masks) == len(kept) else None,
    )


def _area(one: Annotation, box: tuple[float, ...]) -> float:
    """What the annotation says, else the mask's area, else the box's."""
    return one.area or (0 if one.mask is None else mask_area(one.mask)) or (box[2] - box[0]) * (box[3] - box[1])


def _check_mask(mask: Mask, size: Size, name: str) -> None:
    if not isinstance(mask, list) and tuple(mask["size"]) != size:
        height, width = mask["size"]
        raise DataError(f"{printable(name)} is {size[1]}×{size[0]} but its mask is {width}×{height}: make the mask "
                        f"from this image")  # fmt: skip


def check_mask_size(path: str, found: Size, size: Size, name: str) -> None:
    """Raise ``DataError`` where a mask is not of its image's size."""
    if found != size:
        mask = printable(os.path.basename(path))
        raise DataError(f"the mask {mask} is {found[1]}×{found[0]} but its image {printable(name)} is "
                        f"{size[1]}×{size[0]}: give both the same size (masks by nearest neighbours)")  # fmt: skip


def _boxes(names: Sequence[str], one: str, many: str) -> str:
    return plural(len(names), f"box {one}", f"boxes {many}")


def _in(names: Sequence[str]) -> str:
    counts = Counter(names)
    return some([name if count == 1 else f"{name} ({count})" for name, count in counts.items()])
