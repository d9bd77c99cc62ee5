"""What heads stand on: maps of several resolutions, from our networks or timm's, or made from a single one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nextify.networks.backbone import Backbone, features
from nextify.networks.foreign import Foreign, built_by_timm
from nextify.networks.layout import layout
from nextify.networks.network import ConvNet
from nextify.paper.design import Design


class Maps(Protocol):
    """What heads ask of a backbone, which turns images ``(N, 3, H, W)`` into maps ``(N, C, H / stride, W / stride)``,
    the finest first."""

    @property
    def channels(self) -> Sequence[int]: ...
    @property
    def strides(self) -> Sequence[int]: ...


def build_backbone(
    network: Design | Foreign, canvas: tuple[int, int], first_stride: int, stochastic_depth: float = 0.0
) -> Backbone | TimmBackbone:
    """The backbone with one map per stride from ``first_stride`` on, each with a norm of its own, fresh weights.

    A network of one resolution throughout gives a single map.
    """
    if isinstance(network, Foreign):
        return TimmBackbone(network, canvas, first_stride, stochastic_depth)
    network.warn_of_inert_choices()
    net = ConvNet(layout(network), 0, stochastic_depth)
    strides = [feature.stride for feature in features(net.layout)]
    return Backbone(net, _chosen(strides, first_stride), norms=True)


def _chosen(strides: Sequence[int], first: int) -> list[int]:
    """Indices of the last map of each stride, from stride ``first`` on; at least the coarsest."""
    last = {stride: index for index, stride in enumerate(strides)}
    return [index for stride, index in last.items() if stride >= first] or [len(strides) - 1]


class TimmBackbone(nn.Module):
    """timm's ``features_only`` network. Where it has no batch norm each map gets a layer norm, as in Swin's detectors.

    Networks that are built for one image size are built for the canvas.
    """

    def __init__(
        self, network: Foreign, canvas: tuple[int, int], first_stride: int, stochastic_depth: float = 0.0
    ) -> None:
        super().__init__()
        import timm
        from timm.layers import LayerNorm2d

        config = timm.get_pretrained_cfg(network.name)
        self.one_size = config is not None and bool(config.fixed_input_size)
        size = {"img_size": canvas} if self.one_size else {}
        with torch.device("meta"):
            stages = built_by_timm(network, stochastic_depth, **size).feature_info
        chosen = _chosen([int(stage["reduction"]) for stage in stages], first_stride)
        self.body = built_by_timm(network, stochastic_depth, features_only=True, out_indices=chosen, **size)
        self.strides = [int(stride) for stride in self.body.feature_info.reduction()]
        self.channels = [int(channels) for channels in self.body.feature_info.channels()]
        self.nhwc = str(getattr(self.body.output_fmt, "value", "NCHW")) == "NHWC"
        plain = any(isinstance(module, _BatchNorm) for module in self.body.modules())
        self.norms = nn.ModuleList([] if plain else [LayerNorm2d(c) for c in self.channels])

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [x.permute(0, 3, 1, 2) if self.nhwc else x for x in self.body(images)]
        return [norm(x) for norm, x in zip(self.norms, maps, strict=True)] if len(self.norms) else maps


class SimplePyramid(nn.Module):
    """Maps of strides 4, 8, 16 and 32 from the one of a plain ViT (arXiv 2203.16527, section 3, figure 2c) or of an
    isotropic network: transposed convolutions upwards, max pooling downwards."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        from timm.layers import LayerNorm2d

        self.strides = [4, 8, 16, 32]
        self.channels, self.levels = [], nn.ModuleList()
        for wanted in self.strides:
            layers: list[nn.Module] = []
            width, now = channels, stride
            while now > wanted:
                if layers:
                    layers += [LayerNorm2d(width), nn.GELU()]
                layers.append(nn.ConvTranspose2d(width, max(width // 2, 16), 2, 2))
                width, now = max(width // 2, 16), now // 2
            if now < wanted:
                layers.append(nn.MaxPool2d(wanted // now))
            self.levels.append(nn.Sequential(*layers))
            self.channels.append(width)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [level(x) for level in self.levels]
