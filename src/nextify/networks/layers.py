"""The layers of a Layout as torch modules. Activations travel as ``(N, H, W, C)``, so that every 1x1 convolution is a
linear layer and every norm acts on the last axis; a spatial convolution views them as channels-last NCHW, no copy.

A module names the parameters that weight decay must spare in ``undecayed``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextify.kernels.depthwise.cpu import depthwise_conv
from nextify.kernels.gelu.cpu import GELU
from nextify.kernels.precision import AVX2_ALONE, computed_in
from nextify.kernels.tracing import for_elsewhere, for_inference
from nextify.networks.layout import Activation, Conv, Layer, MaxPool, Norm, ResponseNorm

LAYER_NORM_EPS = 1e-6
"""As in the released ConvNeXt; batch norm keeps torch's 1e-5, as torchvision's ResNet."""


def to_nchw(x: Tensor) -> Tensor:
    """``(N, H, W, C)`` seen as ``(N, C, H, W)`` in channels-last memory; no copy."""
    return x.permute(0, 3, 1, 2)


def to_nhwc(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` seen as ``(N, H, W, C)``; no copy where the memory is channels-last."""
    return x.permute(0, 2, 3, 1)


class Pointwise(nn.Linear):
    """A 1x1 convolution of any stride on ``(N, H, W, C)``."""

    undecayed: ClassVar = ("bias",)

    def __init__(self, conv: Conv) -> None:
        super().__init__(conv.in_channels, conv.out_channels, bias=conv.bias)
        self.stride = conv.stride

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = x[:, :: self.stride, :: self.stride]
        return linear(x, self)


class SpatialConv(nn.Conv2d):
    """A convolution over pixels, grouped or not, on ``(N, H, W, C)``."""

    undecayed: ClassVar = ("bias",)

    def __init__(self, conv: Conv) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            groups=conv.groups,
            bias=conv.bias,
        )
        self.depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        if self.depthwise:
            return depthwise_conv(x, self.weight, self.bias, self.stride[0])
        return to_nhwc(super().forward(to_nchw(x)))


class BatchNorm(nn.BatchNorm2d):
    """Batch norm over the last axis of ``(N, H, W, C)`` or ``(N, C)``."""

    undecayed: ClassVar = ("weight", "bias")

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return super().forward(x[:, :, None, None]).flatten(1)
        return to_nhwc(super().forward(to_nchw(x)))


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last axis."""

    undecayed: ClassVar = ("weight", "bias")


class GlobalResponseNorm(nn.Module):
    """ConvNeXt-V2's response norm on ``(N, H, W, C)``: each channel against the others by its norm over all pixels.

    Source: arXiv 2301.00808, section 3, algorithm 1 (gamma and beta start at zero; epsilon 1e-6).
    """

    undecayed: ClassVar = ("weight", "bias")

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)  # (N, 1, 1, C)
        share = size / (size.mean(dim=-1, keepdim=True) + 1e-6)
        return x + torch.addcmul(self.bias, self.weight * share, x)


class Pool(nn.MaxPool2d):
    """Max pooling on ``(N, H, W, C)``."""

    def __init__(self, pool: MaxPool) -> None:
        super().__init__(pool.kernel_size, pool.stride, pool.padding)

    def forward(self, x: Tensor) -> Tensor:
        return to_nhwc(super().forward(to_nchw(x)))


def norm(layer: Norm) -> nn.Module:
    if layer.kind == "batch":
        return BatchNorm(layer.channels)
    return LayerNorm(layer.channels, eps=LAYER_NORM_EPS)


def build(layer: Layer) -> nn.Module:
    """The torch module of one layer of a Layout."""
    if isinstance(layer, Conv):
        return Pointwise(layer) if layer.kernel_size == 1 and layer.groups == 1 else SpatialConv(layer)
    if isinstance(layer, Norm):
        return norm(layer)
    if isinstance(layer, Activation):
        return nn.ReLU() if layer.kind == "relu" else GELU()
    if isinstance(layer, ResponseNorm):
        return GlobalResponseNorm(layer.channels)
    return Pool(layer)


class DropPath(nn.Module):
    """Stochastic depth per image (arXiv 1603.09382): zero the branch with chance ``rate``, scale the rest up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.part: tuple[Tensor, int] | None = None
        """Where the images are rows of a larger batch: which, and of how many. All of its paths are drawn then."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        batch = x.shape[0] if self.part is None else self.part[1]
        kept = torch.empty((batch, 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(1 - self.rate)
        if self.part is not None:
            kept = kept[self.part[0]]
        return x * (kept / (1 - self.rate))

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def initialize(module: nn.Module, how: str) -> None:
    """Initial weights of one module's own parameters: ``he`` (arXiv 1502.01852, fan out, as torchvision's ResNet)
    or ``truncated_normal`` of standard deviation 0.02 with zero biases (as the released ConvNeXt)."""
    if not isinstance(module, nn.Conv2d | nn.Linear):
        return
    fill: Callable[[Tensor], Tensor]
    if how == "he":
        fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        std = (2.0 / (fan_out / groups)) ** 0.5

        def fill(weight: Tensor) -> Tensor:
            return nn.init.normal_(weight, std=std)
    else:

        def fill(weight: Tensor) -> Tensor:
            return nn.init.trunc_normal_(weight, std=0.02)

    fill(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _adds_afterwards() -> bool:
    """Whether bias and layer scale are applied after the product, where the elementwise operations that follow absorb
    them: in a graph compiled for inference, on a CPU with AVX2 alone. torch's product with a bias copies the bias over
    its output first. ConvNeXt-T, float32, 224², images/s over timm's compiled ones: with AVX2 alone 1.03 to 1.04 so,
    0.98 to 1.00 otherwise (batch 16, 7 rounds); with AVX-512 0.96 so, 0.99 otherwise (batch 16, 8 rounds) and 0.94,
    0.98 (batch 1, 20 rounds); 2 cores of two kinds of AMD EPYC, shared with other machines, torch 2.15.0."""
    return AVX2_ALONE and for_inference()


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    """The layer's output; the bias is added afterwards where that pays, in float32 only: under autocast it would be
    rounded once more."""
    afterwards = _adds_afterwards() and x.device.type == "cpu" and computed_in(x) == torch.float32
    if afterwards and layer.bias is not None:
        return F.linear(x, layer.weight) + layer.bias
    return F.linear(x, layer.weight, layer.bias)


def scaled_linear(x: Tensor, layer: nn.Linear, scale: Tensor) -> Tensor:
    """``scale * layer(x)``, on the smaller of the two: folded into the weights, exact, or on the output.

    A graph for elsewhere has it folded.
    """
    if not for_elsewhere() and (_adds_afterwards() or x.numel() // layer.in_features <= layer.in_features):
        return linear(x, layer) * scale
    return F.linear(x, scale[:, None] * layer.weight, None if layer.bias is None else scale * layer.bias)
