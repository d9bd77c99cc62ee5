"""What ``test_distributed.py`` trains, in one process or in several: ``torchrun -m tests.training.two_processes``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from nextify.data import open_images
from nextify.data.dense import open_dense
from nextify.networks.dense.design import SEGMENTATION_HEADS
from nextify.networks.masked.design import MaskedDesign
from nextify.paper.design import Design
from nextify.paper.recipe import RandAugment, Recipe, Shift
from nextify.system import processes
from nextify.training.prepare import prepare
from nextify.training.request import Request
from nextify.training.trainer import Trainer
from nextify.training.trial import Runtime
from tests.training.helpers import small_trial

EVERYTHING = Recipe(
    epochs=10,
    warmup_epochs=1.0,
    batch_size=100,
    learning_rate=1e-3,
    crop=Shift(),
    test_crop_ratio=1.0,
    horizontal_flip=0.0,
    rand_augment=RandAugment(),
    random_erasing=0.5,
    stochastic_depth=0.3,
    ema=0.9,
    gradient_clip=1.0,
)
"""With mixing and label smoothing, which are a recipe's defaults."""
SCENES: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "layer norm": ("separate_downsampling", {}, {}, 50),
    "batch norm": ("training_technique", {}, {}, 50),
    "odd batch in parts": ("layer_norm", {"batch_size": 33}, {"accumulation": 3}, 8),
    "masked": ("separate_downsampling", {}, {}, 8),
    "fsdp": ("separate_downsampling", {"optimizer": "muon"}, {"distributed": "fsdp"}, 8),
}
"""Name: step of the roadmap, changes of the recipe, changes of the runtime, steps."""
DENSE = ("fcos", "retinanet", "mask_rcnn in float64", "upernet", "fpn in parts")
"""Heads of detectors and segmenters, for ``DENSE_STEPS`` steps each. Mask R-CNN draws among regions in the order of
their scores, which are nearly equal at first: in float32, rounding makes it draw others."""
DENSE_STEPS = 4
Outcome = dict[str, Any]


@contextmanager
def in_float64() -> Iterator[None]:
    """Compute in float64 what would be computed in float32."""
    usual = torch.get_default_dtype()
    with patch.object(torch, "float32", torch.float64), patch.object(torch.Tensor, "float", torch.Tensor.double):
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(usual)


def play_dense(name: str) -> Outcome:
    """Likewise of a detector or segmenter, on batches of 9 scenes, of which one process gets 5."""
    torch.set_num_threads(1)
    head, accumulation = name.split()[0], 2 if "parts" in name else 1
    images = open_dense("scenes", task="segmentation" if head in SEGMENTATION_HEADS else "detection")
    train, test = (part.selected(np.arange(n)) for part, n in ((images.train, 27), (images.test, 11)))
    small = {"depths": (1, 1, 1, 1), "widths": (16, 24, 32, 48), "batch_size": 9, "precision": "fp32"}
    # SGD: L1's gradients cancel but for rounding, from which AdamW makes steps of the whole rate.
    settings = {**small, "stochastic_depth": 0.3, "learning_rate": 0.01, "optimizer": "sgd"}
    request = Request("convnext_atto", head=head, epochs=2, image_size=64, settings=settings, accumulation=accumulation)
    made = prepare(request, replace(images, train=train, test=test))
    exact = "float64" in name
    with in_float64() if exact else nullcontext():
        return outcome(Trainer(made.trial, made.images, Runtime(kernels="off" if exact else "auto")), DENSE_STEPS)


def play(name: str, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """Losses of a scene's steps, test metrics before the first, and the state at the end."""
    step, changes, runtime_changes, steps = SCENES[name]
    torch.set_num_threads(1)
    trial = small_trial(step, EVERYTHING.with_(**changes))
    if name == "masked":
        assert isinstance(trial.design, Design)
        trial = replace(trial, design=MaskedDesign(trial.design, 16, 0.6, 16), data=replace(trial.data, image_size=64))
    run = Trainer(trial, open_images("digits"), replace(Runtime(), **runtime_changes))
    if state is not None:
        run.load_state(state)
    return outcome(run, steps)


def outcome(run: Trainer, steps: int) -> Outcome:
    """What ``play`` returns of a training that takes these steps."""
    before = run.evaluate()
    losses = []
    for pixels, labels in run.batches.iterate(run.step, run.step + steps):
        losses.append(float(processes.summed(run.train_step(pixels, labels))))
    return {
        "losses": losses,
        "accuracy": [*(round(value, 5) for value in before.values().values()), before.images],
        "top1": next(iter(run.evaluate().values().values())),
        "state": run.state(),
    }


if __name__ == "__main__":
    with processes.joined("cpu"):
        found = {name: play(name) for name in SCENES}
        found |= {name: play_dense(name) for name in DENSE}
        found["fsdp, resumed"] = play("fsdp", found["fsdp"]["state"])
        if processes.is_first():
            torch.save(found, Path(sys.argv[1]))
