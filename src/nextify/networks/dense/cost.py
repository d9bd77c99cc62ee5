"""Multiply-adds of dense networks, counted as the field counts the paper's Tables 3 and 4.

mmdetection counts a two-stage head on 1,000 proposals and its mask branch on 100; mmsegmentation leaves the auxiliary
head out. Convolutions and matrix products count, attention's included; norms, activations and pooling do not.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nextify.networks.dense.design import DenseDesign
from nextify.networks.dense.detection import OneStage, RegionHeads
from nextify.networks.dense.network import DenseNetwork

PROPOSALS, MASKED = 1000, 100
"""Boxes on which mmdetection counts a box head, and a mask head."""


def dense_cost(design: DenseDesign, num_classes: int, height: int, width: int) -> int:
    """Multiply-adds of one image of ``height`` by ``width`` pixels."""
    with torch.device("meta"), torch.no_grad():
        network = DenseNetwork(design, num_classes, (height, width)).eval()
        with FlopCounterMode(display=False) as counter:
            run_counted(network, torch.empty(1, 3, height, width))
    return int(counter.get_total_flops()) // 2


def run_counted(network: DenseNetwork, image: Tensor) -> None:
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
    boxes, masked = (torch.empty(count, channels, side, side, device="meta")
                     for count, side in ((PROPOSALS, 7), (MASKED, 14)))  # fmt: skip
    nn.Sequential(regions.box_head, regions.box_predictor)(boxes)
    if regions.has_mask():
        nn.Sequential(regions.mask_head, regions.mask_predictor)(masked)


def dense_parameters(design: DenseDesign, num_classes: int, canvas: tuple[int, int]) -> int:
    """Parameters of the whole network, for images of ``canvas (height, width)`` pixels."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in DenseNetwork(design, num_classes, canvas).parameters())
