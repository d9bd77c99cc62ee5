"""The one way from an image to the network's canvas and back: training, its test images, evaluating and predicting.

An image is resized by one factor (antialiased bilinear) and laid on a canvas of the mean colour. A test image fits the
canvas and starts at its top left corner; training draws the factor and the corner, which may lie beyond the canvas.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn.functional import interpolate

from nextify.data.decode import Pixels
from nextify.data.dense.annotations import IGNORED, DenseImages, IndexMask
from nextify.data.preprocessing import IMAGENET_MEAN, interpolated

Boxes = npt.NDArray[np.float32]

FILL = tuple(round(255 * mean) for mean in IMAGENET_MEAN)
"""Colour of a canvas beside its image."""
MULTIPLE = 32
"""Of which a canvas's sides are: the stride of the coarsest features."""
SMALLEST, LARGEST = 64, 640
"""Bounds of a canvas's long side where none is asked for."""


@dataclass(frozen=True)
class Placement:
    """Where an image lies on a canvas."""

    height: int
    """Of the image."""
    width: int
    scale: float
    """Pixels of the canvas per pixel of the image, before the resized sides are rounded."""
    top: int = 0
    """Of the resized image, in pixels of the canvas; negative where it begins beyond it."""
    left: int = 0

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width on the canvas."""
        return max(1, round(self.height * self.scale)), max(1, round(self.width * self.scale))

    @property
    def _factors(self) -> Boxes:
        """``(4,)``: pixels of the canvas per pixel of the image, for each of a box's four values."""
        down, across = self.resized
        return np.array([across / self.width, down / self.height] * 2, np.float32)

    def boxes(self, boxes: Boxes) -> Boxes:
        """Boxes ``(N, 4)`` of the image in pixels of the canvas, not clipped."""
        return boxes * self._factors + np.array([self.left, self.top] * 2, np.float32)

    def boxes_back(self, boxes: Boxes) -> Boxes:
        """Boxes ``(N, 4)`` of the canvas in pixels of the image, not clipped."""
        return (boxes - np.array([self.left, self.top] * 2, np.float32)) / self._factors

    def pixels(self, pixels: Pixels, canvas: tuple[int, int]) -> Pixels:
        """The canvas ``(H, W, 3)`` with the image, given as it is or at another resolution."""
        out = _empty(canvas).copy()
        places, parts = self._overlap(canvas)
        out[tuple(places)] = interpolated(pixels, self.resized, "bilinear")[tuple(parts)]
        return out

    def mask(self, mask: IndexMask, canvas: tuple[int, int], fill: int = IGNORED) -> IndexMask:
        """The canvas ``(…, H, W)`` with masks of the image ``(…, height, width)``, by nearest neighbours."""
        out: IndexMask = np.full((*mask.shape[:-2], *canvas), fill, np.uint8)
        down, across = self.resized
        rows, columns = _nearest(self.height, down), _nearest(self.width, across)
        places, parts = self._overlap(canvas)
        out[..., places[0], places[1]] = mask[..., rows[parts[0]][:, None], columns[parts[1]]]
        return out

    def back(self, values: Tensor) -> Tensor:
        """Values ``(K, H, W)`` of the canvas (logits, probabilities) at the image's pixels ``(K, height, width)``."""
        down, across = self.resized
        values = values[:, self.top : self.top + down, self.left : self.left + across]
        if values.shape[1:] == (self.height, self.width):
            return values
        return interpolate(values[None], (self.height, self.width), mode="bilinear", antialias=True)[0]

    def _overlap(self, canvas: tuple[int, int]) -> tuple[list[slice], list[slice]]:
        """Rows and columns of a canvas that show the image, and those of the resized image that they show."""
        places, parts = [], []
        for start, side, room in zip((self.top, self.left), self.resized, canvas, strict=True):
            places.append(slice(max(0, start), max(0, min(room, start + side))))
            parts.append(slice(max(0, -start), max(0, min(side, room - start))))
        return places, parts


@lru_cache(maxsize=4)
def _empty(canvas: tuple[int, int]) -> Pixels:
    """A canvas without an image, which is copied faster than it is filled."""
    return np.full((*canvas, 3), FILL, np.uint8)


def _nearest(side: int, resized: int) -> npt.NDArray[np.int64]:
    """Which of ``side`` pixels lies under the middle of each of ``resized``."""
    return ((np.arange(resized) + 0.5) * (side / resized)).astype(np.int64)


def fitting(size: Sequence[int], canvas: tuple[int, int]) -> Placement:
    """The placement in which an image of ``size`` (height, width, …) just fits a canvas, at its top left corner."""
    height, width = size[:2]
    return Placement(height, width, min(canvas[0] / height, canvas[1] / width))


def placed(pixels: Pixels, canvas: tuple[int, int]) -> tuple[Pixels, Placement]:
    """An image ``(H, W, 3)`` fitted to a canvas (height, width), and where it lies there."""
    placement = fitting(pixels.shape, canvas)
    return placement.pixels(pixels, canvas), placement


def canvas_of(images: DenseImages, image_size: int | None = None) -> tuple[int, int]:
    """Height and width of the canvas for a data set: the median image's, both rounded up to multiples of 32.
    ``image_size``: the long side before that; None takes the images', between 64 and 640."""
    height, width = images.middle_size
    longest = max(height, width)
    long = min(max(longest, SMALLEST), LARGEST) if image_size is None else image_size
    down, across = (-(-side * long // (longest * MULTIPLE)) * MULTIPLE for side in (height, width))
    return down, across
