"""A network as the backbone of a detector or segmenter: maps of several resolutions, with channels and strides.

Tensors have the ConvNet's names, so its weights load unchanged. Only the outputs' norms are new: as in Swin's and
ConvNeXt's detection code there is one per output, since the network itself has none after its middle stages.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from torch import Tensor, nn

from nextify.networks.layers import build, to_nchw
from nextify.networks.layout import Layout, Named, Norm
from nextify.networks.network import ConvNet, Trunk

Format = Literal["NCHW", "NHWC"]


@dataclass(frozen=True)
class Feature:
    """One output of a backbone."""

    stage: int
    """Index of the stage, from 0."""
    channels: int
    stride: int
    """Image pixels per pixel of the map, along each side."""

    @property
    def module(self) -> str:
        return f"stages.{self.stage}"


def features(net: Layout) -> tuple[Feature, ...]:
    """Channels and stride after each stage."""
    stride = _stride(net.stem)
    found = []
    for index, stage in enumerate(net.stages):
        stride *= _stride(stage.downsample)
        for block in stage.blocks:
            stride *= block.stride
        found.append(Feature(index, stage.channels, stride))
    return tuple(found)


def _stride(layers: Named) -> int:
    return math.prod(layer.input_size(2) - layer.input_size(1) for _, layer in layers)


def pick(indices: Sequence[int] | int | None, stages: int) -> tuple[int, ...]:
    """Stage indices, with ``indices`` read as timm reads ``out_indices``: negative ones count from the end, an int n
    means the last n. Raises ``ValueError`` where there is no such stage, or no index at all."""
    if indices is None:
        return tuple(range(stages))
    if isinstance(indices, int):
        indices = range(stages - indices, stages)
    chosen = [i + stages if i < 0 else i for i in indices]
    if not chosen or min(chosen) < 0 or max(chosen) >= stages:
        raise ValueError(f"out_indices must be among 0 to {stages - 1} (or -{stages} to -1), got {list(indices)}")
    return tuple(sorted(set(chosen)))


class Backbone(Trunk):
    """Stem and stages of a network; returns a list of maps, one for each of ``out_indices``.

    Args:
        net: the network whose modules the backbone takes over; stages after the last output are left out.
        out_indices: stages whose maps are returned, as timm reads them.
        norms: whether each output gets a fresh norm of the network's kind.
        frozen_stages: 0 freezes nothing, 1 the stem and the first stage, 2 the stem and the first two, … Frozen parts
            get no gradient and stay in evaluation mode (running statistics, no dropped paths) under ``train()``.
        output_format: axis order of the maps. ``NCHW`` is a channels-last view of the NHWC maps inside, not a copy.
    """

    def __init__(
        self,
        net: ConvNet,
        out_indices: Sequence[int] | int | None = None,
        *,
        norms: bool = False,
        frozen_stages: int = 0,
        output_format: Format = "NCHW",
    ) -> None:
        super().__init__()
        all_features = features(net.layout)
        self.out_indices = pick(out_indices, len(all_features))
        self.feature_info = tuple(all_features[i] for i in self.out_indices)
        if not 0 <= frozen_stages <= len(all_features):
            raise ValueError(f"frozen_stages must be between 0 and {len(all_features)}, got {frozen_stages}")
        if output_format not in ("NCHW", "NHWC"):
            raise ValueError(f"output_format must be NCHW or NHWC, got {output_format!r}")
        self.frozen_stages = frozen_stages
        self.output_format = output_format
        self.smallest_image = net.smallest_image
        self.stem = net.stem
        self.stages = nn.ModuleList(list(net.stages)[: self.out_indices[-1] + 1])
        self.norms = nn.ModuleDict()
        if norms:
            layers = (*net.layout.head, *net.layout.stages[0].blocks[0].branch)
            kind = next(layer.kind for _, layer in layers if isinstance(layer, Norm))
            for feature in self.feature_info:
                self.norms[str(feature.stage)] = build(Norm(kind, feature.channels))
        for part in self._frozen():
            part.eval().requires_grad_(False)

    @property
    def channels(self) -> list[int]:
        return [f.channels for f in self.feature_info]

    @property
    def strides(self) -> list[int]:
        return [f.stride for f in self.feature_info]

    def _frozen(self) -> list[nn.Module]:
        return [self.stem, *list(self.stages)[: self.frozen_stages]] if self.frozen_stages else []

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(N, channels, H, W)`` images to maps, the highest resolution first. Raises ``ImageSizeError`` where the
        images are smaller than the strides allow."""
        x, maps = self.forward_stem(images), []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                y = self.norms[str(index)](x) if len(self.norms) else x
                maps.append(y if self.output_format == "NHWC" else to_nchw(y))
        return maps
