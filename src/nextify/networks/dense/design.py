"""A detector or segmenter as plain data: a backbone, a head, and the few decisions of the head. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, cast, get_args

from nextify.networks.foreign import Foreign
from nextify.paper.design import Design, DesignError

Head = Literal["fcos", "retinanet", "faster_rcnn", "mask_rcnn", "upernet", "fpn"]
SEGMENTATION_HEADS = ("upernet", "fpn")
ONE_STAGE = ("fcos", "retinanet")
DEFAULT_HEADS: dict[str, Head] = {"detection": "fcos", "segmentation": "fpn"}
"""A light one for each task."""
GROUPS = 32
"""Groups of torchvision's group norm in the heads, of which the width is a multiple."""
MOST_BOXES = 100
"""That a detector finds in an image, as COCO's metric counts."""
SMALL, LARGE = 256, 640
"""Long sides of the canvas, in pixels: up to the first everything is small, beyond the second it is as published."""
_WIDTHS = {"upernet": (128, 256, 512), "fpn": (64, 128, 128)}
_DETECTION_WIDTHS = (64, 128, 256)


@dataclass(frozen=True)
class DenseDesign:
    """A network for boxes or masks. The defaults are the published heads'."""

    backbone: Design | Foreign
    head: Head = "fcos"
    width: int = 256
    """Channels of the feature pyramid and of the head."""
    finest_stride: int = 8
    """Image pixels per pixel of the finest level that a one-stage head sees (RetinaNet's P3: 8); others start at 4."""
    object_scale: float = 4.0
    """Size of a level's objects in its strides: RetinaNet's anchors begin at 4 strides, FCOS's ranges at 4."""
    convolutions: int = 4
    """3x3 convolutions in each branch of a one-stage head and of the mask head."""

    def __post_init__(self) -> None:
        if self.head not in get_args(Head):
            raise DesignError(f"head must be one of {', '.join(get_args(Head))}, got {self.head!r}")
        if type(self.width) is not int or self.width < GROUPS or self.width % GROUPS:
            raise DesignError(f"width must be a multiple of {GROUPS}, got {self.width!r}")
        if self.finest_stride not in (4, 8, 16):
            raise DesignError(f"finest_stride must be 4, 8 or 16, got {self.finest_stride!r}")
        if type(self.convolutions) is not int or not 1 <= self.convolutions <= 16:
            raise DesignError(f"convolutions must be a whole number from 1 to 16, got {self.convolutions!r}")
        if type(self.object_scale) not in (int, float) or not 0 < self.object_scale <= 64:
            raise DesignError(f"object_scale must be a number above 0 and at most 64, got {self.object_scale!r}")

    @property
    def task(self) -> Literal["detection", "segmentation"]:
        return "segmentation" if self.head in SEGMENTATION_HEADS else "detection"

    @property
    def first_stride(self) -> int:
        """Least stride of the backbone's maps that the head takes."""
        return self.finest_stride if self.head in ONE_STAGE else 4

    def with_(self, **changes: Any) -> Self:
        return replace(self, **changes)

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON; ``from_dict`` reads it."""
        return {**vars(self), "backbone": self.backbone.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        backbone = values["backbone"]
        found = Foreign.from_dict(backbone) if "library" in backbone else Design.from_dict(backbone)
        return cls(**{**values, "backbone": found})


def chosen_head(task: str, named: str | None = None) -> Head:
    """The head of this name, or the light one of the task. Raises ``DesignError`` for none of the task's."""
    own = [head for head in get_args(Head) if (head in SEGMENTATION_HEADS) == (task == "segmentation")]
    if named is not None and named not in get_args(Head):
        raise DesignError(f"no head {named!r}; there are {', '.join(get_args(Head))}")
    if named is not None and named not in own:
        raise DesignError(f"--head {named} is for another task than {task}: choose {', '.join(own)}")
    return DEFAULT_HEADS[task] if named is None else cast("Head", named)


def fitted_head(backbone: Design | Foreign, head: Head, canvas: tuple[int, int]) -> DenseDesign:
    """The design whose head suits images of ``canvas (height, width)`` pixels.

    Beyond 640 pixels it is the published one. Up to 640 its width and depth are half; up to 256 the width is a quarter,
    and each level takes objects of half the size.
    """
    step = (max(canvas) > SMALL) + (max(canvas) > LARGE)
    design = DenseDesign(backbone, head, _WIDTHS.get(head, _DETECTION_WIDTHS)[step])
    if step == 0:
        return design.with_(convolutions=1, object_scale=2.0)
    return design.with_(convolutions=2) if step == 1 else design
