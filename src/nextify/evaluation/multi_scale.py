"""Segmentation at several sizes: what the paper's Table 4 and mmsegmentation call multi-scale testing."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextify.networks.dense.backbones import TimmBackbone
from nextify.networks.dense.network import DenseNetwork

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Of the canvas; mmsegmentation's."""


class MultiScale(nn.Module):
    """A segmenter's answer averaged over sizes of the image and its mirror image.

    Takes images ``(N, 3, H, W)`` and returns the logarithm of the mean probabilities, float32 ``(N, K, H, W)``. Raises
    ``ValueError`` for a detector, or a network that takes images of one size only."""

    def __init__(self, network: DenseNetwork) -> None:
        super().__init__()
        if network.design.task != "segmentation":
            raise ValueError("multi-scale is for segmenters, and this network is a detector: leave it out")
        if isinstance(network.backbone, TimmBackbone) and network.backbone.one_size:
            raise ValueError("multi-scale is for networks that take images of any size: leave it out")
        self.network = network
        self.stride = max(network.backbone.strides)

    def forward(self, images: Tensor) -> Tensor:
        canvas, stride = images.shape[-2:], self.stride
        total = torch.zeros((), device=images.device)
        for scale in SCALES:
            size = [max(1, round(scale * side / stride)) * stride for side in canvas]
            x = F.interpolate(images, size, mode="bilinear", antialias=True)
            for mirrored in (False, True):
                logits = self.network(x.flip(-1) if mirrored else x).float()
                logits = F.interpolate(logits.flip(-1) if mirrored else logits, canvas, mode="bilinear")
                total = total + logits.softmax(1)
        return (total / (2 * len(SCALES))).clamp(min=torch.finfo(total.dtype).tiny).log()
