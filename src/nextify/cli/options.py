"""Options that several commands share, each declared once, with the checks that need neither torch nor an image."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from nextify.data.source import check_source
from nextify.paper.settings import Range
from nextify.system.files import LATEST, UnusableFolder, followed, occupied
from nextify.system.native import Mode


def unset(**more: Any) -> Any:
    """``tyro.conf.arg`` of an option whose help says what it is by default."""
    return arg(help_behavior_hint="", **more)


UNSET = unset()
Count = Annotated[Annotated[int, Range(least=1, most=10**6)] | None, UNSET]
Threads = Annotated[Annotated[int, Range(least=1, most=1024)] | None, UNSET]
Workers = Annotated[Annotated[int, Range(least=0, most=1024)] | None, UNSET]
ImageSide = Annotated[Annotated[int, Range(least=1, most=10**4)] | None, UNSET]
Seed = Annotated[int, Range(least=0, most=2**31 - 1)]
Scale = Literal["tiny", "small", "half", "full"]
Minutes = Annotated[
    Annotated[float, Range(above=0, most=10**7)] | None,
    unset(
        help="Instead of --epochs: as many as fit into this time by a measurement, counted from the command's start. "
        "It may also choose smaller images and bf16 (docs/training.md)."
    ),
]
Licence = Annotated[
    str | None,
    unset(metavar="SPDX", help='Licence of the result, e.g. cc-by-4.0. Default: that of --weights, else "yours".'),
]
Trackers = Annotated[
    UseAppendAction[tuple[Literal["tensorboard", "wandb", "trackio"], ...]],
    unset(metavar="TRACKER", help="Also report each epoch to tensorboard, wandb or trackio; may be repeated."),
]
Folder = Annotated[Path | None, unset(metavar="DIR")]
Changes = Annotated[UseAppendAction[tuple[str, ...]], unset(metavar="FIELD=VALUE")]
Device = Annotated[str, arg(help="cpu, cuda, cuda:1, or auto: a CUDA GPU if there is one.")]
Kernels = Annotated[
    Mode, arg(help="nextify's own kernels: auto (where measured to be faster), on (wherever they apply), or off.")
]
Json = Annotated[bool, unset(help="Print JSON.")]
Images = Annotated[
    str,
    arg(
        help="digits, cifar10, scenes, hf:OWNER/NAME, or your images: a folder, a .csv or .parquet list, .parquet or "
        ".tar; with boxes or masks: COCO, VOC, YOLO, or images/ next to masks/ (docs/data.md)."
    ),
]
Task = Annotated[Literal["detection", "segmentation"] | None, UNSET]
Head = Annotated[Literal["fcos", "retinanet", "faster_rcnn", "mask_rcnn", "upernet", "fpn"] | None, UNSET]
IgnoreIndex = Annotated[
    Annotated[int, Range(least=0, most=255)] | None,
    unset(help="For masks: pixels of this index are ignored in training and measurement, like those of 255."),
]
SplitSeed = Annotated[
    Seed, arg(help="Seed of the split into training and test images, for data without test images of its own.")
]
SkipUnreadable = Annotated[
    bool,
    unset(help="Leave out images that cannot be read. To find them, each image is decoded once at the start."),
]
ClassOrder = Annotated[
    str | None,
    unset(
        metavar="imagefolder|natural|data|FILE",
        help="For weights without class names: the order of their classes (imagefolder: torchvision and Hugging Face; "
        "natural: timm; data: as in these images), or a file of the names, one per line or JSON.",
    ),
]
ClassNames = Annotated[
    str | None,
    unset(metavar="FILE", help="For weights without class names: a file of the names in order, one per line or JSON."),
]

Channels = Annotated[
    tuple[int, ...] | None,
    unset(
        metavar="N | BAND BAND BAND",
        help="Number of channels of the images, all of which are then read as numbers (TIFF, NumPy files); or the "
        "three bands to use as colours, numbered from 1: 4 3 2 shows infrared, red and green of aerial images. "
        "Default: as the weights were trained; otherwise all channels of NumPy files, and the colours of other files.",
    ),
]


@dataclass(frozen=True)
class Reading:
    """How the images are read."""

    split_seed: SplitSeed = 0
    channels: Channels = None
    skip_unreadable: SkipUnreadable = False


@dataclass(frozen=True)
class Machine:
    """Where and how fast."""

    device: Device = "auto"
    threads: Threads = None
    """CPU threads of each network. Default: all, shared among the networks that run side by side."""
    kernels: Kernels = "auto"


@dataclass(frozen=True)
class TrainingMachine(Machine):
    """Where and how fast; none of it changes the result beyond rounding, except precision."""

    compile: bool = False
    """torch.compile the networks; on a CPU it needs a C++ compiler."""
    capture: bool = False
    """Launch each training step as one CUDA graph: for classifiers with short kernels on one GPU. Not measured yet."""
    checkpoint_seconds: Annotated[float, Range(least=0, most=10**9)] = 20.0
    """Longest time between two checkpoints, in seconds."""


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """Options of every command that runs a trained network."""

    json: Json = False
    machine: OmitArgPrefixes[Machine] = Machine()


@dataclass(frozen=True, kw_only=True)
class MeasurementOptions(InferenceOptions):
    """Options of every command that measures a bundle on labelled images."""

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """A bundle written by nextify train, its folder, or other weights with the same number of classes."""
    data: str
    """digits, cifar10, hf:OWNER/NAME, or a path, as for nextify train. The bundle must know every class."""
    class_order: ClassOrder = None
    part: Literal["test", "train", "all"] = "test"
    """test: val/ or test/, or the images that training would have held out; all: every image, for data never trained
    on."""
    split: Annotated[Literal["val", "test"] | None, UNSET] = None
    """Which split to use as test images if the data has both val and test. Default: val, as in training."""
    out: Folder = None
    """Folder for the results. Default: only print them."""
    reading: OmitArgPrefixes[Reading] = Reading()

    def check(self) -> None:
        """Raises ``DataError``, ``FileNotFoundError`` or ``UnusableFolder`` for what is not there."""
        check_weights(self.bundle)
        check_source(self.data)
        check_folder(self.out)


def refuse_for_dense(task: str, given: Mapping[str, object]) -> None:
    """Raises ``ValueError`` where options for classifiers are given with a bundle for another task."""
    if names := [name for name, value in given.items() if value not in (None, False)]:
        raise ValueError(f"{' and '.join(names)} is for classifiers, and the bundle is for {task}: leave it out")


def check_images_named(images: Sequence[str]) -> None:
    """Raises ``ValueError`` where no image is named, or one by an empty path, such as of an unset variable."""
    if not images:
        raise ValueError("no image given: name files, folders or patterns after the bundle")
    if not all(images):
        raise ValueError("an image's path is empty: name files, folders or patterns after the bundle")


def check_weights(source: str | None) -> None:
    """Raises ``FileNotFoundError`` where a path to weights leads nowhere."""
    if source is not None and ":" not in source and not (target := followed(source)).exists():
        remedy = "a Hub id is written hf:owner/name, a timm model timm:name"
        if target.is_symlink():
            target = target.parent / target.readlink()
        if target != Path(source).expanduser():
            remedy = f"it is a link to {target}, which does not exist"
        elif (latest := Path(source).with_name(LATEST)).exists():
            remedy = f"the last finished run there is {latest}"
        raise FileNotFoundError(f"no weights at {source}; {remedy}")


def check_folder(out: Path | None) -> None:
    """Raises ``UnusableFolder`` where a folder of results can be neither used nor made."""
    if out is None:
        return
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "may not be written" if there.is_dir() else "is a file"
        raise UnusableFolder(f"cannot make {out}: {there} {reason}; choose another --out")


def check_replaced(out: Path, bundle: str) -> None:
    """Raises ``ValueError`` or ``UnusableFolder`` where an export of ``bundle`` cannot take a folder's place."""
    if reason := occupied(out, bundle):
        raise ValueError(reason)
    check_folder(out.absolute().parent)
