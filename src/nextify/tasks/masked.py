"""Masked image modelling: the network restores what is masked, and the error on masked patches is the metric.

Which units are masked is a function of (seed, step) and a row's place in the batch, so every process draws those of the
whole batch, and a training that goes on masks what an undisturbed one would. Test images have the same masks always.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nextify.data.on_device import PerChannel
from nextify.data.preprocessing import normalized
from nextify.data.randomness import MASK, MASK_OF_TESTS, words
from nextify.data.share import Share
from nextify.networks.masked.design import MaskedDesign, visible_units
from nextify.tasks.metric_specs import MASKED_ERROR


def draw_masks(images: int, rows: int, columns: int, ratio: float, seed: int, step: int, stream: int = MASK) -> Tensor:
    """``(images, rows, columns)``, True for each masked unit, equally many of each image and never all."""
    units = rows * columns
    visible = visible_units(units, ratio)
    # RandomState, since NumPy guarantees its numbers across versions, unlike Generator's.
    order = np.random.RandomState(words(seed, step, stream)).rand(images, units).argsort(1, kind="stable")
    masked = np.ones((images, units), bool)
    np.put_along_axis(masked, order[:, :visible], False, axis=1)
    return torch.from_numpy(masked.reshape(images, rows, columns))


class Errors(NamedTuple):
    """Of one batch: the sum of its images' errors, and their number."""

    total: float
    images: int


@dataclass(frozen=True)
class Reconstruction:
    error: float
    """Mean over the images of the mean squared error on their masked patches, each normalized by its own mean and
    deviation; 1 is what a prediction of every patch's mean has."""
    images: int

    def values(self) -> dict[str, float]:
        return {MASKED_ERROR.key: self.error}


@dataclass(frozen=True)
class MaskedImages:
    """Restoring masked images; the network brings its loss, and targets are masks ``(B, rows, columns)``."""

    design: MaskedDesign
    image_size: int
    mean: PerChannel
    std: PerChannel
    seed: int
    device: torch.device
    bf16: bool = False
    """Whether the network computes in autocast."""

    metric_specs: ClassVar = (MASKED_ERROR,)

    def training_batch(self, pixels: Tensor, targets: Tensor, step: int, share: Share | None) -> tuple[Tensor, Tensor]:
        masked = self._masks(len(pixels) if share is None else share.batch, step, MASK)
        if share is not None:
            masked = masked[torch.from_numpy(share.rows)]
        return normalized(pixels, self.device, self.mean, self.std), masked.to(self.device, non_blocking=True)

    def test_batch(self, pixels: Tensor, targets: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Targets are the masks and which images count: those with a label of -1 are there to fill a batch."""
        masked = self._masks(len(pixels), 0, MASK_OF_TESTS)
        counted = targets >= 0 if targets.ndim == 1 else targets[:, 0] >= 0  # of several labels
        return normalized(pixels, self.device, self.mean, self.std), (masked.to(self.device), counted)

    def _masks(self, images: int, step: int, stream: int) -> Tensor:
        units = self.design.grid(self.image_size)
        return draw_masks(images, units, units, self.design.ratio, self.seed, step, stream)

    def loss(self, outputs: Tensor, targets: Tensor, batch: int) -> Tensor:
        """Of the images' errors ``(N,)``."""
        return outputs.sum() / batch

    def observe(self, model: nn.Module, inputs: Tensor, targets: tuple[Tensor, Tensor]) -> Errors:
        masked, counted = targets
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            errors = model(inputs, masked).float().cpu()[counted]
        return Errors(float(errors.sum(dtype=torch.float64)), len(errors))

    @staticmethod
    def metrics(observations: Sequence[Errors]) -> Reconstruction:
        """Raises ValueError where no image was counted."""
        images = sum(errors.images for errors in observations)
        if not images:
            raise ValueError("no images to measure the masked error on")
        return Reconstruction(sum(errors.total for errors in observations) / images, images)
