"""A trial, everything that decides the result of one training, with its fingerprint; and the Runtime, which must not
change it. No torch here."""

import hashlib
import json
import os
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, cast, get_args

from nextify.networks.dense.design import DenseDesign
from nextify.networks.foreign import Foreign
from nextify.networks.masked.design import MaskedDesign
from nextify.paper.design import Design
from nextify.paper.recipe import Recipe
from nextify.paper.settings import Range, check_ranges
from nextify.system import processes
from nextify.system.device import usable_device
from nextify.system.environment import cores
from nextify.system.native import Mode

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Per-channel mean and standard deviation of ImageNet's pixels (0 to 1), the field's customary normalization."""

VERSION = 4
"""Part of every fingerprint. Raise it whenever a change of the code changes the result of any trial, and whenever the
default of a setting changes, since fingerprints leave settings at their defaults out; or, where that concerns few
trials, name the setting in ``Trial._redefined``."""

Distributed = Literal["ddp", "fsdp"]

FROM_SCRATCH = "scratch"
"""The start of a training whose weights are drawn from its seed."""


class RuntimeOptionError(ValueError):
    """A runtime that this machine cannot provide; the message names the remedy."""


@dataclass(frozen=True)
class Data:
    """Which images, which classes, at which resolution and normalization."""

    name: str
    fingerprint: str
    """Of the images' content, labels and split."""
    num_classes: int
    image_size: int
    """Side of the square images that the network sees, pixels."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Of each channel, as many as the network takes; likewise ``std``."""
    std: tuple[float, ...] = IMAGENET_STD
    task: str = "classification"
    """``classification``, ``multilabel``, ``detection``, ``segmentation`` or ``masked`` (pre-training)."""
    canvas: tuple[int, int] | None = None
    """Height and width of the network's input in a dense task, whose long side is ``image_size``."""


@dataclass(frozen=True)
class Trial:
    """One training."""

    design: Design | Foreign | DenseDesign | MaskedDesign
    """Of a network of ours, one of another library, a detector or segmenter with either as its backbone, or a masked
    autoencoder."""
    recipe: Recipe
    data: Data
    seed: int
    start: str = FROM_SCRATCH
    """Digest of the weights that the training starts from, or ``scratch``."""
    frozen_stages: int = 0
    """Stages that stay as they are, counted from the stem; with 1 or more the stem stays too."""
    accumulation: int = 1
    """Parts into which a batch is cut where the network has batch norm, which normalizes each part by itself, or is a
    detector or segmenter, whose losses do. For other networks the parts do not matter, and are the Runtime's."""

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with anything that decides the result."""
        nameless = replace(self, data=replace(self.data, name=""))
        text = json.dumps([VERSION, _deciding(nameless), *self._redefined], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def _redefined(self) -> list[str]:
        """Settings of this trial that had another meaning for some time since ``VERSION`` was raised."""
        weighted = self.recipe.class_balance == "loss" and self.recipe.label_smoothing > 0
        return ["class_balance with label_smoothing"] if weighted else []

    def to_dict(self) -> dict[str, object]:
        """Everything in full, as plain data for JSON."""
        designed = {"design": self.design.to_dict(), "recipe": self.recipe.to_dict()}
        data = asdict(self.data)
        if self.data.task == "classification":  # as files had it before there were other tasks
            del data["task"], data["canvas"]
        return {"version": VERSION, **asdict(self), **designed, "data": data}


def _deciding(value: Any) -> Any:
    """A dataclass as its type's name and the fields that differ from their defaults, at every depth; so a new setting
    leaves the fingerprints of all trials that do not use it as they are."""
    if not is_dataclass(value):
        return value
    changed = {f.name: _deciding(got) for f in fields(value) if (got := getattr(value, f.name)) != _default(f)}
    return [type(value).__name__, changed]


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@dataclass(frozen=True)
class Runtime:
    """Where and how fast a training runs. Recorded with the result, never part of a fingerprint."""

    device: str = "cpu"
    """``cpu``, ``cuda`` or ``cuda:1``."""
    threads: Annotated[int, Range(least=1, most=1024)] = 1
    """CPU threads of one training."""
    workers: Annotated[int, Range(least=0, most=1024)] = 0
    """Processes that prepare batches; 0 prepares them in the training's own process."""
    kernels: Mode = "auto"
    """Nextify's own kernels: where they were measured to be faster, wherever they support the case, or nowhere."""
    compile: bool = False
    """``torch.compile`` the network; needs a C++ compiler on the CPU."""
    capture: bool = False
    """Launch each step as one CUDA graph, which helps networks whose kernels are shorter than their launch."""
    accumulation: Annotated[int, Range(least=1, most=10**9)] = 1
    """Parts into which a batch is cut to save memory, in networks without batch norm; the step is that of the whole
    batch."""
    processes: int = 1
    """That train together, each on its share of every batch."""
    distributed: Distributed = "ddp"
    """How several processes train together: ``ddp`` gives each the whole network, ``fsdp`` a part of it."""
    checkpoint_seconds: Annotated[float, Range(least=0, most=10**9)] = 20.0
    """Longest time between two checkpoints."""
    evaluations: Annotated[int, Range(least=1, most=10**6)] = 2
    """Test evaluations over a training, evenly spaced, the last one of the final weights."""

    def __post_init__(self) -> None:
        check_ranges(self, RuntimeOptionError)


def _capped(threads: int) -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # one number for each nested level
    if processes.launched() > 1 or not (asked.isascii() and asked.isdigit()):
        return threads
    return min(threads, max(1, int(asked)))


def runtime(
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    accumulation: int | None = None,
    distributed: str = "auto",
    kernels: Mode = "auto",
    compile: bool = False,
    capture: bool = False,
) -> Runtime:
    """Choose where and how fast: on a CPU all cores and no workers, beside a GPU all cores but one as workers.

    Several processes on one machine share its cores, and each takes the GPU of its number. ``OMP_NUM_THREADS`` caps the
    threads of one that is alone; torchrun sets it to 1 unasked. Raises ``DeviceError`` where the device cannot be used,
    and ``RuntimeOptionError`` for another option that is out of range."""
    device = usable_device(device)
    accelerated = device != "cpu"
    if distributed not in ("auto", "ddp", "fsdp"):
        raise RuntimeOptionError(f"--distributed must be ddp or fsdp, got {distributed!r}")
    if distributed == "fsdp" and processes.launched() == 1:
        raise RuntimeOptionError("--distributed fsdp needs several processes: use torchrun --nproc-per-node N")
    if kernels not in get_args(Mode):
        raise RuntimeOptionError(f"--kernels must be auto, on or off, got {kernels!r}")
    own_cores = max(1, cores() // processes.on_this_machine()[1])
    if workers is None:
        workers = max(1, own_cores - 1) if accelerated else 0
    return Runtime(
        device,
        (1 if accelerated else _capped(own_cores)) if threads is None else threads,
        workers,
        kernels,
        compile,
        capture,
        accumulation=1 if accumulation is None else accumulation,
        processes=processes.launched(),
        distributed=cast("Distributed", "ddp" if distributed == "auto" else distributed),
    )
