"""Detectors and segmenters in a comparison: each network as the backbone of the same published head.

Inference includes what follows the head. Untrained weights find hardly any object, so that suppressing overlapping
boxes takes less time than with trained ones. Training is on made-up masks, or on as many objects as COCO's images have.
"""

from typing import Any

import torch
from torch import Tensor, nn

from nextify.data.dense.batches import Target
from nextify.networks.dense.cost import run_counted
from nextify.networks.dense.design import LARGE, DenseDesign, Head, fitted_head
from nextify.networks.dense.network import DenseNetwork
from nextify.networks.foreign import Foreign
from nextify.paper.design import Design

OBJECTS = 7
"""Of an image in training; COCO's train2017 has 860,001 in 118,287 images."""
CLASSES = {"detection": 80, "segmentation": 150}
"""COCO's and ADE20K's."""


class Measured(nn.Module):
    """A dense network that takes images alone: its losses in training, what it finds in evaluation, and on the meta
    device a run of what is counted."""

    def __init__(self, backbone: Design | Foreign, head: Head, image_size: int) -> None:
        super().__init__()
        self.design = published(backbone, head)
        self.network = DenseNetwork(self.design, CLASSES[self.design.task], (image_size, image_size))

    def forward(self, images: Tensor) -> Any:
        if images.is_meta:
            return run_counted(self.network, images)
        return self.network(images, self.targets(images)) if self.training else self.network(images)

    def targets(self, images: Tensor) -> Any:
        """Masks of stripes, or objects of all sizes along the diagonal."""
        side, device = images.shape[-1], images.device
        if self.design.task == "segmentation":
            stripes = torch.arange(side, device=device) // 32 % CLASSES["segmentation"]
            return stripes.expand(len(images), side, side)
        sizes = side * 0.5 ** torch.arange(1, OBJECTS + 1, device=device).div(2)
        corners = (side - sizes) * torch.arange(OBJECTS, device=device) / OBJECTS
        boxes = torch.stack([corners, corners, corners + sizes, corners + sizes], 1)
        labels, crowd = torch.arange(OBJECTS, device=device), torch.zeros(OBJECTS, dtype=torch.bool, device=device)
        masks = None
        if self.design.head == "mask_rcnn":
            at = torch.arange(side, device=device)
            inside = (at >= corners[:, None]) & (at < (corners + sizes)[:, None])
            masks = (inside[:, :, None] & inside[:, None]).to(torch.uint8)
        return [Target(boxes, labels, crowd, masks, image=-1)] * len(images)


def published(backbone: Design | Foreign, head: Head) -> DenseDesign:
    """The head as published, whatever the size, so that cost grows with nothing but the pixels."""
    return fitted_head(backbone, head, (LARGE + 1, LARGE + 1))
