"""A dense network: a backbone with a head for boxes or for masks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nextify.networks.backbone import Backbone
from nextify.networks.dense.backbones import build_backbone
from nextify.networks.dense.design import DenseDesign

if TYPE_CHECKING:
    from nextify.networks.dense.detection import Found

_LAST = {"cls_logits", "bbox_reg", "bbox_ctrness", "bbox_pred", "cls_score", "mask_fcn_logits", "classifier"}
"""Names of last layers in torchvision's heads and ours."""


class DenseNetwork(nn.Module):
    """Boxes or masks of ``(N, 3, H, W)`` images, all of one canvas.

    With ``targets`` it returns its losses by name, each the mean over the batch as its paper defines it: FCOS's over
    the batch's positive cells, RetinaNet's over each image's, a segmenter's over the batch's pixels. Without, in
    evaluation mode, a detector returns a ``Found`` per image and a segmenter float32 logits ``(N, K, H, W)``.

    Args:
        num_classes: without background.
        canvas: height and width of the images in pixels, multiples of the largest stride.
        stochastic_depth: probability of dropping the last block's branch in training; it grows linearly from 0.
    """

    def __init__(
        self, design: DenseDesign, num_classes: int, canvas: tuple[int, int], stochastic_depth: float = 0.0
    ) -> None:
        super().__init__()
        self.design, self.num_classes, self.canvas = design, num_classes, canvas
        self.backbone = build_backbone(design.backbone, canvas, design.first_stride, stochastic_depth)
        self.head: nn.Module
        # Imported here so that code of detectors and segmenters loads only where one is built.
        if design.task == "detection":
            from nextify.networks.dense.detection import detection_head

            self.head = detection_head(self.backbone, design, num_classes, canvas)
        else:
            from nextify.networks.dense.segmentation import segmentation_head

            self.head = segmentation_head(self.backbone, design, num_classes)
        self.head.to(memory_format=torch.channels_last)
        if isinstance(branches := getattr(self.head, "net", None), nn.Module):
            branches.to(memory_format=torch.contiguous_format)  # as a one-stage head calls them

    def forward(self, images: Tensor, targets: Any = None) -> dict[str, Tensor] | list[Found] | Tensor:
        canvas = (images.shape[-2], images.shape[-1])
        found: dict[str, Tensor] | list[Found] | Tensor = self.head(self.backbone(images), canvas, targets)
        return found

    def undecayed_parameters(self) -> Iterator[str]:
        """Names of the parameters exempt from weight decay: vectors, and what timm's networks name."""
        named: set[str] = getattr(getattr(self.backbone, "body", None), "no_weight_decay", set)()
        for name, parameter in self.named_parameters():
            if parameter.ndim <= 1 or name.removeprefix("backbone.body.") in named:
                yield name

    def outputs(self) -> list[nn.Module]:
        """The last layers, whose outputs are classes, boxes, scores and masks."""
        return [module for name, module in self.head.named_modules() if name.rpartition(".")[2] in _LAST]

    @property
    def trunk(self) -> Backbone | None:
        """The backbone, where it is one of our networks."""
        return self.backbone if isinstance(self.backbone, Backbone) else None
