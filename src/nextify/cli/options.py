"""Options that several commands share, each declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from nextify.system.native import Mode

Device = Annotated[str, arg(help="cpu, cuda, cuda:1, or auto: a CUDA GPU if there is one.")]
Kernels = Annotated[
    Mode, arg(help="nextify's own kernels: auto (where measured to be faster), on (wherever they apply), or off.")
]
Json = Annotated[bool, arg(help="Print JSON.")]
SplitSeed = Annotated[
    int, arg(help="Seed of the split into training and test images, for data without test images of its own.")
]
SkipUnreadable = Annotated[
    bool, arg(help="Leave images out that cannot be read: each is decoded once at the start to find them.")
]
ClassOrder = Annotated[
    str | None,
    arg(
        metavar="imagefolder|natural|data|FILE",
        help="For weights without class names: the order of their classes (imagefolder: torchvision and Hugging Face; "
        "natural: timm; data: as the images number them), or a file of the names, one per line or JSON.",
    ),
]
ClassNames = Annotated[
    str | None,
    arg(metavar="FILE", help="For weights without class names: a file of the names in order, one per line or JSON."),
]

Channels = Annotated[
    tuple[int, int, int] | None,
    arg(
        metavar="BAND BAND BAND",
        help="Which bands of an image become the three channels, counted from 1: 4 3 2 shows infrared, red and green "
        "of aerial images. Default: those that the weights were trained on, else the colours.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """Options of every command that runs a trained network."""

    json: Json = False
    device: Device = "auto"
    threads: int | None = None
    """CPU threads for the network. Default: all."""
    kernels: Kernels = "auto"


@dataclass(frozen=True, kw_only=True)
class MeasurementOptions(InferenceOptions):
    """Options of every command that measures a bundle on labelled images."""

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """A bundle left by nextify train, or other weights with the same number of classes."""
    data: str
    """digits, cifar10, hf:OWNER/NAME, or a path, as for nextify train. The bundle must know every class."""
    class_order: ClassOrder = None
    channels: Channels = None
    part: Literal["test", "train", "all"] = "test"
    """test: val/ or test/, or the images that training would have set aside; all: every image, for data never trained
    on."""
    split_seed: SplitSeed = 0
    skip_unreadable: SkipUnreadable = False
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder for the results."""
