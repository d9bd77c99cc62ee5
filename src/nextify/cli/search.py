"""``nextify search``: the best design for your images and machine within a budget."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes

from nextify.cli import options as common
from nextify.cli.roadmap import Machine
from nextify.compare.budget import limits
from nextify.data.source import check_source, source_name
from nextify.paper.recipe import RECIPES
from nextify.paper.settings import Range


@dataclass(frozen=True, kw_only=True)
class Options:
    """Search near both roadmaps for the best design for your images within a budget, by successive halving.

    Then compare it, on the test images, with the result of random search at equal cost and with the best member of the
    families within the budget. Writes search.json, search.csv, search.md, search.svg and search.png to --out, and keeps
    the winner's network. If it is interrupted, the same command continues where it stopped.
    """

    budget: str
    """latency<10ms (the median of single images on this machine), macs<20M, parameters<1M, or several with commas."""
    data: common.Images = "digits"
    out: common.Folder = None
    """Folder of the search. Default: runs/search-DATA-SCALE-BUDGET."""
    minutes: Annotated[float, Range(above=0, most=10**7)] = 60.0
    """Minutes of the search. Random search and the families each take about as long again, and the final runs come
    on top."""
    alone: Annotated[bool, common.UNSET] = False
    """Search only, without random search and the families."""
    epochs: common.Count = None
    """Epochs of the last rung and of the final runs. Default: the scale's."""
    seeds: Annotated[int, Range(least=1, most=1000)] = 3
    """Final training runs of each winner, paired by seed."""
    seed: common.Seed = 0
    """Seed of the random designs, of the order of the families, and of the runs that choose between them."""
    scale: common.Scale = "tiny"
    """Depths and stems to start from; the widths follow from the budget."""
    image_size: common.ImageSide = None
    """Side of the images in pixels. Default: as nextify train chooses it."""
    recipe: Annotated[str | None, common.unset(metavar="NAME")] = None
    """Recipe of all training runs. Default: as nextify train chooses it."""
    latency_threads: common.Threads = None
    """CPU threads for measuring latency. Default: all cores."""
    reading: OmitArgPrefixes[common.Reading] = common.Reading()
    machine: OmitArgPrefixes[Machine] = Machine()

    @property
    def folder(self) -> Path:
        budget = re.sub(r"[^\w.]+", "-", self.budget).strip("-")[:60]
        return self.out or Path("runs") / f"search-{source_name(self.data)}-{self.scale}-{budget}"

    def check(self) -> None:
        limits(self.budget)
        if self.recipe is not None and self.recipe not in RECIPES:
            raise ValueError(f"no recipe {self.recipe!r}; there are {', '.join(RECIPES)}")
        self.machine.check_engine()
        check_source(self.data)
        common.check_folder(self.folder)


run = "nextify.cli.searching:run_search"
