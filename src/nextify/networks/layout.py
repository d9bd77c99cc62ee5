"""The layers of a design as plain data, and what they cost.

Only ``layout(design)`` branches on a Design's fields. What the paper leaves open is decided here, next to the code that
needs it and marked ``Ruling``; docs/design.md lists the rulings. Source of the block shapes: arXiv 2201.03545v2,
sections 2.2 to 2.6, Figures 3 and 4 and Table 9. No torch here.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar, Literal

from nextify.paper.design import ActivationKind, Design, LayerScale, NormKind

EXPANSION = 4
"""Ratio of a block's wide side to its narrow side, in ResNet's bottleneck and ConvNeXt's inverted one alike."""


class ImageSizeError(ValueError):
    """The image is too small for the network's strides; the message says which sizes work."""


def too_small(size: tuple[int, int], smallest: int, where: str) -> ImageSizeError:
    images, least = "x".join(map(str, size)), f"each side must be at least {smallest} pixels"
    return ImageSizeError(f"images of {images} are too small{where}; {least}")


class UnknownLayer(TypeError):
    """The package does not know this kind of layer; the message names the remedy."""

    def __init__(self, layer: object) -> None:
        name = type(layer).__name__
        super().__init__(
            f"{name} is not a known layer: derive it from layout.Layer, and its module with layers.module_of"
        )


class Layer(ABC):
    """One layer of a plan, with its label and its cost.

    A new kind is a frozen dataclass derived from this class, whose torch module is registered with
    ``nextify.networks.layers.module_of``. A layer's name in a chain is also its name in weight files.
    """

    boxed: ClassVar[bool] = False
    """Whether diagrams draw the layer as a box; others are written beside the arrow."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The layer as Figure 4 writes it: ``d7×7, 96``, ``LN``, ``GELU``, ``max pool 3×3/2``."""

    @property
    def full_label(self) -> str:
        """The label with everything that distinguishes the layer: ``1×1, 96→384, bias``."""
        return self.label + (f", {self.outputs}" if self.outputs else "")

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of learned parameters."""

    @property
    def outputs(self) -> int:
        """Channels of the output; 0 if it has as many as the input."""
        return 0

    def size(self, side: int) -> int:
        """Pixels along one side of the output."""
        return side

    def input_size(self, side: int) -> int:
        """Pixels along one side of the input that ``side`` pixels of the output need."""
        return side

    def macs(self, pixels: int) -> int:
        """Multiply-adds for one image if the output has that many pixels; only convolutions and linear layers count."""
        return 0


class _Window(Layer):
    """A layer that slides a square window over the pixels."""

    kernel_size: int
    stride: int
    padding: int
    boxed = True

    @property
    def window(self) -> str:
        return f"{self.kernel_size}×{self.kernel_size}" + (f"/{self.stride}" if self.stride > 1 else "")

    def size(self, side: int) -> int:
        return (side + 2 * self.padding - self.kernel_size) // self.stride + 1

    def input_size(self, side: int) -> int:
        return (side - 1) * self.stride + self.kernel_size - 2 * self.padding


@dataclass(frozen=True)
class Conv(_Window):
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    padding: int
    groups: int
    bias: bool

    @property
    def depthwise(self) -> bool:
        return self.groups == self.in_channels == self.out_channels and self.groups > 1

    @property
    def label(self) -> str:
        groups = f", g={self.groups}" if self.groups > 1 and not self.depthwise else ""
        return f"{'d' if self.depthwise else ''}{self.window}, {self.out_channels}{groups}"

    @property
    def full_label(self) -> str:
        channels = f", {self.in_channels}→{self.out_channels}"
        return self.label.replace(f", {self.out_channels}", channels, 1) + (", bias" if self.bias else "")

    @property
    def parameters(self) -> int:
        return self.macs(1) + (self.out_channels if self.bias else 0)

    @property
    def outputs(self) -> int:
        return self.out_channels

    def macs(self, pixels: int) -> int:
        return self.out_channels * (self.in_channels // self.groups) * self.kernel_size**2 * pixels


@dataclass(frozen=True)
class Norm(Layer):
    """Learns a weight and a bias per channel. ``response``: ConvNeXt-V2's global response normalization."""

    kind: NormKind | Literal["response"]
    channels: int

    @property
    def label(self) -> str:
        return {"batch": "BN", "layer": "LN", "response": "GRN"}[self.kind]

    @property
    def parameters(self) -> int:
        return 2 * self.channels

    @property
    def outputs(self) -> int:
        return self.channels


@dataclass(frozen=True)
class Activation(Layer):
    kind: ActivationKind
    parameters = 0

    @property
    def label(self) -> str:
        return {"relu": "ReLU", "gelu": "GELU"}[self.kind]


@dataclass(frozen=True)
class MaxPool(_Window):
    kernel_size: int
    stride: int
    padding: int
    parameters = 0

    @property
    def label(self) -> str:
        return f"max pool {self.window}"


Named = tuple[tuple[str, Layer], ...]


def known(layers: Iterable[tuple[str, Layer]]) -> Iterator[tuple[str, Layer]]:
    """The layers in turn. Raises ``UnknownLayer`` for what is none."""
    for name, layer in layers:
        if not isinstance(layer, Layer):
            raise UnknownLayer(layer)
        yield name, layer


@dataclass(frozen=True)
class BlockSpec:
    """A residual block: ``after(shortcut(x) + layer_scale * branch(x))``."""

    in_channels: int
    out_channels: int
    stride: int
    branch: Named
    """The residual branch, in order."""
    shortcut: Named
    """Empty if the shortcut is the identity."""
    after: Named
    """Layers after the sum."""
    layer_scale: LayerScale


@dataclass(frozen=True)
class StageSpec:
    """Blocks of one resolution and width, and the layers that lead to them."""

    downsample: Named
    """Layers between the previous stage and this one; empty if the first block strides."""
    blocks: tuple[BlockSpec, ...]

    @property
    def channels(self) -> int:
        """Channels of the stage's output."""
        return self.blocks[-1].out_channels


@dataclass(frozen=True)
class Layout:
    """The layers of a network as plain data: derived from a design, built into a network and counted by ``cost``."""

    stem: Named
    stages: tuple[StageSpec, ...]
    head: Named
    """Layers between global average pooling and the classifier."""
    init: Literal["he", "truncated_normal"]

    @property
    def features(self) -> int:
        """Channels that enter the classifier."""
        return self.stages[-1].channels


def check_whole(name: str, value: object, least: int) -> None:
    """Raise ``ValueError`` for anything but a whole number from ``least``."""
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number from {least}, got {value!r}")


def _check_design(design: object) -> None:
    if not isinstance(design, Design):
        raise TypeError(
            f"a design must be a Design, got {design!r:.60}; nextify.networks.zoo.find_design looks names up"
        )


def layout(design: Design, in_channels: int = 3) -> Layout:
    """Return the layers of a design, for images of ``in_channels`` channels."""
    _check_design(design)
    check_whole("in_channels", in_channels, 1)
    stages: list[StageSpec] = []
    channels = design.widths[0]
    for index, (depth, width) in enumerate(zip(design.depths, design.widths, strict=True)):
        stride = design.stage_strides[index]
        downsample: Named = ()
        if design.downsampling in ("separate", "pooled") and (index > 0 or stride > 1):
            out = _block_widths(design, width)[0]
            if design.downsampling == "pooled":
                conv = Conv(channels, out, 3, 1, 1, 1, _bias(design, norm_follows=True))
                downsample = _pooled(design, conv, stride)
            else:
                # Ruling: this conv has a bias and no norm after it; its norm comes before it (section 2.6).
                conv = Conv(channels, out, stride, stride, 0, 1, bias=True)
                downsample = (("norm", Norm(design.norm, channels)), ("conv", conv))
            channels, stride = out, 1
        blocks = []
        for position in range(depth):
            block = _block(design, width, channels, stride if position == 0 else 1)
            blocks.append(block)
            channels = block.out_channels
        stages.append(StageSpec(downsample, tuple(blocks)))
    # The norm after global average pooling arrives with separate downsampling; isotropic designs have it too.
    head: Named = (("norm", Norm(design.norm, channels)),) if design.downsampling != "in_block" else ()
    # Ruling: where a norm follows every conv, the weights' scale does not matter and torchvision's ResNet init is kept;
    # elsewhere, the released ConvNeXt's truncated normal of 0.02. No norm starts at zero, as in neither parent.
    init: Literal["he", "truncated_normal"] = "he" if design.norms == "after_every_conv" else "truncated_normal"
    return Layout(_stem(design, in_channels), tuple(stages), head, init)


def _bias(design: Design, *, norm_follows: bool) -> bool:
    """Ruling: a conv has a bias unless a batch norm follows it directly, which would subtract it again."""
    return not (norm_follows and design.norm == "batch")


def _pooled(design: Design, conv: Conv, stride: int) -> Named:
    """A convolution and what follows it where pooling leads to the next resolution.

    Ruling: the pooling comes directly after the convolution, leaving norm and activation the fewest pixels. The
    activation is there wherever the design places its others.
    """
    layers: list[tuple[str, Layer]] = [("conv", conv)]
    if stride > 1:
        layers.append(("pool", MaxPool(stride, stride, 0)))
    return (*layers, ("norm", Norm(design.norm, conv.out_channels)), ("activation", Activation(design.activation)))


def _stem(design: Design, in_channels: int) -> Named:
    # Ruling: the stem's norm and activation follow the design's placements. With one norm per block the stem has none,
    # until separate downsampling brings "one after the stem" (section 2.6) back.
    norm = design.norms == "after_every_conv" or design.downsampling in ("separate", "pooled")
    width = design.widths[0]
    bias = _bias(design, norm_follows=norm)
    if design.stem.startswith("patchify"):
        patch = int(design.stem.removeprefix("patchify"))
        conv = Conv(in_channels, width, patch, patch, 0, 1, bias)
    else:
        kernel, stride = (7, 2) if design.stem == "conv7_pool" else (3, 1)
        conv = Conv(in_channels, width, kernel, stride, kernel // 2, 1, bias)
    if design.downsampling == "pooled":
        return _pooled(design, conv, 2 if design.stem.endswith("_pool") else 1)
    layers: list[tuple[str, Layer]] = [("conv", conv)]
    if norm:
        layers.append(("norm", Norm(design.norm, width)))
    if design.activations == "after_every_conv":
        layers.append(("activation", Activation(design.activation)))
    if design.stem.endswith("_pool"):
        layers.append(("pool", MaxPool(3, 2, 1)))
    return tuple(layers)


def _block_widths(design: Design, width: int) -> tuple[int, int]:
    """(output, hidden) channels of a block whose narrow side is ``width``."""
    wide = EXPANSION * width
    return {"narrow": (wide, width), "inverted": (width, wide), "none": (width, width)}[design.bottleneck]


def _block(design: Design, width: int, channels: int, stride: int) -> BlockSpec:
    out, hidden = _block_widths(design, width)
    after: Named = (("activation", Activation(design.activation)),) if design.activations == "after_every_conv" else ()
    return BlockSpec(
        *(channels, out, stride),
        branch=_branch(design, channels, out, hidden, stride),
        shortcut=_shortcut(design, channels, out, stride),
        after=after,
        layer_scale=design.layer_scale,
    )


def _branch(design: Design, channels: int, out: int, hidden: int, stride: int) -> Named:
    """The residual branch: the convolutions in their order, with norms and activations where the design has them."""
    norm_everywhere, alone = design.norms == "after_every_conv", design.bottleneck == "none"
    convolutions = _convolutions(design, channels, out, hidden, stride)
    branch: list[tuple[str, Layer]] = []
    for name, conv in convolutions:
        if name == "pointwise1" and not norm_everywhere:
            branch.append(("norm", Norm(design.norm, conv.in_channels)))
        # Ruling: the only activation comes directly before the last 1x1, even where the spatial conv is in the middle.
        if name == "pointwise2":
            if design.activations == "between_pointwise":
                branch.append(("activation", Activation(design.activation)))
            if design.response_norm == "global":
                branch.append(("response_norm", Norm("response", hidden)))
        branch.append((name, conv))
        if norm_everywhere:
            branch.append((f"{name}_norm", Norm(design.norm, conv.out_channels)))
        if design.activations == "after_every_conv" and conv is not convolutions[-1][1]:
            branch.append((f"{name}_activation", Activation(design.activation)))
    if alone:
        # Ruling: without 1x1 layers, what a block has one of follows its convolution.
        if not norm_everywhere:
            branch.append(("norm", Norm(design.norm, out)))
        if design.activations == "between_pointwise":
            branch.append(("activation", Activation(design.activation)))
    return tuple(branch)


def _convolutions(design: Design, channels: int, out: int, hidden: int, stride: int) -> list[tuple[str, Conv]]:
    """A block's convolutions by name: 1x1, spatial, 1x1, or the spatial one first, or alone."""
    norm_everywhere, alone = design.norms == "after_every_conv", design.bottleneck == "none"
    # From "move up" on, a strided block runs its spatial conv on the *incoming* width.
    inputs = channels if design.spatial == "first" or alone else hidden
    outputs = out if alone else inputs
    groups = inputs if design.groups == "depthwise" else design.groups
    for side in (inputs, outputs):
        if side % groups:
            raise ValueError(f"groups={groups} does not divide a spatial conv's {side} channels; change widths")
    # A block's one norm comes before the first 1x1, so after the spatial conv where that is first or alone.
    norm_follows = norm_everywhere or design.spatial == "first" or alone
    kernel, bias = design.kernel_size, _bias(design, norm_follows=norm_follows)
    spatial = ("spatial", Conv(inputs, outputs, kernel, stride, kernel // 2, groups, bias))
    if alone:
        return [spatial]
    bias = _bias(design, norm_follows=norm_everywhere)
    first = ("pointwise1", Conv(channels, hidden, 1, 1, 0, 1, bias))
    last = ("pointwise2", Conv(hidden, out, 1, 1, 0, 1, bias))
    return [spatial, first, last] if design.spatial == "first" else [first, spatial, last]


def _shortcut(design: Design, channels: int, out: int, stride: int) -> Named:
    """Ruling: a 1x1 conv wherever the block changes shape (ResNet's option B), with a norm only as long as every conv
    has one: "one BN" per block leaves none for the shortcut."""
    if stride == 1 and channels == out:
        return ()
    norm_everywhere = design.norms == "after_every_conv"
    conv = Conv(channels, out, 1, stride, 0, 1, _bias(design, norm_follows=norm_everywhere))
    return (("conv", conv), ("norm", Norm(design.norm, out))) if norm_everywhere else (("conv", conv),)


@dataclass(frozen=True)
class Placed:
    """A layer at its place in a network, at one image size."""

    path: str
    layer: Layer | Literal["layer_scale", "classifier"]
    channels: int
    height: int
    width: int
    """Height and width of the output, in pixels."""
    macs: int
    """Multiply-adds of convolutions and linear layers for one image."""
    parameters: int

    @property
    def part(self) -> str:
        """``stem``, ``stage 1``, …, ``head``; a downsampling layer belongs to the stage it leads to."""
        first, second, *_ = self.path.split(".")
        return f"stage {int(second) + 1}" if first == "stages" else first

    @property
    def activations(self) -> int:
        """Output elements of a convolution or linear layer for one image, as RegNet counts them (arXiv 2003.13678)."""
        counted = isinstance(self.layer, Conv) or self.layer == "classifier"
        return self.channels * self.height * self.width if counted else 0


def walk(net: Layout, image_size: int | tuple[int, int] = 224, num_classes: int = 1000) -> Iterator[Placed]:
    """Every layer in order of computation, a block's shortcut before its branch. Raises ``ImageSizeError`` where the
    image is too small for the strides."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    requested = (height, width)

    def chain(prefix: str, layers: Named) -> Iterator[Placed]:
        nonlocal height, width
        for name, layer in known(layers):
            path, height, width = f"{prefix}.{name}", layer.size(height), layer.size(width)
            if height < 1 or width < 1:
                raise too_small(requested, smallest_image(net), f": nothing is left at {path}")
            yield Placed(path, layer, layer.outputs, height, width, layer.macs(height * width), layer.parameters)

    yield from chain("stem", net.stem)
    for s, stage in enumerate(net.stages):
        yield from chain(f"stages.{s}.downsample", stage.downsample)
        for b, block in enumerate(stage.blocks):
            prefix = f"stages.{s}.blocks.{b}"
            inputs = height, width
            yield from chain(f"{prefix}.shortcut", block.shortcut)
            height, width = inputs
            yield from chain(prefix, block.branch)
            if block.layer_scale != "off":
                out = block.out_channels
                yield Placed(f"{prefix}.layer_scale", "layer_scale", out, height, width, 0, out)
            yield from chain(prefix, block.after)
    height = width = 1
    yield from chain("head", net.head)
    if num_classes:
        weights = net.features * num_classes
        yield Placed("head.classifier", "classifier", num_classes, 1, 1, weights, weights + num_classes)


def smallest_image(net: Layout) -> int:
    """The shortest side in pixels that leaves at least one pixel at every layer."""
    size = 1
    stages = (layer for stage in net.stages for layer in (*stage.downsample, *stage.blocks[0].branch))
    for _, layer in known(reversed([*net.stem, *stages])):
        size = max(1, layer.input_size(size))
    return size


@dataclass(frozen=True)
class Cost:
    parameters: int
    macs: int
    """Multiply-adds of convolutions and linear layers for one image."""
    activations: int
    """Output elements of convolutions and linear layers for one image."""


def cost(design: Design, image_size: int = 224, num_classes: int = 1000, in_channels: int = 3) -> Cost:
    """Return what a design costs at one image size."""
    return _sum(walk(layout(design, in_channels), image_size, num_classes))


def cost_by_part(design: Design, image_size: int = 224, num_classes: int = 1000) -> dict[str, Cost]:
    """``{"stem": Cost, "stage 1": Cost, …, "head": Cost}``."""
    parts: dict[str, list[Placed]] = {}
    for placed in walk(layout(design), image_size, num_classes):
        parts.setdefault(placed.part, []).append(placed)
    return {part: _sum(layers) for part, layers in parts.items()}


def _sum(layers: Iterable[Placed]) -> Cost:
    counts = [(placed.parameters, placed.macs, placed.activations) for placed in layers]
    return Cost(*map(sum, zip(*counts, strict=True)))


def macs(design: Design, image_size: int = 224, num_classes: int = 1000) -> int:
    """Count the multiply-adds of a design's convolutions and linear layers for an RGB image of side ``image_size``."""
    return cost(design, image_size, num_classes).macs


def parameters(design: Design, num_classes: int = 1000) -> int:
    """Count the learned parameters of a design with a classifier of ``num_classes``."""
    net = layout(design)
    return _sum(walk(net, smallest_image(net), num_classes)).parameters
