"""``nextify starts WEIGHTS… --data PATH``: which weights suit these images, by a probe that takes minutes."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional

from nextify.cli import options as common
from nextify.data.source import check_source
from nextify.networks.zoo import find_design
from nextify.paper.settings import Range


@dataclass(frozen=True, kw_only=True)
class Options:
    """Rank weights by a short fine-tuning on some of your training images, before you spend hours on one of them.

    The accuracy of a linear classifier on frozen features is shown too. Both are cross-validated; the test images stay
    unused. A difference that chance could explain is reported as such.
    """

    weights: Annotated[Positional[tuple[str, ...]], common.unset(metavar="WEIGHTS [WEIGHTS …]")]
    """Bundles, other libraries' files, hf:owner/name, timm:name, or fresh:MODEL to train from scratch."""
    data: common.Images
    licence: Literal["permissive", "any"] = "any"
    """permissive: leave out weights that may not be used commercially, or whose terms apply to everything made from
    them."""
    images: Annotated[int, Range(least=32, most=10**6)] = 1000
    """How many training images to use."""
    folds: Annotated[int, Range(least=3, most=20)] = 5
    """Folds of the cross-validation. Fewer than 5 give wide intervals."""
    epochs: Annotated[int, Range(least=1, most=1000)] = 3
    """Passes over the images in each short fine-tuning."""
    json: common.Json = False
    reading: OmitArgPrefixes[common.Reading] = common.Reading()
    machine: OmitArgPrefixes[common.Machine] = common.Machine()

    def check(self) -> None:
        if not self.weights:
            raise ValueError("there is nothing to choose from: give weights, such as timm:convnextv2_atto or a bundle")
        for source in self.weights:
            if source.startswith("fresh:"):
                find_design(source.removeprefix("fresh:"))
            else:
                common.check_weights(source)
        if len({*self.weights}) < len(self.weights):
            raise ValueError("some weights are given twice: give each once")
        check_source(self.data)


run = "nextify.cli.starting:run_starts"
