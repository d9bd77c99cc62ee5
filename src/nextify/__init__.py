"""Nextify: every step from ResNet to ConvNeXt, as a network, a training recipe and a study on your own images.

Start with ``nextify.roadmap("resnet50")`` for the steps, ``nextify.create_model("convnext_tiny")`` for a network, or
``nextify.train`` to train one. ``import nextify`` does not import torch.
"""

from typing import TYPE_CHECKING

from nextify.networks.layout import Layout, cost, layout, macs, parameters

# Light modules first, so that ``nextify.roadmap`` and ``nextify.layout`` are the functions, whatever is imported later.
from nextify.paper.design import Design
from nextify.paper.recipe import (
    RECIPES,
    SGD,
    AdamW,
    Mixing,
    Muon,
    NoCrop,
    RandAugment,
    RandomResized,
    Recipe,
    ScaleJitter,
    Shift,
)
from nextify.paper.roadmap import Roadmap, Step, roadmap
from nextify.system.later import later

if TYPE_CHECKING:
    from nextify.compare.search import search
    from nextify.data import open_images
    from nextify.deploy.export import export
    from nextify.deploy.quantize import quantize
    from nextify.deploy.runners import predict
    from nextify.evaluation.evaluate import evaluate
    from nextify.fitting.fit import fit
    from nextify.networks.zoo import list_models
    from nextify.study.folds import cross_validate
    from nextify.study.run_differences import diff_runs
    from nextify.study.runs import runs
    from nextify.training.continued import continue_training
    from nextify.training.train import pretrain, train
    from nextify.weights.models import create_backbone, create_model

__version__ = "0.1.0"

_LATER = {
    "continue_training": "training.continued",
    "create_backbone": "weights.models",
    "create_model": "weights.models",
    "cross_validate": "study.folds",
    "diff_runs": "study.run_differences",
    "evaluate": "evaluation.evaluate",
    "export": "deploy.export",
    "fit": "fitting.fit",
    "list_models": "networks.zoo",
    "open_images": "data",
    "predict": "deploy.runners",
    "quantize": "deploy.quantize",
    "pretrain": "training.train",
    "runs": "study.runs",
    "search": "compare.search",
    "train": "training.train",
}

__all__ = [
    "RECIPES",
    "SGD",
    "AdamW",
    "Design",
    "Layout",
    "Mixing",
    "Muon",
    "NoCrop",
    "RandAugment",
    "RandomResized",
    "Recipe",
    "Roadmap",
    "ScaleJitter",
    "Shift",
    "Step",
    "continue_training",
    "cost",
    "create_backbone",
    "create_model",
    "cross_validate",
    "diff_runs",
    "evaluate",
    "export",
    "fit",
    "layout",
    "list_models",
    "macs",
    "open_images",
    "parameters",
    "predict",
    "pretrain",
    "quantize",
    "roadmap",
    "runs",
    "search",
    "train",
]


__getattr__ = later(__name__, _LATER)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
