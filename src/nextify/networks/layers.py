"""The layers of a Layout as torch modules.

Activations travel as ``(N, H, W, C)``, so every 1x1 convolution is a linear layer and every norm acts on the last axis;
a spatial convolution views them as channels-last NCHW, without a copy. Weight decay spares the parameters that a module
lists in ``undecayed``, by default its bias. Faster modules can take the place of these in a finished network (see
docs/design.md).
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar, assert_never

import torch
from torch import Tensor, nn

from nextify.networks.layout import Activation, Conv, Layer, MaxPool, Norm, UnknownLayer

LAYER_NORM_EPS = 1e-6
"""The released ConvNeXt's. Batch norm keeps torch's 1e-5, like torchvision's ResNet."""

Builder = TypeVar("Builder", bound=Callable[[Any], nn.Module])
MODULES: dict[type[Layer], Callable[[Any], nn.Module]] = {}


def module_of(kind: type[Layer]) -> Callable[[Builder], Builder]:
    """Register the builder of a kind of layer: a torch module class that takes the layer, or a function."""

    def register(builder: Builder) -> Builder:
        MODULES[kind] = builder
        return builder

    return register


def build(layer: Layer) -> nn.Module:
    """Build the torch module of one layer of a plan. Raises ``UnknownLayer`` where no module is registered for a layer
    of this kind."""
    if type(layer) not in MODULES:
        raise UnknownLayer(layer)
    return MODULES[type(layer)](layer)


def to_nchw(x: Tensor) -> Tensor:
    """View ``(N, H, W, C)`` as ``(N, C, H, W)`` in channels-last memory; no copy."""
    return x.permute(0, 3, 1, 2)


def to_nhwc(x: Tensor) -> Tensor:
    """View ``(N, C, H, W)`` as ``(N, H, W, C)``; contiguous where the memory is channels-last."""
    return x.permute(0, 2, 3, 1)


class Pointwise(nn.Linear):
    """A 1x1 convolution of any stride on ``(N, H, W, C)``."""

    def __init__(self, conv: Conv) -> None:
        super().__init__(conv.in_channels, conv.out_channels, bias=conv.bias)
        self.stride = conv.stride

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :: self.stride, :: self.stride] if self.stride > 1 else x)


class SpatialConv(nn.Conv2d):
    """A convolution, grouped or not, on ``(N, H, W, C)``; one ``of_patches`` has windows side by side, in one group."""

    def __init__(self, conv: Conv) -> None:
        side, stride, padding = conv.kernel_size, conv.stride, conv.padding
        super().__init__(conv.in_channels, conv.out_channels, side, stride, padding, groups=conv.groups, bias=conv.bias)
        self.depthwise = conv.depthwise
        self.of_patches = side == stride and padding == 0 and conv.groups == 1
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return to_nhwc(super().forward(to_nchw(x)))


@module_of(Conv)
def convolution(conv: Conv) -> nn.Module:
    return Pointwise(conv) if conv.kernel_size == 1 and conv.groups == 1 else SpatialConv(conv)


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


@module_of(Norm)
def norm(layer: Norm) -> nn.Module:
    match layer.kind:
        case "batch":
            return BatchNorm(layer.channels)
        case "layer":
            return LayerNorm(layer.channels, eps=LAYER_NORM_EPS)
        case "response":
            return GlobalResponseNorm(layer.channels)
        case _:
            assert_never(layer.kind)


@module_of(Activation)
def activation(layer: Activation) -> nn.Module:
    match layer.kind:
        case "relu":
            return nn.ReLU()
        case "gelu":
            return nn.GELU()
        case _:
            assert_never(layer.kind)


class GlobalResponseNorm(nn.Module):
    """ConvNeXt-V2's response norm on ``(N, H, W, C)``: channels compete by their norms over all pixels.

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


@module_of(MaxPool)
class Pool(nn.MaxPool2d):
    """Max pooling on ``(N, H, W, C)``."""

    def __init__(self, pool: MaxPool) -> None:
        super().__init__(pool.kernel_size, pool.stride, pool.padding)

    def forward(self, x: Tensor) -> Tensor:
        return to_nhwc(super().forward(to_nchw(x)))


class DropPath(nn.Module):
    """Stochastic depth per image (arXiv 1603.09382): zero the branch with probability ``rate``, scale up the rest."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.part: tuple[Tensor, int] | None = None
        """If the images are some rows of a larger batch: those rows, and the size of that batch, for all of which paths
        are drawn."""

    def forward(self, x: Tensor) -> Tensor:
        factor = self.factor(x)
        return x if factor is None else x * factor

    def factor(self, x: Tensor) -> Tensor | None:
        """``(N, 1, 1, 1)``, drawn for the images of ``x``; None where all are kept."""
        if not self.training or self.rate == 0.0:
            return None
        batch = x.shape[0] if self.part is None else self.part[1]
        kept = torch.empty((batch, 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(1 - self.rate)
        if self.part is not None:
            kept = kept[self.part[0]]
        return kept / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def initialize(module: nn.Module, how: str) -> None:
    """Draw the weights of one module's own parameters: ``he`` (arXiv 1502.01852, fan out, as torchvision's ResNet)
    or ``truncated_normal`` of standard deviation 0.02 (as the released ConvNeXt). Biases become zero.

    On the meta device nothing is drawn: there, torch's ``normal_`` imports sympy, for most of a second.
    """
    if not isinstance(module, nn.Conv2d | nn.Linear) or module.weight.is_meta:
        return
    if how == "he":
        fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        nn.init.normal_(module.weight, std=(2.0 / (fan_out / groups)) ** 0.5)
    else:
        nn.init.trunc_normal_(module.weight, std=0.02)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def undecayed_parameters(network: nn.Module) -> Iterator[str]:
    """Names of the parameters exempt from weight decay: those that the modules list in ``undecayed``."""
    for prefix, module in network.named_modules():
        own = getattr(module, "undecayed", ("bias",))
        for name, _ in module.named_parameters(prefix, recurse=False):
            if name.rpartition(".")[2] in own:
                yield name
