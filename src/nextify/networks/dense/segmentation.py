"""Segmentation heads: UPerNet, which the paper uses, and a light feature pyramid."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from nextify.networks.dense.backbones import Maps
from nextify.networks.dense.design import GROUPS, DenseDesign
from nextify.networks.dense.necks import Entrance, Pyramid
from nextify.networks.dense.shares import DropChannels, Head

IGNORED = 255
"""Index of pixels that are neither trained on nor counted."""
POOLED = (1, 2, 3, 6)
"""Sides of UPerNet's pooled maps (arXiv 1807.10221, after PSPNet)."""
AUXILIARY = 0.4
"""Weight of the loss of UPerNet's auxiliary head, as in mmsegmentation."""
DROPOUT = 0.1


def _layer(in_channels: int, width: int, side: int, groups: int = GROUPS) -> nn.Module:
    layer: nn.Module = Conv2dNormActivation(
        in_channels, width, side, norm_layer=lambda channels: nn.GroupNorm(groups, channels), inplace=None
    )
    return layer


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


def _pixel_loss(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Summed cross entropy of ``logits (B, K, H, W)`` at the pixels of ``targets (B, H', W')`` that are not ignored."""
    full = _resized(logits.float(), (targets.shape[-2], targets.shape[-1]))
    return F.cross_entropy(full, targets.long(), weights, ignore_index=IGNORED, reduction="sum")


class SegmentationHead(Head):
    """Losses in training, logits at the size of the canvas in evaluation."""

    pixel_weights: Tensor | None
    """``(K,)``, of the pixels of each class; None weights all alike."""

    def features(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What the classifier sees, and what the auxiliary head sees."""
        raise NotImplementedError

    def forward(
        self, maps: list[Tensor], canvas: tuple[int, int], targets: Tensor | None = None
    ) -> dict[str, Tensor] | Tensor:
        seen, below = self.features(maps)
        logits: Tensor = self.classifier(self.dropout(seen))
        if targets is None:
            return _resized(logits.float(), canvas)
        weights, counted = self.pixel_weights, targets != IGNORED
        count = self.averaged(
            counted.sum() if weights is None else weights[targets[counted].long()].sum(), len(targets)
        )
        losses = {"pixels": _pixel_loss(logits, targets, weights) / count}
        if self.auxiliary is not None:
            losses["auxiliary"] = AUXILIARY * (_pixel_loss(self.auxiliary(below), targets, weights) / count)
        return losses

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("pixel_weights", None, persistent=False)
        self.auxiliary: nn.Module | None = None
        self.dropout = DropChannels(DROPOUT)
        self.classifier = nn.Conv2d(width, num_classes, 1)


class UPerNet(SegmentationHead):
    """UPerNet: pyramid pooling on the coarsest map, a feature pyramid, and all its levels fused at the finest.

    Its norms are group norms, where mmsegmentation's are batch norms over all GPUs; multiply-adds are the same.
    """

    def __init__(self, backbone: Maps, design: DenseDesign, num_classes: int) -> None:
        width = design.width
        super().__init__(width, num_classes)
        self.entrance = Entrance(backbone, design.first_stride)
        *below, last = self.entrance.channels
        groups = min(GROUPS, width // 2)  # one value in a group, of a map pooled to a pixel, would always become zero
        self.pooled = nn.ModuleList(_layer(last, width, 1, groups) for _ in POOLED)
        self.bottleneck = _layer(last + len(POOLED) * width, width, 3)
        self.laterals = nn.ModuleList(_layer(channels, width, 1) for channels in below)
        self.outputs = nn.ModuleList(_layer(width, width, 3) for _ in below)
        self.fusion = _layer((len(below) + 1) * width, width, 3)
        thin = max(GROUPS, width // 2)
        self.auxiliary = nn.Sequential(
            _layer((below or [last])[-1], thin, 3), DropChannels(DROPOUT), nn.Conv2d(thin, num_classes, 1)
        )

    def features(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        maps = self.entrance(maps)
        *below, last = maps
        pooled = [
            _resized(layer(F.adaptive_avg_pool2d(last, side)), _size(last))
            for layer, side in zip(self.pooled, POOLED, strict=True)
        ]
        top = self.bottleneck(torch.cat([last, *pooled], 1))
        levels = [top]
        for lateral, x in zip(reversed(self.laterals), reversed(below), strict=True):
            top = lateral(x) + _resized(top, _size(x))
            levels.insert(0, top)
        levels[:-1] = [layer(x) for layer, x in zip(self.outputs, levels[:-1], strict=True)]
        finest = _size(levels[0])
        fused = self.fusion(torch.cat([levels[0], *(_resized(x, finest) for x in levels[1:])], 1))
        return fused, (below or [last])[-1]


class FpnHead(SegmentationHead):
    """A light head (after arXiv 1901.02446): one convolution on each level of a feature pyramid, and their sum."""

    def __init__(self, backbone: Maps, design: DenseDesign, num_classes: int) -> None:
        super().__init__(design.width, num_classes)
        self.neck = Pyramid(backbone, design.first_stride, design.width)
        self.levels = nn.ModuleList(_layer(design.width, design.width, 3) for _ in self.neck.strides)

    def features(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        levels = self.neck(maps)
        first, *others = (layer(x) for layer, x in zip(self.levels, levels, strict=True))
        for x in others:
            first = first + _resized(x, _size(first))
        return first, levels[0]


def segmentation_head(backbone: Maps, design: DenseDesign, num_classes: int) -> SegmentationHead:
    match design.head:
        case "upernet":
            return UPerNet(backbone, design, num_classes)
        case "fpn":
            return FpnHead(backbone, design, num_classes)
        case _:
            raise ValueError(f"{design.head} is a head for boxes, not for masks")
