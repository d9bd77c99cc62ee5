"""A network as the backbone of a detector or segmenter: maps of several resolutions, with channels and strides.

Tensor names are the ConvNet's own, so its weights load unchanged; the norms of the outputs are new (Swin's and
ConvNeXt's detection code have one per output, since the network itself has none behind its middle stages).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nextify.networks.layers import norm as build_norm
from nextify.networks.layers import to_nchw, to_nhwc
from nextify.networks.layout import Conv, ImageSizeError, Layout, MaxPool, Named, Norm
from nextify.networks.network import ConvNet

Format = Literal["NCHW", "NHWC"]


@dataclass(frozen=True)
class Feature:
    """One output of a backbone."""

    stage: int
    """Index of the stage, from 0."""
    channels: int
    stride: int
    """Pixels of the image per pixel of the map, to each side."""

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
    total = 1
    for _, layer in layers:
        if isinstance(layer, Conv | MaxPool):
            total *= layer.stride
    return total


def pick(indices: Sequence[int] | int | None, stages: int) -> tuple[int, ...]:
    """Stage indices as timm reads ``out_indices``: negative ones count from the last, an int is the last n, None all.

    Raises:
        ValueError: an index that no stage has, or none at all.
    """
    if indices is None:
        return tuple(range(stages))
    if isinstance(indices, int):
        indices = range(stages - indices, stages)
    chosen = [i + stages if i < 0 else i for i in indices]
    if not chosen or min(chosen) < 0 or max(chosen) >= stages:
        raise ValueError(f"out_indices must be among 0 to {stages - 1} (or -{stages} to -1), got {list(indices)}")
    return tuple(sorted(set(chosen)))


class Backbone(nn.Module):
    """Stem and stages of a network; gives a list of maps, one for each of ``out_indices``.

    Args:
        net: the network whose modules are taken over; stages behind the last output are left out.
        out_indices: stages to give the maps of, as timm reads them.
        norms: a fresh norm of the network's kind on each output, or none.
        frozen_stages: 0 freezes nothing, 1 the stem and the first stage, 2 the first two stages, … Frozen parts take no
            gradient, and stay in evaluation mode (batch norm's running statistics, stochastic depth) under ``train()``.
        output_format: of the maps. Inside they are NHWC; ``NCHW`` gives a channels-last view, no copy.
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
            kind = _norm_kind(net.layout)
            for feature in self.feature_info:
                self.norms[str(feature.stage)] = build_norm(Norm(kind, feature.channels))
        self._freeze()

    @property
    def channels(self) -> list[int]:
        return [f.channels for f in self.feature_info]

    @property
    def strides(self) -> list[int]:
        return [f.stride for f in self.feature_info]

    def _frozen(self) -> list[nn.Module]:
        return [self.stem, *list(self.stages)[: self.frozen_stages]] if self.frozen_stages else []

    def _freeze(self) -> None:
        for part in self._frozen():
            part.eval()
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for part in self._frozen():
            part.eval()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for stage in self.stages:
            stage.checkpointing = enable  # type: ignore[assignment]

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(N, channels, H, W)`` images to maps, the highest resolution first.

        Raises:
            ImageSizeError: images smaller than the strides allow.
        """
        if min(images.shape[-2:]) < self.smallest_image:
            raise ImageSizeError(
                f"images of {images.shape[-2]}x{images.shape[-1]} are too small for this network; "
                f"each side must be at least {self.smallest_image} pixels"
            )
        x = self.stem(to_nhwc(images.contiguous(memory_format=torch.channels_last)))
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                y = self.norms[str(index)](x) if len(self.norms) else x
                maps.append(y if self.output_format == "NHWC" else to_nchw(y))
        return maps


def _norm_kind(net: Layout) -> Literal["batch", "layer"]:
    kinds = [layer.kind for _, layer in (*net.head, *net.stages[0].blocks[0].branch) if isinstance(layer, Norm)]
    return kinds[0]


def create_backbone(
    name_or_design: Any,
    out_indices: Sequence[int] | int | None = None,
    *,
    features_only: bool = True,
    in_chans: int = 3,
    norms: bool = False,
    frozen_stages: int = 0,
    output_format: Format = "NCHW",
    drop_path_rate: float = 0.0,
    weights: Any = None,
) -> Backbone:
    """A backbone of a named or given design; arguments as in ``timm.create_model(…, features_only=True)``.

    Args:
        name_or_design: as for ``create_model``.
        weights: as for ``nextify.weights.load``; their classifier is left out.
        drop_path_rate: stochastic depth.

    Raises:
        UnknownModel: no design of that name.
        WeightsError: weights that cannot be read, or of another design.
    """
    if not features_only:
        raise ValueError("a backbone gives features only; nextify.create_model gives logits")
    from nextify.networks.zoo import create_model

    if weights is None:
        net = create_model(name_or_design, 0, in_channels=in_chans, stochastic_depth=drop_path_rate)
    else:
        from nextify.weights import load

        net = load(weights, name_or_design, num_classes=0, in_channels=in_chans, stochastic_depth=drop_path_rate).model
        net.train()
    return Backbone(net, out_indices, norms=norms, frozen_stages=frozen_stages, output_format=output_format)
