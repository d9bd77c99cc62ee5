"""Multiply-adds of dense networks, counted as the field counts the paper's Tables 3 and 4.

mmdetection counts a two-stage head on 1,000 proposals and its mask branch on 100; mmsegmentation leaves the auxiliary
head out. Convolutions and matrix products count, attention's included; norms, activations and pooling do not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead

from nextify.networks.dense.design import DenseDesign
from nextify.networks.dense.detection import OneStage, RegionHeads
from nextify.networks.dense.network import build_dense

PROPOSALS, MASKED = 1000, 100
"""Boxes on which mmdetection counts a box head, and a mask head."""
CASCADE = 3
"""Box and mask heads of Cascade R-CNN (arXiv 1712.00726)."""


def dense_cost(design: DenseDesign, num_classes: int, height: int, width: int, *, cascade: bool = False) -> int:
    """Multiply-adds of one image of ``height`` by ``width`` pixels.

    Args:
        cascade: with the three heads of Cascade Mask R-CNN of the paper's Table 3, each of 4 convolutions and a linear
            layer and with one box for all classes, in place of Mask R-CNN's; counted only, not built otherwise.
    """
    with torch.device("meta"):
        network = build_dense(design, num_classes, (height, width)).eval()
        maps, macs = _counted(network.backbone, torch.empty(1, 3, height, width))
        head: Any = network.head
        if not isinstance(head, OneStage | RegionHeads):
            return macs + _counted(head, maps, (height, width))[1]
        levels, neck = _counted(head.neck, maps)
        if isinstance(head, OneStage):
            return macs + neck + _counted(head.net.head, levels)[1]
        macs += neck + _counted(head.proposals.head, levels)[1]
        regions, channels = head.regions, design.width
        boxes: list[nn.Module] = [regions.box_head, regions.box_predictor]
        times = 1
        if cascade:
            times = CASCADE
            outputs = nn.Linear(1024, num_classes + 1 + 4)
            boxes = [FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [1024], nn.BatchNorm2d).eval(), outputs]
        macs += times * _counted(nn.Sequential(*boxes), torch.empty(PROPOSALS, channels, 7, 7))[1]
        if regions.has_mask():
            masks = nn.Sequential(regions.mask_head, regions.mask_predictor)
            macs += times * _counted(masks, torch.empty(MASKED, channels, 14, 14))[1]
    return macs


@torch.no_grad()
def _counted(module: nn.Module, *inputs: Any) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        found = module(*inputs)
    return found, counter.get_total_flops() // 2
