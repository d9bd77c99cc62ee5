"""Multiply-adds of dense networks, counted as the field counts the paper's Tables 3 and 4.

mmdetection counts a two-stage head on 1,000 proposals and its mask branch on 100; mmsegmentation leaves the auxiliary
head out. Convolutions and matrix products count, attention's included; norms, activations and pooling do not.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead

from nextify.networks.dense.design import DenseDesign
from nextify.networks.dense.detection import OneStage, RegionHeads
from nextify.networks.dense.network import DenseNetwork

PROPOSALS, MASKED = 1000, 100
"""Boxes on which mmdetection counts a box head, and a mask head."""
CASCADE = 3
"""Box and mask heads of Cascade R-CNN (arXiv 1712.00726)."""


def dense_cost(design: DenseDesign, num_classes: int, height: int, width: int, *, cascade: bool = False) -> int:
    """Multiply-adds of one image of ``height`` by ``width`` pixels. ``cascade``: with the three heads of Cascade Mask
    R-CNN of the paper's Table 3, each of 4 convolutions and a linear layer and with one box for all classes, in place
    of Mask R-CNN's; counted only, not built otherwise."""
    with torch.device("meta"), torch.no_grad():
        network = DenseNetwork(design, num_classes, (height, width)).eval()
        with FlopCounterMode(display=False) as counter:
            run_counted(network, torch.empty(1, 3, height, width), cascade=cascade)
    return int(counter.get_total_flops()) // 2


def run_counted(network: DenseNetwork, image: Tensor, *, cascade: bool = False) -> None:
    """Run what counts on ``image (1, 3, H, W)`` of the meta device, where no box can be chosen."""
    head: Any = network.head
    maps = network.backbone(image)
    if not isinstance(head, OneStage | RegionHeads):
        head(maps, (image.shape[-2], image.shape[-1]))
        return
    levels = head.neck(maps)
    if isinstance(head, OneStage):
        head.net.head(levels)
        return
    head.proposals.head(levels)
    regions, channels = head.regions, network.design.width
    boxes: list[nn.Module] = [regions.box_head, regions.box_predictor]
    if cascade:
        outputs = nn.Linear(1024, network.num_classes + 1 + 4)
        boxes = [FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [1024], nn.BatchNorm2d).eval(), outputs]
    for _ in range(CASCADE if cascade else 1):
        nn.Sequential(*boxes)(torch.empty(PROPOSALS, channels, 7, 7, device="meta"))
        if regions.has_mask():
            nn.Sequential(regions.mask_head, regions.mask_predictor)(
                torch.empty(MASKED, channels, 14, 14, device="meta")
            )


def dense_parameters(design: DenseDesign, num_classes: int, canvas: tuple[int, int]) -> int:
    """Parameters of the whole network, for images of ``canvas (height, width)`` pixels."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in DenseNetwork(design, num_classes, canvas).parameters())
