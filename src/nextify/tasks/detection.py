"""Object detection, with or without instance masks: the network's own losses, and COCO's average precision."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nextify.data.dense.annotations import DenseSet, Objects, encoded_mask
from nextify.data.dense.batches import Target
from nextify.data.dense.placement import Placement
from nextify.data.on_device import PerChannel
from nextify.data.preprocessing import normalized
from nextify.data.share import Share
from nextify.tasks.average_precision import DetectionMetrics, Observation, average_precision
from nextify.tasks.metric_specs import BOXES, MASKS, MetricSpec
from nextify.tasks.restoring import objects_back


def summed(losses: Mapping[str, Tensor], images: int, batch: int) -> Tensor:
    """The part that ``images`` images with these mean losses contribute to the loss of a batch of ``batch``."""
    return torch.stack([loss.float() for loss in losses.values()]).sum() * (images / batch)


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Keep a network in evaluation mode within, also where it was training."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@dataclass(frozen=True)
class Detection:
    """Detection of the objects of ``classes``; the network brings its losses."""

    classes: tuple[str, ...]
    mean: PerChannel
    std: PerChannel
    device: torch.device
    images: DenseSet | None = None
    """The set of the test batches, whose objects are the truth; None measures against the batches' targets."""
    masks: bool = False
    """Whether instance masks are found and measured too."""
    bf16: bool = False
    """Whether the network computes in autocast."""

    @property
    def metric_specs(self) -> Sequence[MetricSpec]:
        return (*BOXES, *MASKS) if self.masks else BOXES

    def training_batch(
        self, pixels: Tensor, targets: Sequence[Target], step: int, share: Share | None
    ) -> tuple[Tensor, list[Target]]:
        return self.test_batch(pixels, targets)

    def test_batch(self, pixels: Tensor, targets: Sequence[Target]) -> tuple[Tensor, list[Target]]:
        return normalized(pixels, self.device, self.mean, self.std), [self._moved(target) for target in targets]

    def _moved(self, target: Target) -> Target:
        if self.device.type == "cpu":
            return target
        there = {name: getattr(target, name).to(self.device) for name in ("boxes", "labels", "crowd")}
        return replace(target, **there, masks=None if target.masks is None else target.masks.to(self.device))

    def loss(self, outputs: Mapping[str, Tensor], targets: Sequence[Target], batch: int) -> Tensor:
        """Of the network's losses, each a mean over these images."""
        return summed(outputs, len(targets), batch)

    def observe(self, model: nn.Module, inputs: Tensor, targets: Sequence[Target]) -> list[Observation]:
        with in_evaluation(model), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            found = model(inputs)
        canvas = inputs.shape[-2:]
        return [
            self._observation(one, target, (canvas[0], canvas[1]))
            for one, target in zip(found, targets, strict=True)
            if target.image >= 0
        ]

    def _observation(self, found: Any, target: Target, canvas: tuple[int, int]) -> Observation:
        if target.placement is not None and self.images is not None:
            place, truth = target.placement, self.images.objects(target.image)
        else:
            place, truth = Placement(*canvas, 1.0), _as_objects(target)
        return Observation(target.image, place.height, place.width, *objects_back(found, place), truth)

    def metrics(self, observations: Sequence[list[Observation]]) -> DetectionMetrics:
        return average_precision([one for some in observations for one in some], self.classes)


def _as_objects(target: Target) -> Objects:
    """The objects of a target, in pixels of the canvas."""
    boxes = target.boxes.cpu().numpy()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1).astype(np.float64)
    masks = None
    if target.masks is not None:
        masks = tuple(encoded_mask(mask.bool().cpu().numpy()) for mask in target.masks)
    return Objects(boxes, target.labels.cpu().numpy(), target.crowd.cpu().numpy(), areas, masks)
