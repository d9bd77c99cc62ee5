"""``nextify train MODEL --data PATH``: a model that works on your images, from a folder of them."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from nextify.cli import options as common
from nextify.cli.settings import settings
from nextify.data.source import check_source, check_task, source_name
from nextify.paper.settings import Range
from nextify.system import processes
from nextify.system.files import followed
from nextify.training.request import Request, RequestError, check, check_licence, split
from nextify.training.tracking import check_trackers


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is trained, and from where."""

    scale: common.Scale = "full"
    """Train a smaller version of the network, for smaller images."""
    weights: Annotated[str | None, common.UNSET] = None
    """Start from these weights: a bundle, another library's file, hf:owner/name or timm:name. The classifier is new
    unless the classes are the same."""
    class_order: common.ClassOrder = None
    head: common.Head = None
    """Head of a detector (fcos, retinanet, faster_rcnn, mask_rcnn) or segmenter (upernet, fpn). Default: fcos or fpn;
    with the paper's recipes, the paper's."""
    freeze: Annotated[int, Range(least=0, most=1000), arg(metavar="STAGES")] = 0
    """With --weights: keep the stem and this many stages unchanged."""
    image_size: common.ImageSide = None
    """Side of the images in pixels. Default: the weights', or the images' own between 16 and 224; with boxes or masks
    the longer side, by default the images' own between 64 and 640."""


@dataclass(frozen=True, kw_only=True)
class Machine(common.TrainingMachine):
    """Where and how fast; none of it changes the result beyond rounding, except precision."""

    precision: Annotated[Literal["fp32", "bf16"] | None, common.UNSET] = None
    """bf16 uses autocast; worth it on GPUs and on CPUs that have bf16 instructions. Default: the recipe's."""
    workers: common.Workers = None
    """Processes that prepare images. Default: none on a CPU, all cores but one with a GPU."""
    accumulation: common.Count = None
    """Micro-batches into which each batch is split to save memory. Default: as few as fit, by a measurement. With batch
    norm, they change the result, so the number is never chosen for you."""
    distributed: Literal["auto", "ddp", "fsdp"] = "auto"
    """Under torchrun: ddp gives each process the whole network; fsdp gives it a shard, for networks that do not fit
    on one device. auto: ddp."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What is measured, reported and tried."""

    evaluations: Annotated[int, Range(least=1, most=10**6)] = 2
    """How many times to measure the test images: evenly spaced, including the end."""
    track: common.Trackers = ()
    dry_run: Annotated[bool, common.UNSET] = False
    """Check and measure, report what would be trained, and stop."""


@dataclass(frozen=True, kw_only=True)
class Watching(Watched):
    """What is measured, reported and tried."""

    overfit_batch: Annotated[bool, common.UNSET] = False
    """Memorize one batch and stop: shows in a minute whether this data can be learned at all with these settings."""
    find_rate: Annotated[bool, common.UNSET] = False
    """Raise the learning rate over 100 steps and stop: plot the loss, and say whether the recipe's rate is good."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Options of every command that trains one network."""

    model: str
    data: str
    out: common.Folder = None
    epochs: common.Count = None
    """Passes over the images. Default: the recipe's, or the scale's."""
    minutes: common.Minutes = None
    recipe: Annotated[str | None, common.UNSET] = None
    set: common.Changes = ()
    """Any field of recipe or design, overriding the fit, e.g. --set batch_size=64 --set mixing=off --set norm=batch."""
    seed: common.Seed = 0
    licence: common.Licence = None
    reading: OmitArgPrefixes[common.Reading] = common.Reading()
    network: Any
    """Of each command its own."""
    machine: OmitArgPrefixes[Machine] = Machine()
    watching: OmitArgPrefixes[Watched] = Watched()

    ending: ClassVar[str] = ""
    """Of the default folder's name."""

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / f"{self.model}-{source_name(self.data)}{self.ending}"

    def request(self) -> Request:
        given = {**vars(self), **vars(self.network), **vars(self.machine), "settings": settings(self.set)}
        return Request(**{field.name: given[field.name] for field in fields(Request) if field.name in given})

    def check(self) -> None:
        check(self.request())
        check_licence(self.licence)
        check_trackers(self.watching.track)
        check_source(self.data)
        common.check_weights(self.network.weights)
        common.check_folder(self.folder)


@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """Train a network on your images: check the data, fit the recipe to it, and leave a bundle in --out.

    On images annotated with boxes or masks (docs/dense.md), or the built-in scenes, train a detector or segmenter.

    After an interruption, the same command resumes. To train with several processes or machines, start them with
    torchrun: torchrun --nproc-per-node 8 -m nextify train …
    """

    model: Annotated[Positional[str], common.unset(metavar="MODEL")] = ""
    """A name that `nextify models` lists, e.g. convnext_atto."""
    data: Annotated[common.Images, common.UNSET] = ""
    continue_: Annotated[str | None, common.unset(name="continue", metavar="RUN")] = None
    """Instead of MODEL: train this finished run, e.g. runs/NAME/latest, for --epochs more, as a new run next to it,
    with a new cosine from a tenth of its learning rate (docs/training.md)."""
    without: Annotated[Path | None, common.unset(metavar="CSV")] = None
    """Leave out the training images in this list, which has a column file, as nextify inspect writes it. Test images
    stay."""
    task: Annotated[str | None, common.unset(metavar="classification|multilabel|detection|segmentation")] = None
    """What to learn if the data allows several tasks: classification has one class per image, multilabel any number
    of labels. Default: recognized from the data (docs/data.md)."""
    ignore_index: common.IgnoreIndex = None
    out: common.Folder = None
    """Folder for the results. Default: runs/MODEL-DATA, or with --continue where that run is."""
    folds: Annotated[Annotated[int, Range(least=2, most=100)] | None, common.UNSET] = None
    """Cross-validation: split the training images into this many folds and, for each, train a network on the others.
    The test images stay unused."""
    ensemble: Annotated[bool, common.UNSET] = False
    """With --folds: also leave one bundle that averages the logits of all folds' networks, and measure it on the test
    images."""
    recipe: Annotated[str | None, common.UNSET] = None
    """convnext_in1k, scratch_small, coco_3x, … Default: chosen by task, number of images and --weights."""
    seed: common.Seed = 0
    """Seed of the weights, the order and the augmentation."""
    network: OmitArgPrefixes[Network] = Network()
    watching: OmitArgPrefixes[Watching] = Watching()

    def request(self) -> Request:
        return replace(super().request(), frozen_stages=self.network.freeze)

    def check(self) -> None:
        if self.continue_ is not None:
            self._check_continued(self.continue_)
            return
        for name, value in (("MODEL", self.model), ("--data", self.data)):
            if not value:
                raise RequestError(f"{name} is missing: nextify train MODEL --data PATH; see nextify train --help")
        if self.folds is not None:
            self._check_folds()
        elif self.ensemble:
            raise RequestError("--ensemble combines the networks of several folds: give --folds 5 too")
        if self.watching.find_rate and self.watching.overfit_batch:
            raise RequestError("--find-rate and --overfit-batch exclude each other: give one")
        super().check()
        check_task(self.task)
        if self.without is not None and not self.without.exists():
            raise FileNotFoundError(f"no list at {self.without}; nextify inspect writes one")

    def _check_folds(self) -> None:
        """Refuse options that are for a single run only."""
        options = {
            "--minutes": self.minutes,
            "--licence": self.licence,
            "--track": self.watching.track,
            "--overfit-batch": self.watching.overfit_batch,
            "--find-rate": self.watching.find_rate,
            "--ignore-index": self.ignore_index is not None,
            "--workers": self.machine.workers,
            "--distributed": self.machine.distributed != "auto",
        }
        if given := [name for name, value in options.items() if value]:
            raise RequestError(f"{given[0]} is for a single run, and --folds trains several networks: leave it out")
        if processes.launched() > 1:
            raise RequestError("--folds starts its own processes: run it without torchrun")

    def _check_continued(self, folder: str) -> None:
        """Refuse options that the continued run has already decided, and a run that cannot be read."""
        if self.epochs is None:
            raise RequestError("--continue needs --epochs N: how many more to train")
        plain = Options()
        decided = (
            "model",
            "task",
            "ignore_index",
            "minutes",
            "recipe",
            "seed",
            "reading",
            "network",
            "folds",
            "ensemble",
            "without",
        )
        if given := [name for name in decided if getattr(self, name) != getattr(plain, name)]:
            named = {"model": "MODEL", "reading": "options for reading the images", "network": "options of the network"}
            what = " and ".join(named.get(name, f"--{name.replace('_', '-')}") for name in given)
            raise RequestError(f"--continue takes everything but the epochs and --set from {folder}: leave {what} out")
        if not followed(folder).exists():
            raise RequestError(f"no training run in {folder}: give its folder, such as runs/NAME/latest")
        split(settings(self.set))
        check_licence(self.licence)
        check_trackers(self.watching.track)
        if self.data:
            check_source(self.data)
        common.check_folder(self.out)


run = "nextify.cli.training:run_training"
