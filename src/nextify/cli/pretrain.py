"""``nextify pretrain MODEL --data PATH``: weights to fine-tune from, learned from images without labels."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from nextify.cli import options as common
from nextify.cli.settings import settings
from nextify.cli.train import Machine
from nextify.data.source import check_source, source_name
from nextify.networks.masked.design import RATIO, MaskedDesign
from nextify.networks.zoo import find_design
from nextify.paper.design import total_stride
from nextify.paper.settings import Range
from nextify.training.request import Request, check, check_licence, split
from nextify.training.tracking import check_trackers


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is trained, and from which weights."""

    scale: common.Scale = "full"
    """A smaller network than the name says, for smaller images."""
    weights: Annotated[str | None, common.UNSET] = None
    """Continue from these: a bundle, another library's file (an official FCMAE checkpoint, with its decoder if it has
    one), hf:owner/name or timm:name."""
    image_size: common.ImageSide = None
    """Side of the images in pixels. Default: the weights', or the images' own between 16 and 224."""


@dataclass(frozen=True, kw_only=True)
class Watching:
    """What is measured, reported and tried."""

    evaluations: Annotated[int, Range(least=1, most=10**6)] = 2
    """How often the masked error of the test images is measured, evenly spaced, the end included."""
    track: common.Trackers = ()
    dry_run: Annotated[bool, common.UNSET] = False
    """Check and measure, report what would be trained, and stop."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Pre-train a network on images without labels: 60 % of each image is masked, and restored from the rest (FCMAE).

    --out holds a bundle of the encoder, from which `nextify train MODEL --weights BUNDLE` fine-tunes, and pictures of
    what is restored. After an interruption, the same command resumes.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A name that `nextify models` lists whose blocks are depthwise, e.g. convnextv2_atto."""
    data: common.Images
    out: common.Folder = None
    """Folder for the results. Default: runs/MODEL-DATA-pretrained."""
    epochs: common.Count = None
    """Passes over the images. Default: the recipe's, or the scale's."""
    minutes: common.Minutes = None
    mask_ratio: Annotated[float, Range(above=0, below=1)] = RATIO
    """Share of each image that is masked."""
    recipe: Annotated[str | None, common.UNSET] = None
    """fcmae (the paper's) or fcmae_small. Default: chosen by the number of images."""
    set: common.Changes = ()
    """Any field of recipe or design, overriding the fit, e.g. --set batch_size=64 --set norm=batch."""
    seed: common.Seed = 0
    """Seed of the weights, the order, the augmentation and the masks."""
    licence: common.Licence = None
    reading: OmitArgPrefixes[common.Reading] = common.Reading()
    network: OmitArgPrefixes[Network] = Network()
    machine: OmitArgPrefixes[Machine] = Machine()
    watching: OmitArgPrefixes[Watching] = Watching()

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / f"{self.model}-{source_name(self.data)}-pretrained"

    def request(self) -> Request:
        given = {**vars(self), **vars(self.network), **vars(self.machine), "settings": settings(self.set)}
        return Request(**{field.name: given[field.name] for field in fields(Request) if field.name in given})

    def check(self) -> None:
        request = self.request()
        check(request)
        if self.network.weights is None:
            design = find_design(self.model).with_(**split(request.settings)[1])
            MaskedDesign(design, total_stride(design))  # refuses other blocks
        check_licence(self.licence)
        check_trackers(self.watching.track)
        check_source(self.data)
        common.check_weights(self.network.weights)
        common.check_folder(self.folder)


run = "nextify.cli.training:run_training"
