"""A trial: everything that decides the result of one training, and its fingerprint; and the Runtime, which decides
nothing of it. No torch here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nextify.networks.foreign import Foreign
from nextify.paper.design import Design
from nextify.paper.recipe import Recipe

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Per-channel mean and standard deviation of ImageNet's pixels (0 to 1), the field's customary normalization."""

RESULT_VERSION = 2
"""Raised whenever a change of the code changes what a trial gives; part of every fingerprint. Since 2, each image's
crop and distortions are drawn by themselves, so that several processes can share a batch; where there are none, what
version 1 gave still holds."""
MUON_VERSION = 3
"""Of trials with Muon: since 3 it takes dense kernels too, and float32 where the training does."""

Distributed = Literal["ddp", "fsdp"]

FROM_SCRATCH = "scratch"
"""A training's start that is drawn from its seed."""


@dataclass(frozen=True)
class Data:
    """Which images, which classes, at which resolution and normalization."""

    name: str
    fingerprint: str
    """Of the images' content, labels and split."""
    num_classes: int
    image_size: int
    """Side of the square images that the network sees, pixels."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class Trial:
    """One training."""

    design: Design | Foreign
    """Of a network of ours, or one of another library."""
    recipe: Recipe
    data: Data
    seed: int
    start: str = FROM_SCRATCH
    """Digest of the weights that the training starts from, or ``scratch``."""
    frozen_stages: int = 0
    """Stages that stay as they are, counted from the stem; with 1 or more the stem stays too."""

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with anything that decides the result."""
        deciding = {**self.to_dict(), "recipe": _deciding(self.recipe)}
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        fine_tuning: dict[str, Any] = {"start": self.start, "frozen_stages": self.frozen_stages}
        return {
            "version": _version(self.recipe),
            "design": self.design.to_dict(),
            "recipe": self.recipe.to_dict(),
            "data": {k: v for k, v in asdict(self.data).items() if k != "name"},
            "seed": self.seed,
            # Absent from a plain training, whose fingerprint is older than these two.
            **(fine_tuning if self.start != FROM_SCRATCH or self.frozen_stages else {}),
        }


_YOUNGER = {
    "class_balance": "off",
    "rest_learning_rate_share": 1.0,
    "progressive_resizing": "off",
    "crop_shift": 0.125,
    "test_mirror": "off",
    "resampling": "pillow",
}
"""Settings that are younger than the first fingerprints, which leave them out at these defaults."""


def _deciding(recipe: Recipe) -> dict[str, Any]:
    """The recipe as fingerprints have it: flat, so that trials keep the fingerprints they had before the groups."""
    flat = recipe.to_flat()
    return {name: value for name, value in flat.items() if name not in _YOUNGER or value != _YOUNGER[name]}


def _version(recipe: Recipe) -> int:
    if recipe.optimizer.kind == "muon":
        return MUON_VERSION
    return RESULT_VERSION if _draws_by_image(recipe) else 1


def _draws_by_image(recipe: Recipe) -> bool:
    return recipe.crop.kind == "random_resized" or recipe.rand_augment != "off" or recipe.color_jitter != "off"


@dataclass(frozen=True)
class Runtime:
    """Where and how fast a training runs. Recorded beside a result, never part of a fingerprint."""

    device: str = "cpu"
    """``cpu``, ``cuda`` or ``cuda:1``."""
    threads: int = 1
    """CPU threads of one training."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training's own process."""
    compile: bool = False
    """``torch.compile`` the network; needs a C++ compiler on the CPU."""
    accumulation: int = 1
    """Parts into which a batch is cut to save memory. Exact for layer norm; batch norm then sees smaller batches."""
    processes: int = 1
    """That train together, each on its share of every batch."""
    distributed: Distributed = "ddp"
    """How several processes train together: ``ddp`` gives each the whole network, ``fsdp`` a part of it."""
    checkpoint_seconds: float = 20.0
    """Longest time between two checkpoints."""
    evaluations: int = 2
    """Test evaluations over a training, evenly spaced, the last one of the final weights."""
