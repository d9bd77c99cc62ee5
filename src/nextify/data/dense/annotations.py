"""Images with boxes, or with a class for each pixel, as the rest of Nextify sees them.

Boxes are ``x1, y1, x2, y2`` in pixels of the upright image, x to the right and y down, the far edges exclusive. Classes
count from 0. Instance masks stay as the source has them, COCO's polygons or run lengths, until one is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, TypedDict

import numpy as np
import numpy.typing as npt

from nextify.data.errors import DataError
from nextify.data.images import DataSet, Digests, SelectedStore, Store, StoredImages

DenseTask = Literal["detection", "segmentation"]
IGNORED = 255
"""Value of a mask's pixels that neither train nor count."""
MOST_CLASSES = 255


Size = tuple[int, int]
"""Height and width in pixels."""
Id = int | float | str
"""COCO's of an image or a category."""


class Rle(TypedDict):
    """COCO's run lengths of a mask: height and width, and counts as numbers or in COCO's compressed text."""

    size: list[int]
    counts: list[int] | str


Polygons = list[list[float]]
"""COCO's outlines: one list of x and y for each piece."""
Mask = Rle | Polygons
IndexMask = npt.NDArray[np.uint8]
"""``(H, W)``: the class of each pixel, or ``IGNORED``."""


def mask_api() -> Any:
    """COCO's mask functions, those of faster-coco-eval. Raises ``DataError`` where it is not installed."""
    try:
        from faster_coco_eval import mask
    except ImportError:
        raise DataError("instance masks need faster-coco-eval: pip install 'nextify[dense]'") from None
    return mask


def encoded_mask(pixels: npt.NDArray[np.bool_]) -> Rle:
    """The run lengths of ``(H, W)``, down the columns, as COCO counts them."""
    flat = pixels.reshape(-1, order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return Rle(size=list(pixels.shape), counts=[0, *counts] if flat[0] else counts)


def run_lengths(text: str) -> list[int] | None:
    """COCO's compressed run lengths as numbers; None for text that holds none.

    A character holds six bits, counted from ``0``: five of a number, the lowest first, and whether it goes on; the last
    of a number's bits is its sign. From the fourth on, numbers are differences from the one before the last.
    """
    values = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero(values & 32 == 0)
    if not len(values) or values.min() < 0 or values.max() > 63 or not len(ends) or ends[-1] != len(values) - 1:
        return None
    starts = np.append(0, ends[:-1] + 1)
    places = np.arange(len(values)) - np.repeat(starts, ends - starts + 1)
    if places.max() > 6:  # more bits than an image has pixels
        return None
    numbers = np.add.reduceat((values & 31) << 5 * places, starts)
    numbers -= np.where(values[ends] & 16, 1 << 5 * (places[ends] + 1), 0)
    for chain in (numbers[1::2], numbers[2::2]):
        chain[:] = np.cumsum(chain)
    return [int(number) for number in numbers]


def mask_area(mask: Mask) -> float:
    """Pixels of a mask; an outline's pieces are taken not to overlap."""
    if isinstance(mask, list):
        pieces = [(np.array(piece[0::2]), np.array(piece[1::2])) for piece in mask]
        return sum(abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2 for x, y in pieces)
    counts = run_lengths(mask["counts"]) if isinstance(mask["counts"], str) else mask["counts"]
    return float(sum((counts or [])[1::2]))


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one image."""

    boxes: npt.NDArray[np.float32]
    """``(N, 4)``."""
    labels: npt.NDArray[np.int64]
    """``(N,)``."""
    crowd: npt.NDArray[np.bool_]
    """``(N,)``: areas to ignore, such as COCO's crowds and VOC's difficult objects."""
    areas: npt.NDArray[np.float64]
    """``(N,)`` pixels, as COCO tells small objects from large ones: of the mask, or of the box where there is none."""
    masks: tuple[Mask, ...] | None = None
    """One for each object, or None where the source has none."""

    def __len__(self) -> int:
        return len(self.labels)

    def mask(self, index: int, height: int, width: int) -> npt.NDArray[np.bool_]:
        """The mask of one object: ``(height, width)``, of the image. Raises ``DataError`` for outlines without
        faster-coco-eval, and ``ValueError`` where the objects have no masks."""
        if self.masks is None:
            raise ValueError("these objects have no masks")
        mask = self.masks[index]
        if isinstance(mask, list):
            api = mask_api()
            pixels: npt.NDArray[np.bool_] = api.decode(api.merge(api.frPyObjects(mask, height, width))).astype(bool)
            return pixels
        counts = np.array(run_lengths(mask["counts"]) if isinstance(mask["counts"], str) else mask["counts"])
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T

    def selected(self, indices: npt.NDArray[np.int64]) -> Objects:
        """The objects at ``indices (M,)``."""
        masks = None if self.masks is None else tuple(self.masks[i] for i in indices.tolist())
        return Objects(self.boxes[indices], self.labels[indices], self.crowd[indices], self.areas[indices], masks)


class DenseSet(StoredImages):
    """Images with objects (detection) or index masks (segmentation)."""

    def __init__(
        self,
        task: DenseTask,
        store: Store,
        sizes: npt.NDArray[np.int64],
        names: Sequence[str] | None,
        objects: Sequence[Objects] | None = None,
        masks: IndexMasks | None = None,
        has_masks: bool | None = None,
        ids: Sequence[Id] | None = None,
        digests: Digests | None = None,
    ) -> None:
        """
        Args:
            sizes: ``(N, 2)`` height and width of the upright images.
            names: what the source calls each image; None numbers them.
            objects, masks: of each image, for detection and for segmentation.
            has_masks: whether all objects have instance masks, and there are any; None looks at each.
            ids: COCO's of each image, where the source has them.
            digests: as ``ImageSet`` has them.
        """
        super().__init__(store, names, digests)
        self.task, self.sizes, self.ids = task, sizes, ids
        self._objects, self._masks = objects, masks
        if has_masks is None:
            found = [one.masks is not None for one in objects or () if len(one)]
            has_masks = bool(found) and all(found)
        self.has_masks = has_masks

    def __len__(self) -> int:
        return len(self.sizes)

    def objects(self, index: int) -> Objects:
        """The objects of an image. Raises ``ValueError`` for segmentation."""
        if self._objects is None:
            raise ValueError(f"images for {self.task} have no objects")
        return self._objects[index]

    def mask(self, index: int) -> IndexMask:
        """``(H, W)`` uint8: classes and ``IGNORED``; may be a view. Raises ``ValueError`` for detection."""
        if self._masks is None:
            raise ValueError(f"images for {self.task} have no index masks")
        return self._masks[index]

    @cached_property
    def pixels(self) -> npt.NDArray[np.int64]:
        """``(256,)``: pixels of each class and of ``IGNORED`` in all masks, which are read for it once."""
        counts = np.zeros(256, np.int64)
        for i in range(len(self)):
            counts += np.bincount(self.mask(i).reshape(-1), minlength=256)
        return counts

    def selected(self, indices: npt.NDArray[np.int64]) -> DenseSet:
        """The images at ``indices (M,)``, in that order."""
        chosen = indices.tolist()
        return DenseSet(
            self.task,
            SelectedStore(self.store, indices),
            self.sizes[indices],
            self.names_at(indices),
            None if self._objects is None else [self._objects[i] for i in chosen],
            None if self._masks is None else SelectedMasks(self._masks, chosen),
            self.has_masks,
            None if self.ids is None else [self.ids[i] for i in chosen],
            None if self.digests is None else self.digests[indices],
        )


class IndexMasks(Protocol):
    """Index masks by position, perhaps read when asked for."""

    def __getitem__(self, index: int, /) -> IndexMask: ...


class SelectedMasks:
    """Some of other masks."""

    def __init__(self, masks: IndexMasks, indices: list[int]) -> None:
        self.masks, self.indices = masks, indices

    def __getitem__(self, index: int) -> IndexMask:
        return self.masks[self.indices[index]]


@dataclass(frozen=True)
class DenseImages(DataSet[DenseSet]):
    """A data set for detection or segmentation, checked and ready."""

    task: DenseTask
    category_ids: tuple[Id, ...] = ()
    """COCO's id of each class, for detection; empty where the source has none."""
    ignore_index: int | None = None
    """Of index masks, what ``open_dense`` was given."""

    @property
    def has_masks(self) -> bool:
        """Whether there are instance masks to learn and to measure."""
        return self.test.has_masks and (self.train.has_masks or not len(self.train))

    @property
    def middle_size(self) -> tuple[int, int]:
        """Medians of the images' heights and widths, pixels."""
        height, width = np.median(np.concatenate([self.train.sizes, self.test.sizes]), axis=0).tolist()
        return round(height), round(width)
