"""What ``test_distributed.py`` trains, in one process or in several: ``torchrun -m tests.training.two_processes``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nextify.data import open_images
from nextify.networks.masked.design import MaskedDesign
from nextify.paper.design import Design
from nextify.paper.recipe import RandAugment, Recipe, Shift
from nextify.system import processes
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
        found["fsdp, resumed"] = play("fsdp", found["fsdp"]["state"])
        if processes.is_first():
            torch.save(found, Path(sys.argv[1]))
