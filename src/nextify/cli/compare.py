"""``nextify compare``: networks of different families side by side on this hardware."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional

from nextify.cli import options as common
from nextify.compare.budget import read
from nextify.data.source import check_source, source_name
from nextify.networks.dense.design import chosen_head
from nextify.paper.settings import Range

Sides = Annotated[tuple[Annotated[int, Range(least=1, most=10**4)], ...] | None, common.UNSET]
Sizes = Annotated[tuple[Annotated[int, Range(least=1, most=10**6)], ...] | None, common.UNSET]
Size = Annotated[Annotated[int, Range(least=1, most=10**6)] | None, common.UNSET]
Minutes = Annotated[float, Range(above=0, most=10**7)]
MOST_LETTERS = 120
"""Of the names in a default folder's."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What is measured, and how often."""

    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """bf16 uses autocast, also for --data; tf32 exists on CUDA GPUs."""
    layout: Literal["channels_last", "contiguous"] = "channels_last"
    """Memory format of images and convolution weights."""
    batch_sizes: Sizes = None
    """Batch sizes for throughput in inference. Default: as --minutes allows, up to 1 8 on a CPU and 1 8 64 on a GPU."""
    training_batch_size: Size = None
    """Batch size of the measured training step. Default: as --minutes allows, up to 4 on a CPU and 64 on a GPU."""
    rounds: Annotated[Annotated[int, Range(least=1, most=10**4)] | None, common.UNSET] = None
    """Rounds in which the networks take turns at each size. Default: as many as --minutes allows, 3 to 60."""
    minutes: Minutes = 15.0
    """Minutes that the rounds are planned to take."""
    counts: Annotated[bool, common.UNSET] = False
    """Only count parameters, multiply-adds and activations, which takes seconds and no memory at any network size."""
    why: Annotated[bool, common.UNSET] = False
    """Also measure what layout, precision and each kind of operator cost each network, at the smallest size."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """With --data: how each network is trained."""

    scale: Annotated[common.Scale | None, common.UNSET] = None
    """Scale of the networks named without one, for small images."""
    seeds: Annotated[int, Range(least=1, most=1000)] = 3
    """Training runs of each network. With more of them, smaller differences can be told from chance."""
    epochs: common.Count = None
    """Epochs of each training run. Default: as many as --training-minutes allows, by a measured probe."""
    training_minutes: Minutes = 50.0
    """Minutes that all training runs together are planned to take, if --epochs is not given."""
    recipe: str = "convnext"
    """Recipe of all training runs, fitted to the images: convnext (the paper's), scratch_small, resnet, …"""
    image_size: common.ImageSide = None
    """Side of the images of --data. Default: the images' own, 16 to 224."""
    weights: Annotated[tuple[str, ...], common.unset(metavar="MODEL=FILE …")] = ()
    """Evaluate these weights of a network instead of training it."""
    side_by_side: Annotated[Annotated[int, Range(least=1, most=1024)] | None, common.UNSET] = None
    """Networks trained at the same time. Default: one per core for images up to 64 pixels."""


@dataclass(frozen=True)
class Machine(common.Machine):
    """Where and how fast."""

    compile: Annotated[bool, common.UNSET] = False
    """torch.compile the networks; on a CPU it needs a C++ compiler."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure networks of different families at several resolutions: cost, speed, memory, their growth, and accuracy.

    With --data, every network is trained with the same recipe and seeds; if stopped, the same command continues. Writes
    results.json, results.csv, figures and report.html to --out.
    """

    models: Annotated[Positional[tuple[str, ...]], common.unset(metavar="MODEL …")] = ()
    """Names that `nextify models` lists, NAME@SCALE for a smaller one, swin@tiny or vit@tiny (also @small), timm:NAME
    for any timm model, or bundles. Default: resnet50, timm:deit_small_patch16_224 (ViT-S),
    timm:swin_tiny_patch4_window7_224, convnext_tiny, convnext_isotropic_small; with --scale a ResNet, a ViT, a Swin
    and a ConvNeXt of similar multiply-adds."""
    sizes: Sides = None
    """Sides of the square images, in pixels. Default: 224 288 384 512; with --task 256 512 768 1024; with --data
    the size of its images."""
    task: common.Task = None
    """Compare the networks as backbones of detectors or segmenters with the same head; costs only. Default:
    classifiers."""
    head: common.Head = None
    """With --task: fcos, retinanet, faster_rcnn or mask_rcnn, upernet or fpn. Default: fcos or fpn."""
    data: Annotated[str | None, common.UNSET] = None
    """Train each network on these images, as for nextify train: digits, cifar10, hf:OWNER/NAME, or a path. Bundles are
    evaluated."""
    budget: Annotated[str | None, common.UNSET] = None
    """Recommend the most accurate network within limits: "latency<20ms, throughput>100, memory<500MiB, macs<5G,
    parameters<30M"."""
    out: common.Folder = None
    """Folder of the results. Default: runs/compare, to which --data, --task, --scale, --precision, --sizes and MODEL
    are added if given, as in runs/compare-cifar10-tiny."""
    json: common.Json = False
    measuring: OmitArgPrefixes[Measuring] = Measuring()
    training: OmitArgPrefixes[Training] = Training()
    reading: OmitArgPrefixes[common.Reading] = common.Reading()
    machine: OmitArgPrefixes[Machine] = Machine()

    @property
    def folder(self) -> Path:
        given = [
            *(self.data and source_name(self.data), self.task, self.head, self.training.scale),
            *(None if self.measuring.precision == "fp32" else self.measuring.precision, *map(str, self.sizes or ())),
            *("-".join(Path(name).parts[-2:]) for name in self.models),
        ]
        words = re.sub(r"[^\w.@]+", "-", "-".join(filter(None, given)))[:MOST_LETTERS]
        return self.out or Path("runs") / f"compare-{words}".rstrip("-")

    def check(self) -> None:
        if self.task is None and self.head is not None:
            raise ValueError("--head is for boxes and masks: give --task detection or segmentation too")
        if self.task is not None:
            chosen_head(self.task, self.head)
        if self.task is not None and (self.data is not None or self.budget is not None):
            raise ValueError(
                "compare --task measures costs and no accuracy: leave --data and --budget out; nextify roadmap and "
                "nextify train measure what detectors and segmenters learn"
            )
        if self.task is not None and any(size % 32 for size in self.sizes or ()):
            raise ValueError(f"the --sizes of --task {self.task} must be multiples of 32")
        if self.data is None and self.training.weights:
            raise ValueError("--weights are evaluated on images: give --data too")
        if self.measuring.counts and (self.data is not None or self.measuring.why):
            raise ValueError("--counts runs nothing: leave --data and --why out")
        if self.budget:
            read(self.budget)
        if self.data is not None:
            check_source(self.data)
        common.check_folder(self.folder)


run = "nextify.cli.comparison:run_comparison"
