"""Fully convolutional masked autoencoders (FCMAE, arXiv 2301.00808) for every design with depthwise blocks.

The encoder here is the definition: masked dense convolution. Masked pixels are zero before every spatial convolution,
the stem's and the downsampling layers' included; max pooling passes over them; norms see visible pixels only, layer
norm and response norm those of one image, batch norm those of the batch. ``kernels/gathered.py`` computes the same on
the visible pixels alone.

The published code (facebookresearch/ConvNeXt-V2, ``models/fcmae.py``) runs its encoder in MinkowskiEngine, whose
response norm spans all images on one GPU; its dense network's, and ours in both, spans one image.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nextify.networks.layers import (
    GlobalResponseNorm,
    LayerNorm,
    Pointwise,
    SpatialConv,
    initialize,
    to_nhwc,
    undecayed_parameters,
)
from nextify.networks.layout import Conv, layout, too_small
from nextify.networks.masked.design import MaskedDesign
from nextify.networks.network import Block, Chain, ConvNet
from nextify.paper.design import CONVNEXT_TINY

PIXELWISE = (LayerNorm, nn.GELU, nn.ReLU)
"""Layers that see one pixel at a time."""


class UnknownMaskedLayer(TypeError):
    """A layer of a kind for which masking is not defined; the message names it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(f"a {type(layer).__name__} layer cannot handle masked pixels: choose another design")


class Visible:
    """Which pixels of each resolution are visible; made once per batch."""

    def __init__(self, masked: Tensor, unit: int) -> None:
        """``masked (N, rows, columns)``: True for each unit that is masked."""
        self.masked, self.unit = masked, unit
        self._at: dict[tuple[int, int, int], Tensor] = {}

    def at(self, stride: int, height: int, width: int) -> Tensor:
        """``(N, height, width)``, True where a pixel of a map of that stride lies in a visible unit."""
        key = stride, height, width
        if key not in self._at:
            cells = self.unit // stride
            rows = (~self.masked).repeat_interleave(cells, 1)[:, :height]
            self._at[key] = rows.repeat_interleave(cells, 2)[:, :, :width]
        return self._at[key]

    def of(self, x: Tensor, stride: int) -> Tensor:
        """The same for a map ``(N, H, W, C)``."""
        return self.at(stride, x.shape[1], x.shape[2])


def stride_of(layer: nn.Module) -> int:
    """How much smaller a layer's output is, along a side."""
    stride: Any = getattr(layer, "stride", 1)
    return int(stride[0] if isinstance(stride, tuple) else stride)


class MaskedEncoder(ConvNet):
    """A network that sees the visible part of its images; tensors and names are the network's own.

    Its head takes no part and is not trained.
    """

    def __init__(self, design: MaskedDesign, stochastic_depth: float = 0.0) -> None:
        super().__init__(layout(design.encoder), 0, stochastic_depth)
        self.unit = design.unit
        self.head.requires_grad_(False)

    def forward(self, images: Tensor, masked: Tensor) -> Tensor:  # type: ignore[override]
        """``(N, 3, H, W)`` images and ``masked (N, rows, columns)``, True for each masked unit, to the last stage's
        ``(N, H', W', C)`` map, which is zero where masked."""
        visible = self.visible(images, masked)
        x = to_nhwc(images.contiguous(memory_format=torch.channels_last))
        x, stride = self._chain(self.stem, x, 1, visible)
        for stage in self.stages:
            x, stride = self._chain(stage.downsample, x, stride, visible)  # type: ignore[arg-type]
            for block in stage.blocks:  # type: ignore[union-attr]
                x, stride = self._block(block, x, stride, visible)
        return x.masked_fill(~visible.of(x, stride)[..., None], 0)

    def visible(self, images: Tensor, masked: Tensor) -> Visible:
        """Which pixels are visible. Raises ``ImageSizeError`` where the images are smaller than the strides allow, and
        ``ValueError`` where ``masked`` is not of one value for each unit of each image."""
        height, width = images.shape[-2:]
        if min(height, width) < self.smallest_image:
            raise too_small((height, width), self.smallest_image, " for this network")
        units = len(images), -(-height // self.unit), -(-width // self.unit)
        if masked.shape != units:
            raise ValueError(
                f"images of {height}x{width} have {units[1]}x{units[2]} units of {self.unit} pixels: masks must be "
                f"{units}, got {tuple(masked.shape)}"
            )
        return Visible(masked, self.unit)

    def _block(self, block: Block, x: Tensor, stride: int, visible: Visible) -> tuple[Tensor, int]:
        shortcut, _ = self._chain(block.shortcut, x, stride, visible)
        y, stride = self._chain(block, x, stride, visible)
        if block.layer_scale is not None:
            y = block.layer_scale * y
        return self._chain(block.after, shortcut + block.drop_path(y), stride, visible)

    def _chain(self, layers: Chain, x: Tensor, stride: int, visible: Visible) -> tuple[Tensor, int]:
        for name in layers.order:
            layer: nn.Module = getattr(layers, name)
            x = self._layer(layer, x, visible.of(x, stride)[..., None])
            stride *= stride_of(layer)
            if isinstance(layer, nn.MaxPool2d):  # minus infinity where nothing is visible
                x = x.masked_fill(~visible.of(x, stride)[..., None], 0)
        return x, stride

    def _layer(self, layer: nn.Module, x: Tensor, seen: Tensor) -> Tensor:
        """One layer; ``seen (N, H, W, 1)`` says which pixels of ``x`` are visible."""
        if isinstance(layer, (*PIXELWISE, Pointwise)):
            return layer(x)  # type: ignore[no-any-return]
        if isinstance(layer, SpatialConv | GlobalResponseNorm):  # zeros add nothing to a norm either
            return layer(x.masked_fill(~seen, 0))  # type: ignore[no-any-return]
        if isinstance(layer, nn.MaxPool2d):
            return layer(x.masked_fill(~seen, float("-inf")))  # type: ignore[no-any-return]
        if isinstance(layer, _BatchNorm):
            rows = layer(x[seen[..., 0]])
            return rows.new_zeros(x.shape).masked_scatter(seen, rows)  # type: ignore[no-any-return]
        raise UnknownMaskedLayer(layer)


class MaskedAutoencoder(nn.Module):
    """An encoder of the visible part of images, and a decoder that predicts each masked patch's normalized pixels."""

    def __init__(self, design: MaskedDesign, stochastic_depth: float = 0.0) -> None:
        super().__init__()
        self.design = design
        self.encoder = MaskedEncoder(design, stochastic_depth)
        width, stride = design.width, design.stride
        block = layout(
            CONVNEXT_TINY.with_(
                depths=(1,), widths=(width,), stage_strides=(1,), layer_scale="off", response_norm="global"
            )
        )
        self.projection = Pointwise(Conv(self.encoder.num_features, width, 1, 1, 0, 1, bias=True))
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.decoder = Block(block.stages[0].blocks[0], 0.0)
        self.prediction = Pointwise(Conv(width, 3 * stride**2, 1, 1, 0, 1, bias=True))
        for part in (self.projection, self.decoder, self.prediction):
            for module in part.modules():
                initialize(module, "truncated_normal")
        nn.init.normal_(self.mask_token, std=0.02)

    undecayed = ("mask_token",)

    def undecayed_parameters(self) -> Iterator[str]:
        """Names of the parameters exempt from weight decay, as a network's, and the mask token."""
        return undecayed_parameters(self)

    def decode(self, images: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's ``(N, H', W', width)``, of which ``prediction`` makes each patch's pixels by rows, columns and
        channels; and which patches are masked, ``(N, H', W')``."""
        x = self.projection(self.encoder(images, masked))
        hidden = ~Visible(masked, self.design.unit).of(x, self.design.stride)
        x = torch.where(hidden[..., None], self.mask_token.to(x.dtype), x)
        return self.decoder(x), hidden

    def forward(self, images: Tensor, masked: Tensor) -> Tensor:
        """Each image's ``(N,)`` mean squared error over its masked patches, whose pixels are normalized per patch."""
        decoded, hidden = self.decode(images, masked)
        predicted = self.prediction(decoded)
        target, _, _ = normalized_patches(patches(images, self.design.stride))
        errors = (predicted.float() - target).square().mean(-1)  # (N, H', W')
        return (errors * hidden).sum((1, 2)) / hidden.sum((1, 2)).clamp(min=1)  # type: ignore[no-any-return]

    @torch.no_grad()
    def reconstruct(self, images: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """Images whose masked patches are predicted, with each true patch's mean and deviation, which the target leaves
        open; and the same images with the masked patches at zero. Both ``(N, 3, H, W)``."""
        decoded, hidden = self.decode(images, masked)
        predicted = self.prediction(decoded)
        true = patches(images, self.design.stride)
        _, mean, deviation = normalized_patches(true)
        found = torch.where(hidden[..., None], predicted.float() * deviation + mean, true)
        return whole(found), whole(true * ~hidden[..., None])


def patches(images: Tensor, side: int) -> Tensor:
    """``(N, 3, H, W)`` images to ``(N, H / side, W / side, 3 side²)``, by rows, columns and channels. Raises
    ``ValueError`` where a side of the images is no multiple of ``side``."""
    n, channels, height, width = images.shape
    if height % side or width % side:
        raise ValueError(f"images of {height}x{width} do not divide into patches of {side} pixels: resize or crop them")
    cut = images.reshape(n, channels, height // side, side, width // side, side)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(n, height // side, width // side, -1)


def whole(cut: Tensor) -> Tensor:
    """The inverse of ``patches``."""
    n, rows, columns, values = cut.shape
    side = round((values // 3) ** 0.5)
    pixels = cut.reshape(n, rows, columns, side, side, 3).permute(0, 5, 1, 3, 2, 4)
    return pixels.reshape(n, 3, rows * side, columns * side)


def normalized_patches(cut: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each patch minus its mean over its deviation, and both; epsilon and the unbiased variance as published."""
    mean, variance = cut.mean(-1, keepdim=True), cut.var(-1, keepdim=True)
    deviation = (variance + 1e-6).sqrt()
    return (cut - mean) / deviation, mean, deviation
