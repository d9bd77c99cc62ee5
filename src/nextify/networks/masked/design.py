"""A fully convolutional masked autoencoder as plain data: its encoder, its mask and its decoder's width. No torch here.

Source: ConvNeXt V2 (arXiv 2301.00808), section 3 and appendix A.1: square units of 32 pixels are masked, 60 % of them,
and a decoder of one block, 512 channels wide, predicts each masked unit's pixels.
"""

from dataclasses import dataclass
from typing import Any

from nextify.paper.design import Design, DesignError, total_stride

UNIT, RATIO, WIDTH = 32, 0.6, 512
"""The published side of a mask unit in pixels, share of the units that are masked, and channels of the decoder."""
FEWEST_UNITS = 4
"""Units along a side of an image below which smaller ones are taken; 224 pixels have 7 of the published ones."""
NARROW = 320
"""Channels of the encoder's last stage, the narrowest published encoder's, below which the decoder has as many."""


@dataclass(frozen=True)
class MaskedDesign:
    """An encoder, and what is masked before it and decoded after it."""

    encoder: Design
    unit: int = UNIT
    """Side of the squares that are masked or visible as a whole, in pixels: a multiple of the encoder's stride."""
    ratio: float = RATIO
    """Share of the units that are masked."""
    width: int = WIDTH
    """Channels of the decoder."""

    def __post_init__(self) -> None:
        if self.encoder.groups != "depthwise":
            raise DesignError(
                f"pre-training on masked images needs depthwise convolutions, but this design has groups="
                f"{self.encoder.groups}: choose a ConvNeXt, or a row of the roadmap from depthwise on"
            )
        if type(self.unit) is not int or self.unit < 1 or self.unit % self.stride:
            raise DesignError(f"a mask unit must be a multiple of the design's stride {self.stride}, got {self.unit!r}")
        if not 0 <= self.ratio < 1:
            raise DesignError(f"the masked share must be at least 0 and below 1, got {self.ratio!r}")
        if type(self.width) is not int or self.width < 1:
            raise DesignError(f"a decoder's width must be a whole number from 1, got {self.width!r}")

    @property
    def stride(self) -> int:
        """Image pixels, along a side, per pixel that the decoder sees, and the side of the patches it predicts."""
        return total_stride(self.encoder)

    def grid(self, image_size: int) -> int:
        """Units along a side of an image of so many pixels; the last one may be cut."""
        return -(-image_size // self.unit)

    def to_dict(self) -> dict[str, object]:
        return {**vars(self), "encoder": self.encoder.to_dict()}


def visible_units(units: int, ratio: float) -> int:
    """How many of an image's units stay visible: ``int(units (1 - ratio))`` as published, but at least one, and with a
    ratio above 0 not all."""
    return min(max(1, int(units * (1 - ratio) + 1e-9)), units - (ratio > 0))


def fitted_masks(encoder: Design, image_size: int, ratio: float = RATIO) -> tuple[MaskedDesign, tuple[str, ...]]:
    """The masked design for images of ``image_size`` pixels a side, and a sentence on each deviation from the paper.

    The unit is the largest multiple of the encoder's stride up to 32 pixels where an image has at least 4 × 4 of these;
    otherwise it is the stride. Raises ``DesignError`` where the encoder is not depthwise, or an image is one unit or no
    multiple of the stride."""
    design = MaskedDesign(encoder, total_stride(encoder), ratio)
    stride, notes = design.stride, []
    if image_size % stride:
        near = max(2, round(image_size / stride)) * stride
        raise DesignError(f"images of {image_size} pixels do not divide into patches of {stride}: --image-size {near}")
    unit = stride * max(1, UNIT // stride)
    if image_size < FEWEST_UNITS * unit:
        unit = stride
    units = -(-image_size // unit)
    if units < 2:
        raise DesignError(
            f"an image of {image_size} pixels is one patch of this design's stride, so nothing could be left visible: "
            f"take a larger --image-size"
        )
    if unit != UNIT:
        notes.append(f"masks are made of units of {unit} pixels, not {UNIT}: {units}×{units} per image")
    number = units * units
    masked = number - visible_units(number, ratio)
    if abs(masked / number - ratio) > 0.02:
        notes.append(f"{masked} of {number} units are masked, which is {masked / number:.0%}, not {ratio:.0%}")
    if units < FEWEST_UNITS:
        notes.append(
            f"an image has only {units}×{units} patches to mask: --image-size {FEWEST_UNITS * stride} gives "
            f"{FEWEST_UNITS}×{FEWEST_UNITS}, and so does a design of a smaller stride, such as convnext_pooled"
        )
    last = encoder.widths[-1] * (4 if encoder.bottleneck == "narrow" else 1)
    width = WIDTH if last >= NARROW else last
    if width != WIDTH:
        notes.append(f"the decoder has the encoder's {width} channels, not {WIDTH}")
    return MaskedDesign(encoder, unit, ratio, width), tuple(notes)


def from_dict(values: dict[str, Any]) -> MaskedDesign:
    """The design of ``MaskedDesign.to_dict``'s plain data."""
    return MaskedDesign(**{**values, "encoder": Design.from_dict(values["encoder"])})
