"""``nextify attribute``: what each decision is worth whatever the order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes

from nextify.cli import options as common
from nextify.cli.roadmap import Machine
from nextify.data.source import check_source, source_name
from nextify.paper.settings import Range


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train networks with random subsets of the paper's decisions, and report what each decision is worth.

    Writes attribution.json, attribution.csv, two figures and report.html to --out. The same command continues where it
    stopped and adds pairs of orders. Networks are not kept.
    """

    regime: Literal["resnet50", "resnet200"] = "resnet50"
    """resnet50 → ConvNeXt-T, or resnet200 → ConvNeXt-B."""
    data: common.Images = "digits"
    out: common.Folder = None
    """Folder of the attribution. Default: runs/attribute-REGIME-DATA-SCALE."""
    hours: Annotated[float, Range(above=0, most=10**5)] = 1.0
    """Start no pair of orders that would end after this many hours. At least one pair is trained."""
    pairs: Annotated[Annotated[int, Range(least=1, most=10**5)] | None, common.unset(metavar="N")] = None
    """Stop at this many pairs of orders in all. Default: limited only by --hours."""
    ends: Annotated[int, Range(least=0, most=1000)] = 6
    """Number of seeds with which each decision is also taken alone, last, and in the paper's order."""
    every_subset: Annotated[bool, common.UNSET] = False
    """Train every subset of the decisions that an order can meet, twice, each time with a seed of its own, instead of
    pairs of random orders. For short runs: only their noise is left in the result, which comes once all are trained.
    """
    scale: common.Scale = "tiny"
    """Size of the networks and images; full is the paper's."""
    image_size: common.ImageSide = None
    """Side of the images in pixels. Default: the images' own, within the scale's range."""
    epochs: common.Count = None
    """Epochs of the paper's recipe; the original one gets 90/300 of them. Default: the scale's."""
    dry_run: Annotated[bool, common.UNSET] = False
    """Report what would be trained, with an estimate, and stop."""
    reading: OmitArgPrefixes[common.Reading] = common.Reading()
    machine: OmitArgPrefixes[Machine] = Machine()

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / f"attribute-{self.regime}-{source_name(self.data)}-{self.scale}"

    def check(self) -> None:
        if self.every_subset and self.pairs:
            raise ValueError("--every-subset trains no pairs of orders: leave --pairs out")
        self.machine.check_engine()
        check_source(self.data)
        common.check_folder(self.folder)


run = "nextify.cli.attribution:run_attribution"
