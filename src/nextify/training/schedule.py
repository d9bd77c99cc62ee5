"""Learning rate and image size over a training, as pure functions of the step."""

import math

from nextify.paper.recipe import Recipe

LATE_DROPS = (3 / 4, 11 / 12)
"""Shares of the epochs after which ``late_step`` divides by 10."""
GROWTH = 0.6
"""Share of the steps after which progressive resizing has reached the full side."""


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of optimizer step ``step`` (from 0): linear warmup, then the recipe's schedule."""
    total = recipe.epochs * steps_per_epoch
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if recipe.schedule == "step":
        return max(recipe.learning_rate * 0.1 ** min(int(3 * done), 2), recipe.min_learning_rate)
    if recipe.schedule == "late_step":
        drops = sum(step >= share * total for share in LATE_DROPS)
        return max(recipe.learning_rate * 0.1**drops, recipe.min_learning_rate)
    span = recipe.learning_rate - recipe.min_learning_rate
    if recipe.schedule == "linear":
        return recipe.min_learning_rate + span * (1 - done)
    return recipe.min_learning_rate + span * 0.5 * (1 + math.cos(math.pi * done))


def image_side(recipe: Recipe, step: int, total_steps: int, size: int, stride: int) -> int:
    """Side in pixels of the images at optimizer step ``step`` (from 0), which are prepared at ``size``. ``stride``: of
    the network; each side is a multiple of it, at least twice the stride."""
    smaller = _smaller_sides(recipe, size, stride)
    at = int(len(smaller) * step / max(1, total_steps) / GROWTH)
    return smaller[at] if at < len(smaller) else size


def relative_cost(recipe: Recipe, size: int, stride: int) -> float:
    """Pixels that a training computes, relative to one without progressive resizing."""
    smaller = _smaller_sides(recipe, size, stride)
    share = GROWTH if smaller else 0.0
    return 1 - share + sum(share / len(smaller) * (side / size) ** 2 for side in smaller)


def _smaller_sides(recipe: Recipe, size: int, stride: int) -> list[int]:
    if recipe.progressive_resizing == "off":
        return []
    start = max(2, round(recipe.progressive_resizing * size / stride))
    return list(range(start * stride, size, stride))
