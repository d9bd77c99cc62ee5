"""Fast versions of a network's modules, and how to install them.

Each is a subclass of the plain module that overrides nothing but `forward`, so parameters, names, hooks and state dicts
stay as they are. `choice.py` decides at each call; a module remembers its last choice made outside a compiled graph.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextify.kernels import choice, gathered
from nextify.kernels.blocks import training as blocks
from nextify.kernels.choice import Choice
from nextify.kernels.depthwise.cpu import depthwise_conv
from nextify.kernels.gelu import cpu as gelu_cpu
from nextify.kernels.patches.cpu import patches_conv
from nextify.kernels.pixelwise import strips, training
from nextify.networks.layers import DropPath, LayerNorm, Pointwise, SpatialConv
from nextify.networks.masked.network import MaskedAutoencoder, MaskedEncoder
from nextify.networks.network import Block, Chain
from nextify.system.native import Mode, known_mode


class Fast:
    """What the fast modules share; mixed into a subclass of the plain module."""

    kernels: Mode = "auto"
    """The mode it was installed with."""
    choice: Choice | None = None
    """The last one made outside a compiled graph: in training, if there was any, rather than in evaluation."""

    def chosen(self, made: Choice) -> Choice:
        if not torch.compiler.is_compiling() and (self.choice is None or torch.is_grad_enabled()):
            self.__dict__["choice"] = made
        return made


class FastDepthwise(Fast, SpatialConv):
    """A depthwise convolution with our weight gradient, and our forward pass where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        made = self.chosen(choice.depthwise(x, self.weight, self.bias, self.stride[0], self.kernels))
        if made.kernel == "torch":
            return super().forward(x)
        _, _, dtype, own, operator = made
        return depthwise_conv(x, self.weight, self.bias, self.stride[0], dtype=dtype, own=own, operator=operator)


class FastPatches(Fast, SpatialConv):
    """A convolution of patches as one matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        made = self.chosen(choice.patches(x, self.weight, self.bias, self.kernels))
        if made.kernel == "torch":
            return super().forward(x)
        return patches_conv(x, self.weight, self.bias, made.dtype)


class FastGELU(Fast, nn.GELU):
    """The exact GELU as a rational function."""

    def forward(self, x: Tensor) -> Tensor:
        made = self.chosen(choice.gelu(x, self.kernels))
        if made.kernel == "torch":
            return super().forward(x)
        return gelu_cpu.rational(x) if made.kernel == "rational" else gelu_cpu.gelu(x)


class FastPointwise(Fast, Pointwise):
    """A 1x1 convolution that adds its bias after the product where a compiled graph gains from it."""

    def forward(self, x: Tensor) -> Tensor:
        return _linear(x[:, :: self.stride, :: self.stride] if self.stride > 1 else x, self)


class FastChain(Fast, Chain):
    """Layers in a row that run in one call."""

    def forward(self, x: Tensor) -> Tensor:
        if choice.may_be_whole(x, self.kernels):
            parts = blocks.Parts((), [_described(self._modules[name]) for name in self.order], ())
            made = choice.whole(x, parts, self) if blocks.takes(parts) else None
            if made is not None:
                self.chosen(made)
                return blocks.run(x, self, parts)
        self.chosen(choice.LAYERS)
        return super().forward(x)


class FastBlock(Fast, Block):
    """A block that does its work on single pixels in one kernel, or folds layer scale into its last layer."""

    def forward(self, x: Tensor) -> Tensor:
        if choice.may_be_whole(x, self.kernels):
            whole = _whole(self)
            made = choice.whole(x, whole, self) if whole is not None and blocks.takes(whole) else None
            if whole is not None and made is not None:
                self.chosen(made)
                return blocks.run(x, self, whole, self.drop_path.factor(x))
        layers: list[Any] = [self._modules[name] for name in self.order]
        parts, dropped = _parts(layers), self.training and self.drop_path.rate > 0
        made = self.chosen(choice.block(x, parts, self, dropped, self.kernels))
        y = x
        if parts is None or made.kernel == "torch":
            for layer in layers[:-1]:
                y = layer(y)
            return self.after(self.shortcut(x) + self.drop_path(self._last(y, layers[-1])))  # type: ignore[no-any-return]
        for layer in parts.before:
            y = layer(y)
        shortcut = self.shortcut(x)
        if made.kernel == "inference":
            y = strips.run(y, shortcut, parts, self.layer_scale, dtype=made.dtype, own=made.own)
        else:
            y = training.run(y, None if dropped else shortcut, parts, self.layer_scale, dtype=made.dtype)
            if dropped:
                y = shortcut + self.drop_path(y)
        return self.after(y)  # type: ignore[no-any-return]

    def _last(self, x: Tensor, layer: nn.Module) -> Tensor:
        """``layer_scale * layer(x)``; the scale multiplies the layer's weights or its output, whichever is smaller."""
        scale = self.layer_scale
        if scale is None:
            return layer(x)  # type: ignore[no-any-return]
        if type(layer) is not FastPointwise or choice.hooked(layer):
            return layer(x) * scale  # type: ignore[no-any-return]
        if choice.scales_output(x, layer.in_features):
            return _linear(x, layer) * scale
        return F.linear(x, scale[:, None] * layer.weight, None if layer.bias is None else scale * layer.bias)


class GatheredEncoder(Fast, MaskedEncoder):
    """A masked encoder that computes on visible pixels alone."""

    def forward(self, images: Tensor, masked: Tensor) -> Tensor:  # type: ignore[override]
        if self.chosen(choice.masked()).kernel == "torch":
            return super().forward(images, masked)
        return gathered.encode(self, images, masked)


class GatheredAutoencoder(Fast, MaskedAutoencoder):
    """A masked autoencoder that predicts masked patches alone."""

    def forward(self, images: Tensor, masked: Tensor) -> Tensor:
        if self.chosen(choice.masked()).kernel == "torch":
            return super().forward(images, masked)
        return gathered.errors(self, images, masked)


def _whole(block: Block) -> blocks.Parts | None:
    """A block's layers, or None where its shortcut, dropped paths or last layers are others', or watched."""
    beside = block.shortcut, block.drop_path, block.after
    plain = [_PLAIN.get(type(module), type(module)) for module in beside]
    if plain != [Chain, DropPath, Chain] or any(choice.hooked(module) for module in beside):
        return None
    chains = (block.shortcut, block, block.after)
    return blocks.Parts(*([_described(chain._modules[name]) for name in chain.order] for chain in chains))


def _described(module: nn.Module | None) -> blocks.Described:
    return blocks.Described(module, _PLAIN.get(type(module), type(module)))


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    if layer.bias is not None and choice.adds_bias_afterwards(x):
        return F.linear(x, layer.weight) + layer.bias
    return F.linear(x, layer.weight, layer.bias)


def _parts(layers: Sequence[nn.Module]) -> strips.Parts | None:
    """A block's layers as the kernels take them, or None where the last ones are of other kinds, such as subclasses."""
    if [type(layer) for layer in layers[-3:]] != [FastPointwise, FastGELU, FastPointwise]:
        return None
    at = -4 if len(layers) > 3 and type(layers[-4]) is LayerNorm else -3
    found = strips.Parts(layers[:at], layers[-4] if at == -4 else None, *layers[-3:])  # type: ignore[arg-type]
    return found if found.first.stride == found.second.stride == 1 else None


@dataclass(frozen=True)
class Installed:
    """Layers of one kind whose last choice was the same."""

    module: str
    """The fast module, such as ``FastBlock``."""
    layers: tuple[str, ...]
    """Their names in the network."""
    kernel: str
    """What they last ran on, as in a ``Choice``; ``undecided`` before the first call and in compiled graphs."""
    reason: str


_FAST: dict[type[nn.Module], type[nn.Module]] = {
    SpatialConv: FastDepthwise, nn.GELU: FastGELU, Pointwise: FastPointwise, Block: FastBlock,
    Chain: FastChain, MaskedEncoder: GatheredEncoder,
    MaskedAutoencoder: GatheredAutoencoder,
}  # fmt: skip
_PLAIN = {**{fast: plain for plain, fast in _FAST.items()}, FastPatches: SpatialConv}


def install(model: nn.Module, mode: Mode = "auto") -> list[Installed]:
    """Replace modules of a finished network with faster ones of the same parameters and names, in place.

    Call it before the network is wrapped for several processes, copied for an average or compiled. Calling it again
    changes the mode. Networks of other libraries are left alone.

    Args:
        model: a network of ours, or anything that holds one.
        mode: ``auto`` uses kernels where they can be built and were measured to be faster, ``on`` wherever they support
            the case (but whole blocks in one call are for ``auto`` alone), ``off`` restores the plain modules.

    Raises:
        ValueError: there is no such mode.
    """
    known_mode(mode)
    for chain in [module for module in model.modules() if isinstance(module, Chain)]:
        for module in (*(getattr(chain, name) for name in chain.order), chain):
            _replace(module, mode)
    for module in [module for module in model.modules() if isinstance(module, MaskedEncoder | MaskedAutoencoder)]:
        _replace(module, mode)
    return installed(model)


def _replace(module: nn.Module, mode: Mode) -> None:
    plain = _PLAIN.get(type(module), type(module))
    fast = None if mode == "off" else _FAST.get(plain)
    if isinstance(module, SpatialConv) and not (
        module.depthwise and module.padding == tuple(side // 2 for side in module.kernel_size)
    ):
        fast = FastPatches if fast and module.of_patches else None
    if isinstance(module, nn.GELU) and module.approximate != "none":
        fast = None
    module.__class__ = fast or plain
    for name in ("kernels", "choice"):
        module.__dict__.pop(name, None)
    if fast:
        module.__dict__["kernels"] = mode


def installed(model: nn.Module) -> list[Installed]:
    """The fast modules of a network, grouped by what they last ran on and why; of whole blocks, not their layers."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    whole: tuple[str, ...] = ()
    by_pixel: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, Fast) and not isinstance(module, FastPointwise) and not name.startswith(whole):
            kernel, reason = ("undecided", module.kernels) if module.choice is None else module.choice[:2]
            if isinstance(module, FastChain) and kernel != "whole":
                continue  # its layers say what they run on
            if isinstance(module, FastBlock) and module.choice is None and name.startswith(by_pixel):
                continue  # its layers are called one by one
            if kernel == "gathered" and isinstance(module, MaskedEncoder):
                by_pixel = (*by_pixel, f"{name}." if name else "")
            if kernel == "whole":
                whole = (*whole, f"{name}." if name else "")
            groups.setdefault((type(module).__name__, kernel, reason), []).append(name)
    return [Installed(kind, tuple(names), kernel, reason) for (kind, kernel, reason), names in groups.items()]


def describe(model: nn.Module) -> dict[str, object]:
    """A network's kernels as plain data for records: the libraries, and what each layer last ran on."""
    return {"libraries": choice.libraries(), "layers": [asdict(group) for group in installed(model)]}
