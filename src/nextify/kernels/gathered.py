"""A masked autoencoder whose encoder computes on the visible pixels, and which predicts the masked patches, alone.

They are gathered as rows ``(M, C)``, on which 1x1 layers, norms and activations work; so do convolutions of patches
that do not overlap, such as the stem and the downsampling layers. A depthwise convolution scatters them into a map of
zeros, runs there on whichever kernel suits it, and gathers the result. At 60 % masked, a block's 1x1 layers, 94 to 99 %
of its multiply-adds, so take 40 % of the time. Outputs and gradients are those of ``networks/masked/network.py``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nextify.networks.layers import GlobalResponseNorm, Pointwise, SpatialConv, to_nhwc
from nextify.networks.masked.network import (
    PIXELWISE,
    MaskedAutoencoder,
    MaskedEncoder,
    UnknownMaskedLayer,
    Visible,
    normalized_patches,
    patches,
    stride_of,
)
from nextify.networks.network import Block, Chain


class _Gather(torch.autograd.Function):
    """Rows ``index (M,)`` of ``x (P, C)``, none of them twice, which spares the backward pass from adding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.rows = len(x)
        ctx.save_for_backward(index)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.rows, *grad.shape[1:]).index_copy_(0, index, grad), None


class _Scatter(torch.autograd.Function):
    """``x (M, C)`` at rows ``index (M,)``, none of them twice, of ``(P, C)``, the others filled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, rows: int, fill: float) -> Tensor:
        ctx.save_for_backward(index)
        return x.new_full((rows, *x.shape[1:]), fill).index_copy_(0, index, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (index,) = ctx.saved_tensors
        return grad.index_select(0, index), None, None, None


class Places:
    """Where the visible pixels of one resolution lie."""

    def __init__(self, seen: Tensor) -> None:
        """``seen (N, H, W)``: True where a pixel is visible."""
        self.shape = seen.shape
        self.index = seen.flatten().nonzero().flatten()  # (M,), into the maps' N H W pixels
        self.image = self.index // (seen.shape[1] * seen.shape[2])  # (M,)
        counts = torch.bincount(self.image, minlength=len(seen))
        self.most = int(counts.max())  # visible pixels of an image
        self.even = self.most * len(seen) == len(self.index)
        """Whether all images have as many."""
        first = counts.cumsum(0) - counts
        self.slots = self.image * self.most + torch.arange(len(self.index), device=seen.device) - first[self.image]
        self._row: Tensor | None = None

    @property
    def row(self) -> Tensor:
        """``(N, H, W)``: the row of each visible pixel."""
        if self._row is None:
            pixels = self.shape.numel()
            row = torch.zeros(pixels, dtype=torch.int64, device=self.index.device)
            self._row = row.index_copy_(0, self.index, torch.arange(len(self.index), device=row.device))
        return self._row.view(self.shape)

    def map(self, rows: Tensor, fill: float = 0.0) -> Tensor:
        """``(N, H, W, C)`` of the visible pixels' ``(M, C)``, filled elsewhere."""
        return _Scatter.apply(rows, self.index, self.shape.numel(), fill).view(*self.shape, -1)  # type: ignore[no-any-return]

    def of(self, x: Tensor) -> Tensor:
        """The visible pixels ``(M, C)`` of a map ``(N, H, W, C)``."""
        return _Gather.apply(x.reshape(-1, x.shape[-1]), self.index)  # type: ignore[no-any-return]

    def by_image(self, rows: Tensor) -> Tensor:
        """``(N, pixels, 1, C)``, with zeros behind those of images that have fewer."""
        if not self.even:
            rows = _Scatter.apply(rows, self.slots, self.most * self.shape[0], 0.0)
        return rows.view(self.shape[0], self.most, 1, -1)

    def from_images(self, x: Tensor) -> Tensor:
        """The inverse of ``by_image``."""
        rows = x.reshape(-1, x.shape[-1])
        return rows if self.even else _Gather.apply(rows, self.slots)


class AllPlaces:
    """The visible pixels of each resolution; made once per batch."""

    def __init__(self, visible: Visible) -> None:
        self.visible = visible
        self._at: dict[tuple[int, int, int], Places] = {}

    def at(self, stride: int, height: int, width: int) -> Places:
        key = stride, height, width
        if key not in self._at:
            self._at[key] = Places(self.visible.at(*key))
        return self._at[key]


class State:
    """Activations between two layers: the visible pixels, where they lie, and the stride of their map."""

    def __init__(self, rows: Tensor, places: Places, stride: int) -> None:
        self.rows, self.places, self.stride = rows, places, stride

    def with_(self, rows: Tensor) -> State:
        return State(rows, self.places, self.stride)


def encode(encoder: MaskedEncoder, images: Tensor, masked: Tensor) -> Tensor:
    """What ``MaskedEncoder.forward`` returns, computed on the visible pixels."""
    everywhere = AllPlaces(encoder.visible(images, masked))
    x = to_nhwc(images.contiguous(memory_format=torch.channels_last))
    first, *rest = encoder.stem.order
    state = _first(getattr(encoder.stem, first), x, everywhere)
    state = _layers(encoder.stem, rest, state, everywhere)
    for stage in encoder.stages:
        state = _chain(stage.downsample, state, everywhere)  # type: ignore[arg-type]
        for block in stage.blocks:  # type: ignore[union-attr]
            state = _block(block, state, everywhere)
    return state.places.map(state.rows)


def errors(model: MaskedAutoencoder, images: Tensor, masked: Tensor) -> Tensor:
    """What ``MaskedAutoencoder.forward`` returns, with predictions of the masked patches alone."""
    decoded, hidden = model.decode(images, masked)
    places = Places(hidden)
    predicted = model.prediction(places.of(decoded)).float()
    target, _, _ = normalized_patches(places.of(patches(images, model.design.stride)))
    of_patches = places.map((predicted - target).square().mean(-1, keepdim=True))  # (N, H', W', 1)
    return of_patches.sum((1, 2, 3)) / hidden.sum((1, 2)).clamp(min=1)


def _first(layer: nn.Module, x: Tensor, everywhere: AllPlaces) -> State:
    """The stem's convolution, of images ``(N, H, W, 3)``, which are no rows yet."""
    if not isinstance(layer, SpatialConv):
        raise UnknownMaskedLayer(layer)
    stride = layer.stride[0]
    if not layer.of_patches:
        seen = everywhere.visible.of(x, 1)[..., None]
        y = layer(x.masked_fill(~seen, 0))
        places = everywhere.at(stride, y.shape[1], y.shape[2])
        return State(places.of(y), places, stride)
    n, height, width = x.shape[0], x.shape[1] // stride, x.shape[2] // stride
    places = everywhere.at(stride, height, width)
    cut = x[:, : height * stride, : width * stride].reshape(n, height, stride, width, -1)  # columns and channels last
    cut = cut.transpose(2, 3).reshape(n, height, width, -1)
    return State(_product(layer, places.of(cut)), places, stride)


def _product(layer: SpatialConv, rows: Tensor) -> Tensor:
    """A convolution of patches ``(M, K K C)``."""
    return F.linear(rows, layer.weight.permute(0, 2, 3, 1).reshape(layer.out_channels, -1), layer.bias)


def _block(block: Block, state: State, everywhere: AllPlaces) -> State:
    shortcut = _chain(block.shortcut, state, everywhere)
    state = _chain(block, state, everywhere)
    rows = state.rows
    if block.layer_scale is not None:
        rows = block.layer_scale * rows
    factor = block.drop_path.factor(rows.new_empty(state.places.shape[0], 0))
    if factor is not None:
        rows = rows * factor.view(-1, 1)[state.places.image]
    return _chain(block.after, state.with_(shortcut.rows + rows), everywhere)


def _chain(layers: Chain, state: State, everywhere: AllPlaces) -> State:
    return _layers(layers, layers.order, state, everywhere)


def _layers(chain: Chain, names: Any, state: State, everywhere: AllPlaces) -> State:
    for name in names:
        state = _layer(getattr(chain, name), state, everywhere)
    return state


def _layer(layer: nn.Module, state: State, everywhere: AllPlaces) -> State:
    rows, places, stride = state.rows, state.places, state.stride * stride_of(layer)
    if isinstance(layer, (*PIXELWISE, _BatchNorm)):
        return state.with_(layer(rows))
    if isinstance(layer, GlobalResponseNorm):
        return state.with_(places.from_images(layer(places.by_image(rows))))
    if isinstance(layer, Pointwise):
        if layer.stride == 1:
            return state.with_(layer(rows))
        row = places.row[:, :: layer.stride, :: layer.stride]
        smaller = everywhere.at(stride, row.shape[1], row.shape[2])
        taken = _Gather.apply(rows, row.flatten()[smaller.index])
        return State(F.linear(taken, layer.weight, layer.bias), smaller, stride)
    if isinstance(layer, SpatialConv) and layer.of_patches:
        side, (n, height, width) = layer.stride[0], places.shape
        height, width = height // side, width // side
        smaller = everywhere.at(stride, height, width)
        row = places.row[:, : height * side, : width * side].reshape(n, height, side, width, side)
        taken = row.transpose(2, 3).reshape(-1, side * side)[smaller.index]  # (M, K K), rows of each patch
        cut = _Gather.apply(rows, taken.flatten()).view(len(taken), -1)
        return State(_product(layer, cut), smaller, stride)
    if isinstance(layer, SpatialConv | nn.MaxPool2d):
        y = layer(places.map(rows, 0.0 if isinstance(layer, SpatialConv) else float("-inf")))
        smaller = everywhere.at(stride, y.shape[1], y.shape[2])
        return State(smaller.of(y), smaller, stride)
    raise UnknownMaskedLayer(layer)
