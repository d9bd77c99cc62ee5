"""``nextify roadmap``: the paper's roadmap as a study on your images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, UseAppendAction

from nextify.cli import options as common
from nextify.data.source import check_source, source_name
from nextify.paper.roadmap import roadmap
from nextify.paper.settings import Range
from nextify.study.cluster_options import check_engine, slurm_options


@dataclass(frozen=True, kw_only=True)
class Machine(common.TrainingMachine):
    """Where and how fast; none of it changes the result beyond rounding, except precision."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 uses autocast; worth it on GPUs and on CPUs that have bf16 instructions."""
    side_by_side: Annotated[Annotated[int, Range(least=1, most=1024)] | None, common.UNSET] = None
    """Trials that run at the same time. Default: one per core at small scales, as many as fit on a Ray cluster, 32
    Slurm jobs."""
    engine: Literal["local", "ray", "slurm"] = "local"
    """Where trials run: on this machine, or on a cluster (docs/cluster.md)."""
    ray_address: Annotated[str | None, common.unset(metavar="HOST:PORT")] = None
    """With --engine ray: the cluster's address. Default: $RAY_ADDRESS or, if unset, a cluster started here."""
    slurm: Annotated[UseAppendAction[tuple[str, ...]], common.unset(metavar="NAME=VALUE")] = ()
    """With --engine slurm: an option of sbatch, such as partition=gpu or time=4:00:00. May be repeated."""

    def check_engine(self) -> None:
        """Raises a ``ValueError`` for options of another engine, and ``MissingEngine`` for one not installed."""
        if self.ray_address is not None and self.engine != "ray":
            raise ValueError("--ray-address is for --engine ray: give both, or neither")
        if self.slurm and self.engine != "slurm":
            raise ValueError("--slurm is for --engine slurm: give both, or neither")
        check_engine(self.engine)
        slurm_options(self.slurm)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train the steps from ResNet to ConvNeXt on your images and report what each one gains.

    On images annotated with boxes or masks, or the built-in scenes, each step is the backbone of a detector or
    segmenter.

    Writes results.json, results.csv, roadmap.svg, roadmap.png and report.html to --out, and keeps every network in
    --out/trials. If it is interrupted, the same command continues where it stopped.
    """

    regime: Literal["resnet50", "resnet200"] = "resnet50"
    """resnet50 → ConvNeXt-T, or resnet200 → ConvNeXt-B."""
    data: common.Images = "digits"
    task: common.Task = None
    """What to learn if the data is annotated for several tasks. Default: recognized from the data."""
    head: common.Head = None
    """Head of the detectors (fcos, retinanet, faster_rcnn, mask_rcnn) or segmenters (upernet, fpn). Default: fcos or
    fpn."""
    ignore_index: common.IgnoreIndex = None
    out: common.Folder = None
    """Folder of the study. Default: runs/REGIME-DATA-SCALE, plus -segmentation with --task segmentation."""
    scale: common.Scale = "tiny"
    """Size of the networks and images; full is the paper's."""
    image_size: common.ImageSide = None
    """Side of the images in pixels. Default: the images' own, within the scale's range; for boxes and masks at
    most 640."""
    seeds: Annotated[Annotated[int, Range(least=1, most=1000)] | None, common.UNSET] = None
    """Training runs of each step. A later command with a larger number trains only the missing ones. Default: 6; for
    boxes and masks 3."""
    until_decided: Annotated[bool, common.UNSET] = False
    """After --seeds, add seeds to undecided steps until each has a verdict or has had five looks (docs/study.md)."""
    max_hours: Annotated[Annotated[float, Range(least=0, most=10**6)] | None, common.UNSET] = None
    """With --until-decided: add no seeds that would end more than this many hours after the start. Default: no
    limit."""
    epochs: common.Count = None
    """Epochs of the paper's recipe; the original recipe gets 90/300 of them. Default: the scale's."""
    explore: Annotated[bool, common.UNSET] = False
    """Also train the steps the paper tried and did not adopt: kernels 5, 9 and 11."""
    steps: Annotated[tuple[str, ...], common.unset(metavar="NAME …")] = ()
    """Only these steps (nextify models 'resnet50_*' lists them). Default: all adopted ones."""
    dry_run: Annotated[bool, common.UNSET] = False
    """Report what would be trained, with a measured estimate of the time, and stop."""
    reading: OmitArgPrefixes[common.Reading] = common.Reading()
    machine: OmitArgPrefixes[Machine] = Machine()

    @property
    def folder(self) -> Path:
        masks = "-segmentation" if self.task == "segmentation" else ""
        return self.out or Path("runs") / f"{self.regime}-{source_name(self.data)}-{self.scale}{masks}"

    def check(self) -> None:
        if self.max_hours is not None and not self.until_decided:
            raise ValueError("--max-hours limits --until-decided: give both, or neither")
        if self.until_decided and self.seeds == 1:
            raise ValueError("--until-decided needs --seeds 2 or more: one seed shows no spread")
        self.machine.check_engine()
        path = roadmap(self.regime)
        for step in self.steps:
            path[step]  # raises for an unknown one
        check_source(self.data)
        common.check_folder(self.folder)


run = "nextify.cli.study:run_study"
