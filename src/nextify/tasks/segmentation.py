"""Semantic segmentation: the network's own losses, and mean IoU in the images' own pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nextify.data.on_device import PerChannel
from nextify.data.preprocessing import normalized
from nextify.data.share import Share
from nextify.tasks.detection import in_evaluation, summed
from nextify.tasks.metric_specs import REGIONS
from nextify.tasks.restoring import regions_back
from nextify.tasks.segmentation_metrics import Pixels, SegmentationMetrics, by_class, pixel_confusion


@dataclass(frozen=True)
class Segmentation:
    """Segmentation into classes; the network brings its losses."""

    num_classes: int
    mean: PerChannel
    std: PerChannel
    device: torch.device
    bf16: bool = False
    """Whether the network computes in autocast."""

    metric_specs: ClassVar = REGIONS

    def training_batch(self, pixels: Tensor, targets: Any, step: int, share: Share | None) -> tuple[Tensor, Any]:
        return self.test_batch(pixels, targets)

    def test_batch(self, pixels: Tensor, targets: Any) -> tuple[Tensor, Any]:
        """Targets are index masks of the canvas ``(B, H, W)``, or of test images a ``Region`` each."""
        if isinstance(targets, Tensor):
            targets = targets.to(self.device, non_blocking=True)
        return normalized(pixels, self.device, self.mean, self.std), targets

    def loss(self, outputs: Mapping[str, Tensor], targets: Tensor, batch: int) -> Tensor:
        """Of the network's losses, each a mean over these images' pixels."""
        return summed(outputs, len(targets), batch)

    def observe(self, model: nn.Module, inputs: Tensor, targets: Any) -> Pixels:
        with in_evaluation(model), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = model(inputs)
        if isinstance(targets, Tensor):
            return Pixels(pixel_confusion(logits.argmax(1), targets, self.num_classes), len(targets))
        none = torch.zeros(0, dtype=torch.uint8)
        counts, each = pixel_confusion(none, none, self.num_classes), []
        for one, target in zip(logits, targets, strict=True):
            if target.image >= 0:
                found = regions_back(one, target.placement).cpu()
                own = pixel_confusion(found, target.mask, self.num_classes)
                counts += own
                each.append(by_class(own))
        return Pixels(counts, len(each), np.stack(each) if each else None)

    def metrics(self, observations: Sequence[Pixels]) -> SegmentationMetrics:
        return SegmentationMetrics.over(observations)


def pixel_weights(pixels: npt.NDArray[np.int64]) -> Tensor:
    """``(K,)``: inverse to the root of each class's share of the ``pixels (K,)``, 1 on average over them. With weights
    inverse to the share itself, rare classes would be found almost everywhere."""
    weights = np.maximum(pixels, 1) ** -0.5
    return torch.tensor(weights * np.sum(pixels) / np.sum(weights * pixels), dtype=torch.float32)
