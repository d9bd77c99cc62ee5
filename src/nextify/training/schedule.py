"""Learning rate over a training, as a pure function of the step."""

from __future__ import annotations

import math

from nextify.recipe import Recipe


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of optimizer step ``step`` (from 0): linear warmup, then cosine or division by 10 at each third."""
    total = recipe.epochs * steps_per_epoch
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if recipe.schedule == "step":
        return max(recipe.learning_rate * 0.1 ** min(int(3 * done), 2), recipe.min_learning_rate)
    span = recipe.learning_rate - recipe.min_learning_rate
    return recipe.min_learning_rate + span * 0.5 * (1 + math.cos(math.pi * done))
