"""Batches of images with boxes or masks, as functions of (seed, step), like those of classification.

Augmentation is that of torchvision's and detectron2's "large-scale jitter" (arXiv 2012.07177): a random size, a crop of
what is larger than the canvas or a random place on it, a mirror image, colour jitter. What the border cuts is clipped;
an object of which less than a quarter is left, or less than two pixels, is dropped.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nextify.data.batches import BatchesByStep, BatchesInOrder, iterated
from nextify.data.decode import Pixels, quiet
from nextify.data.dense.annotations import DenseSet, IndexMask, Objects
from nextify.data.dense.placement import Placement, fitting
from nextify.data.images import EncodedStore
from nextify.data.preprocessing import interpolated
from nextify.data.randomness import AUGMENTATION, reseed, seeded, words_of_rows
from nextify.data.share import Rows, Share
from nextify.data.transforms import Jitter
from nextify.paper.recipe import NoCrop, RandomResized, Recipe, RecipeError, ScaleJitter, Shift

LEAST_SHARE = 0.25
"""Share of an object's box that must lie on the canvas for it to be trained on."""
LEAST_SIDE = 2.0
"""Pixels of the canvas that a box must have each way."""
HELD_LIMIT = 2**30
"""Bytes of decoded and reduced images that are held in memory."""
REDUCED_FROM = 1.5
"""Ratio of an image to the largest size at which it is shown from which a reduced copy takes its place."""


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be found in one image of a batch, in pixels of the canvas."""

    boxes: Tensor
    """``(N, 4)`` float32."""
    labels: Tensor
    """``(N,)`` int64."""
    crowd: Tensor
    """``(N,)`` bool: areas to ignore, never trained on."""
    masks: Tensor | None
    """``(N, H, W)`` uint8, 0 and 1, of training images where they were asked for."""
    image: int
    """Which of the set's images; -1 for one that does not count."""
    placement: Placement | None = None
    """Of test images."""


@dataclass(frozen=True, eq=False)
class Region:
    """The classes of a test image's pixels, which are measured in the image's own resolution."""

    mask: Tensor
    """uint8 ``(height, width)`` of the image."""
    image: int
    """Which of the set's images; -1 for one that does not count."""
    placement: Placement


DenseBatch = tuple[Tensor, list[Target] | list[Region] | Tensor]
"""uint8 images ``(B, H, W, 3)`` with targets: a list for detection; for segmentation uint8 masks of the canvas
``(B, H, W)`` to train on, and a list to test on."""
_Raw = tuple[Pixels, "list[tuple[Objects, npt.NDArray[np.uint8] | None, int]] | IndexMask"]
"""The same as arrays, which workers hand over at less cost."""


class DenseTrainBatches(BatchesByStep):
    """The training batches of detection or segmentation, by step."""

    def __init__(
        self,
        images: DenseSet,
        recipe: Recipe,
        canvas: tuple[int, int],
        seed: int,
        workers: int = 0,
        share: Share | None = None,
        *,
        masks: bool = False,
    ) -> None:
        """Batches as ``BatchesByStep`` has them, on a ``canvas`` of this height and width, with instance ``masks`` if
        asked for. Raises ``DataError`` as it does, and ``RecipeError`` for an augmentation that boxes and masks cannot
        follow."""
        _refuse_others(recipe, images.task)
        super().__init__(np.arange(len(images)), recipe, seed, workers, share)
        self.images, self.canvas, self.masks = images, canvas, masks
        self.held_out = np.arange(0)
        self.range = _range_of(recipe)
        self.flip = recipe.horizontal_flip
        self.jitter = None if recipe.color_jitter == "off" else Jitter(recipe.color_jitter)
        self.held = _Held(images, canvas, max(1.0, self.range[1]), HELD_LIMIT // max(1, workers))

    def batch(self, step: int) -> DenseBatch:
        """The batch of ``step``, counted over all epochs. The state of the global random generators is restored."""
        return _as_tensors(self._raw(step))

    def iterate(self, start_step: int, end_step: int) -> Iterator[DenseBatch]:
        """Yield the batches of steps ``start_step`` to ``end_step - 1``; workers live as long as the iterator."""
        return map(_as_tensors, iterated(self._raw, self.workers, start_step, end_step))

    def _raw(self, step: int) -> _Raw:
        chosen = self.indices(step)[self.rows].tolist()
        # Each row is seeded by itself, so that a process need not draw for rows that are not its own.
        words = words_of_rows(self.seed, step, AUGMENTATION, self.batch_size)[self.rows]
        pixels: Pixels = np.empty((len(chosen), *self.canvas, 3), np.uint8)
        found = []
        classes: IndexMask = np.empty((len(chosen), *self.canvas), np.uint8)
        with seeded(self.seed, step, AUGMENTATION), quiet():
            for row, index in enumerate(chosen):
                reseed(words[row])
                placement, mirrored = self._placement(index), random.random() < self.flip
                view = placement.pixels(self.held.load(index), self.canvas)
                view = view[:, ::-1] if mirrored else view
                pixels[row] = view if self.jitter is None else self.jitter(view)
                if self.images.task == "segmentation":
                    mask = placement.mask(self.images.mask(index), self.canvas)
                    classes[row] = mask[:, ::-1] if mirrored else mask
                else:
                    found.append((*self._objects(index, placement, mirrored), index))
        return pixels, found if self.images.task == "detection" else classes

    def _placement(self, index: int) -> Placement:
        height, width = self.images.sizes[index].tolist()
        fitted = fitting((height, width), self.canvas)
        least, most = self.range
        if least == most == 1:
            return fitted
        shown = Placement(height, width, fitted.scale * random.uniform(least, most))
        # Each side begins where it lies within the canvas, or fills it.
        spaces = [room - side for side, room in zip(shown.resized, self.canvas, strict=True)]
        top, left = (random.randint(min(0, space), max(0, space)) for space in spaces)
        return Placement(height, width, shown.scale, top, left)

    def _objects(
        self, index: int, placement: Placement, mirrored: bool
    ) -> tuple[Objects, npt.NDArray[np.uint8] | None]:
        width = self.canvas[1]
        objects = self.images.objects(index)
        kept, clipped = _kept(placement.boxes(objects.boxes), self.canvas)
        objects, clipped = objects.selected(kept), clipped[kept]
        masks = _masks(objects, placement, self.canvas) if self.masks else None
        if mirrored:
            clipped = np.stack([width - clipped[:, 2], clipped[:, 1], width - clipped[:, 0], clipped[:, 3]], 1)
            masks = None if masks is None else masks[:, :, ::-1]
        return Objects(clipped, objects.labels, objects.crowd, objects.areas), masks


class DenseTestBatches(BatchesInOrder[DenseBatch]):
    """The test images, fitted to the canvas. An image that does not count has the index -1."""

    def __init__(
        self, images: DenseSet, canvas: tuple[int, int], batch_size: int, rank: int = 0, count: int = 1
    ) -> None:
        super().__init__(len(images), batch_size, rank, count)
        self.images, self.canvas = images, canvas
        fits = len(images) * canvas[0] * canvas[1] * 3 <= HELD_LIMIT
        self._held: dict[int, Pixels] | None = {} if fits else None

    def _part(self, chosen: range) -> DenseBatch:
        places = [fitting(self.images.sizes[i].tolist(), self.canvas) for i in chosen]
        pixels = torch.from_numpy(np.stack([self._pixels(i, place) for i, place in zip(chosen, places, strict=True)]))
        if self.images.task == "detection":
            return pixels, [self._target(i, place) for i, place in zip(chosen, places, strict=True)]
        masks = (torch.from_numpy(np.array(self.images.mask(i))) for i in chosen)
        return pixels, [Region(mask, i, place) for mask, i, place in zip(masks, chosen, places, strict=True)]

    def _pixels(self, index: int, placement: Placement) -> Pixels:
        if self._held is None:
            return placement.pixels(self.images.load(index), self.canvas)
        if index not in self._held:
            self._held[index] = placement.pixels(self.images.load(index), self.canvas)
        return self._held[index]

    def _target(self, index: int, placement: Placement) -> Target:
        objects = self.images.objects(index)
        on_canvas = Objects(placement.boxes(objects.boxes), objects.labels, objects.crowd, objects.areas)
        return _target(on_canvas, None, index, placement)

    def _nothing(self) -> DenseBatch:
        pixels, found = self._part(range(1))
        none = found[0]
        if isinstance(none, Region):
            return pixels, [Region(none.mask, -1, none.placement)]
        assert isinstance(none, Target)
        return pixels, [Target(none.boxes[:0], none.labels[:0], none.crowd[:0], None, -1, none.placement)]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_held": None if self._held is None else {}}


class _Held:
    """Images as training needs them: decoded once where memory allows, reduced where they are much too large."""

    def __init__(self, images: DenseSet, canvas: tuple[int, int], most: float, limit: int) -> None:
        self.images, self.limit = images, limit
        self.largest = round(canvas[0] * most), round(canvas[1] * most)
        self.decodes = isinstance(images.store, EncodedStore)
        self.held: dict[int, Pixels] = {}
        self.bytes = 0

    def load(self, index: int) -> Pixels:
        if (found := self.held.get(index)) is not None:
            return found
        pixels = self.images.load(index)
        fit = fitting(pixels.shape, self.largest)
        if fit.scale * REDUCED_FROM < 1:
            pixels = interpolated(pixels, fit.resized, "bilinear")
        elif not self.decodes:
            return pixels
        if self.bytes + pixels.nbytes <= self.limit:
            self.held[index] = pixels
            self.bytes += pixels.nbytes
        return pixels

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"held": {}, "bytes": 0}


def _range_of(recipe: Recipe) -> tuple[float, float]:
    """Smallest and largest size of an image, as multiples of the size at which it fits the canvas."""
    match recipe.crop:
        case ScaleJitter(least, most):
            return least, most
        case NoCrop():
            return 1.0, 1.0
        case RandomResized() | Shift():
            raise RecipeError(f"crop={recipe.crop.kind} is for classification: set crop=scale_jitter or crop=none")
        case unknown:
            assert_never(unknown)


def _refuse_others(recipe: Recipe, task: str) -> None:
    """Raise ``RecipeError`` for settings whose changes of an image boxes and masks do not follow."""
    settings = {
        "light": recipe.light,
        "rand_augment": recipe.rand_augment,
        "mixing": recipe.mixing,
        "class_balance": "off" if (task, recipe.class_balance) == ("segmentation", "loss") else recipe.class_balance,
        "calibration": recipe.calibration,
        "progressive_resizing": recipe.progressive_resizing,
    }
    on = [f"{name}=off" for name, value in settings.items() if value != "off"]
    on += ["random_erasing=0"] if recipe.random_erasing else []
    if on:
        raise RecipeError(
            f"a recipe for detection or segmentation needs {', '.join(on)}: these settings are for classification"
        )


def _kept(boxes: npt.NDArray[np.float32], canvas: tuple[int, int]) -> tuple[Rows, npt.NDArray[np.float32]]:
    """Which boxes ``(N, 4)`` are trained on, and all of them clipped to the canvas."""
    clipped = boxes.clip(0, np.array([canvas[1], canvas[0]] * 2, np.float32))
    whole, left = (b[:, 2:] - b[:, :2] for b in (boxes, clipped))
    enough = left.prod(1) >= LEAST_SHARE * whole.prod(1)
    return np.flatnonzero(enough & (left.min(1, initial=np.inf) >= LEAST_SIDE)), clipped


def _masks(objects: Objects, placement: Placement, canvas: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """``(N, H, W)``, 0 and 1, on the canvas."""
    if not len(objects):
        return np.zeros((0, *canvas), np.uint8)
    masks = [objects.mask(i, placement.height, placement.width) for i in range(len(objects))]
    return placement.mask(np.stack(masks).view(np.uint8), canvas, fill=0)


def _target(
    objects: Objects, masks: npt.NDArray[np.uint8] | None, image: int, placement: Placement | None = None
) -> Target:
    return Target(
        torch.from_numpy(objects.boxes),
        torch.from_numpy(objects.labels),
        torch.from_numpy(objects.crowd),
        None if masks is None else torch.from_numpy(np.ascontiguousarray(masks)),
        image,
        placement,
    )


def _as_tensors(raw: _Raw) -> DenseBatch:
    pixels, found = raw
    if isinstance(found, np.ndarray):
        return torch.from_numpy(pixels), torch.from_numpy(found)
    return torch.from_numpy(pixels), [_target(*one) for one in found]
