"""``nextify pretrain MODEL --data PATH``: weights to fine-tune from, learned from images without labels."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from nextify.cli import options as common
from nextify.cli.settings import settings
from nextify.cli.train import Training
from nextify.networks.masked.design import RATIO, MaskedDesign
from nextify.networks.zoo import find_design
from nextify.paper.design import total_stride
from nextify.paper.settings import Range
from nextify.training.request import split


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is trained, and from which weights."""

    scale: common.Scale = "full"
    """Pre-train a smaller version of the network, for smaller images."""
    weights: Annotated[str | None, common.UNSET] = None
    """Continue from these: a bundle, another library's file (an official FCMAE checkpoint, with its decoder if it has
    one), hf:owner/name or timm:name."""
    image_size: common.ImageSide = None
    """Side of the images in pixels. Default: the weights', or the images' own between 16 and 224."""


@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """Pre-train a network on images without labels: 60 % of each is masked and reconstructed from the rest (FCMAE).

    --out holds a bundle of the encoder, from which `nextify train MODEL --weights BUNDLE` fine-tunes, and figures of
    its reconstructions. After an interruption, the same command resumes.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A name that `nextify models` lists, with depthwise convolutions, e.g. convnextv2_atto."""
    data: common.Images
    out: common.Folder = None
    """Folder for the results. Default: runs/MODEL-DATA-pretrained."""
    mask_ratio: Annotated[float, Range(above=0, below=1)] = RATIO
    """Share of each image that is masked."""
    recipe: Annotated[str | None, common.UNSET] = None
    """fcmae (the paper's) or fcmae_small. Default: chosen by the number of images."""
    seed: common.Seed = 0
    """Seed of the weights, the order, the augmentation and the masks."""
    network: OmitArgPrefixes[Network] = Network()

    ending = "-pretrained"

    def check(self) -> None:
        super().check()
        if self.network.weights is None:
            design = find_design(self.model).with_(**split(settings(self.set))[1])
            MaskedDesign(design, total_stride(design))  # refuses other blocks


run = "nextify.cli.training:run_training"
