"""Nextify: every step from ResNet to ConvNeXt, as a network, a training recipe and a study on your own images.

Start with ``nextify.roadmap("resnet50")`` for the steps, ``nextify.create_model("convnext_tiny")`` for a network, or
``nextify.train`` to train one. ``import nextify`` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from nextify.compare.search import search
    from nextify.data import open_images
    from nextify.deploy.export import export
    from nextify.deploy.quantize import quantize
    from nextify.evaluation.evaluate import evaluate
    from nextify.evaluation.predict import predict
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
    "continue_training": "nextify.training.continued",
    "create_backbone": "nextify.weights.models",
    "create_model": "nextify.weights.models",
    "cross_validate": "nextify.study.folds",
    "diff_runs": "nextify.study.run_differences",
    "evaluate": "nextify.evaluation.evaluate",
    "export": "nextify.deploy.export",
    "fit": "nextify.fitting.fit",
    "list_models": "nextify.networks.zoo",
    "open_images": "nextify.data",
    "predict": "nextify.evaluation.predict",
    "quantize": "nextify.deploy.quantize",
    "pretrain": "nextify.training.train",
    "runs": "nextify.study.runs",
    "search": "nextify.compare.search",
    "train": "nextify.training.train",
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


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'nextify' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
