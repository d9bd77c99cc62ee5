"""An architecture as data: one frozen field per decision of the paper.

Source: "A ConvNet for the 2020s" (arXiv 2201.03545v2), section 2 and Tables 9 to 11; the V2 family's one further
decision (global response normalization) is from arXiv 2301.00808. What a field's value *means* in layers is decided
in ``layout.py`` and nowhere else. No torch here.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from nextify.paper.settings import Range, SettingError, Settings

Depths = tuple[Annotated[int, Range(least=1, most=1000)], ...]
Widths = tuple[Annotated[int, Range(least=1, most=100_000)], ...]
Strides = tuple[Annotated[int, Range(least=1, most=64)], ...]
Stem = Literal[
    "conv7_pool", "conv3_pool", "conv3",
    "patchify1", "patchify2", "patchify4", "patchify8", "patchify16", "patchify32",
]  # fmt: skip
Groups = Annotated[int, Range(least=1, most=100_000)] | Literal["depthwise"]
Bottleneck = Literal["narrow", "inverted", "none"]
Spatial = Literal["middle", "first"]
ActivationKind = Literal["relu", "gelu"]
ActivationPlaces = Literal["after_every_conv", "between_pointwise"]
NormPlaces = Literal["after_every_conv", "before_expand"]
NormKind = Literal["batch", "layer"]
Downsampling = Literal["in_block", "separate", "pooled", "none"]
LayerScale = Annotated[float, Range(above=0, most=1000)] | Literal["off"]
ResponseNorm = Literal["off", "global"]


class DesignError(SettingError):
    """A value that no design can have; the message names the field and what it accepts."""


class InertChoice(UserWarning):
    """A combination of decisions in which one of them changes nothing."""


@dataclass(frozen=True)
class Design(Settings):
    """One architecture. The defaults are ResNet-50's values, the starting point of the roadmap."""

    error = DesignError

    depths: Depths = (3, 4, 6, 3)
    """Blocks per stage."""
    widths: Widths = (64, 128, 256, 512)
    """Channels on the narrow side of each stage's blocks."""
    stem: Stem = "conv7_pool"
    """``conv7_pool`` (stride 4), ``conv3_pool`` (2), ``conv3`` (1), or ``patchifyP``, a PxP convolution of stride P."""
    stage_strides: Strides = (1, 2, 2, 2)
    """Stride at the start of each stage."""
    groups: Groups = 1
    """Groups of the spatial convolution: an int (ResNeXt's cardinality) or ``depthwise``."""
    bottleneck: Bottleneck = "narrow"
    """``narrow``: 4C -> C -> 4C; ``inverted``: C -> 4C -> C; ``none``: the spatial convolution alone, C -> C (not the
    paper's)."""
    spatial: Spatial = "middle"
    """Position of the spatial convolution: between the two 1x1 layers, or before both; the same with no bottleneck."""
    kernel_size: Annotated[int, Range(least=1, most=255, odd=True)] = 3
    """Kernel of the spatial convolution, in pixels; odd."""
    activation: ActivationKind = "relu"
    activations: ActivationPlaces = "after_every_conv"
    """``after_every_conv`` includes the stem and the sum; ``between_pointwise`` is one per block."""
    norms: NormPlaces = "after_every_conv"
    """``after_every_conv`` includes stem and shortcut; ``before_expand`` is one per block, before its first 1x1."""
    norm: NormKind = "batch"
    downsampling: Downsampling = "in_block"
    """``in_block``: the stage's first block strides; ``separate``: norm + strided conv between stages, a norm after the
    stem and after global average pooling; ``pooled``: 3x3 conv, max pooling, norm and activation between stages, norm
    and activation after the stem, a norm after global average pooling (not the paper's: for small images, where
    non-overlapping patches learn slowly); ``none``: isotropic, one resolution throughout, a norm only after pooling."""
    layer_scale: LayerScale = "off"
    """Initial value of the learned per-channel scale of each residual branch, or ``off``."""
    response_norm: ResponseNorm = "off"
    """``global``: ConvNeXt-V2's global response normalization before the last 1x1 layer of each block."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.depths) == len(self.widths) == len(self.stage_strides) >= 1:
            raise DesignError(
                f"depths, widths and stage_strides need one value per stage each, and at least one stage; "
                f"got {self.depths}, {self.widths} and {self.stage_strides}"
            )
        if self.downsampling == "none" and max(self.stage_strides) > 1:
            raise DesignError("downsampling 'none' keeps one resolution: stage_strides must all be 1")

    def warn_of_inert_choices(self) -> None:
        """Warn (``InertChoice``) where a decision changes nothing next to the others."""
        if self.kernel_size == 1 and self.groups == "depthwise":
            warnings.warn(InertChoice("a 1x1 depthwise convolution only scales channels"), stacklevel=2)
        if self.downsampling != "in_block" and self.stem == "patchify1" and max(self.stage_strides) == 1:
            warnings.warn(InertChoice("nothing in this design reduces the resolution"), stacklevel=2)
        if self.layer_scale != "off" and self.norms == "after_every_conv":
            warnings.warn(InertChoice("layer_scale after a norm repeats that norm's own learned scale"), stacklevel=2)
        if self.response_norm != "off" and self.bottleneck == "none":
            warnings.warn(
                InertChoice("response_norm comes before a block's last 1x1 layer; bottleneck 'none' has none"),
                stacklevel=2,
            )


def stem_stride(stem: str) -> int:
    """Total stride of a named stem."""
    return {"conv7_pool": 4, "conv3_pool": 2, "conv3": 1}.get(stem) or int(stem.removeprefix("patchify"))


def total_stride(design: Design) -> int:
    """Image pixels, along a side, per pixel of the last stage."""
    return stem_stride(design.stem) * math.prod(design.stage_strides)


RESNET50 = Design()
RESNET200 = RESNET50.with_(depths=(3, 24, 36, 3))
CONVNEXT_TINY = Design(
    depths=(3, 3, 9, 3),
    widths=(96, 192, 384, 768),
    stem="patchify4",
    groups="depthwise",
    bottleneck="inverted",
    spatial="first",
    kernel_size=7,
    activation="gelu",
    activations="between_pointwise",
    norms="before_expand",
    norm="layer",
    downsampling="separate",
    layer_scale=1e-6,
)


def _convnext(width: int, depths: tuple[int, ...], **changes: Any) -> Design:
    return CONVNEXT_TINY.with_(depths=depths, widths=tuple(width * 2**i for i in range(4)), **changes)


def _isotropic(width: int, depth: int, layer_scale: LayerScale) -> Design:
    return CONVNEXT_TINY.with_(
        depths=(depth,),
        widths=(width,),
        stage_strides=(1,),
        stem="patchify16",
        downsampling="none",
        layer_scale=layer_scale,
    )


POOLED = CONVNEXT_TINY.with_(
    depths=(1, 1, 1),
    widths=(64, 256, 256),
    stem="conv3_pool",
    stage_strides=(1, 2, 2),
    kernel_size=3,
    norm="batch",
    downsampling="pooled",
    layer_scale="off",
)
"""Ours, for images of 32 to 64 pixels and fresh weights: ConvNeXt's blocks between pooled downsamplings. docs/log.md
has what it was chosen against."""
DENSE = POOLED.with_(groups=1, bottleneck="none")
"""Likewise, each block being one dense 3x3 convolution."""

# Table 9 of the paper; atto to nano are the V2 paper's shapes, which timm also uses for V1; isotropic from Table 2.
_SHAPES: dict[str, tuple[int, tuple[int, ...]]] = {
    "atto": (40, (2, 2, 6, 2)),
    "femto": (48, (2, 2, 6, 2)),
    "pico": (64, (2, 2, 6, 2)),
    "nano": (80, (2, 2, 8, 2)),
    "tiny": (96, (3, 3, 9, 3)),
    "small": (96, (3, 3, 27, 3)),
    "base": (128, (3, 3, 27, 3)),
    "large": (192, (3, 3, 27, 3)),
    "xlarge": (256, (3, 3, 27, 3)),
    "huge": (352, (3, 3, 27, 3)),
}

DESIGNS: dict[str, Design] = {
    "resnet50": RESNET50,
    "resnet200": RESNET200,
    **{f"convnext_{n}": _convnext(*s) for n, s in _SHAPES.items() if n != "huge"},
    "convnext_isotropic_small": _isotropic(384, 18, "off"),
    "convnext_isotropic_base": _isotropic(768, 18, "off"),
    "convnext_isotropic_large": _isotropic(1024, 36, 1e-6),
    "convnext_pooled": POOLED,
    "resnet_pooled": DENSE,
    **{
        f"convnextv2_{n}": _convnext(*s, layer_scale="off", response_norm="global")
        for n, s in _SHAPES.items()
        if n not in ("small", "xlarge")
    },
}
"""Named designs; the rows of both roadmaps join them in ``zoo.py``."""
