"""Fit a design and a recipe to the images they are trained on, and give a reason for every change.

ConvNeXt's ImageNet settings fail on small data in known ways: in few steps, branches scaled by 1e-6 stay close to the
identity; a 4x4 stem and three more halvings leave nothing of a 32-pixel image; an EMA of 0.9999 over 600 steps is still
the initial weights; and a batch of 4096 leaves no step in an epoch.

Changes to the recipe depend on the data and the budget only, never on the design, so that one fitted recipe serves
every row of a roadmap. Constants without a source are ours, tuned on scikit-learn's digits and CIFAR-10 (docs/log.md).
No torch here.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

from nextify.paper.design import Design, Stem, stem_stride, total_stride
from nextify.paper.recipe import RESNET, SGD, AdamW, Muon, RandAugment, RandomResized, Recipe, Shift
from nextify.paper.settings import Settings, plain

_Changes = dict[str, tuple[Any, str]]
"""The new value of each field that changes, and why."""

MIN_IMAGES = 16
"""Fewest training images that can be trained on."""
SMALL_IMAGE = 64
"""Largest side, in pixels, of an image that is too small for crops of a twelfth of its area."""
STEPS_FOR_TINY_LAYER_SCALE = 20_000
"""Optimizer steps below which an initial layer scale under 0.1 is raised."""
FITTED_LAYER_SCALE = 0.1
RAND_AUGMENT_EPOCHS = 75
"""Epochs below which RandAugment is switched off."""
HELD_OUT, FEWEST_HELD_OUT, MOST_HELD_OUT = 0.05, 100, 1000
"""Share of the training images on which confidences are calibrated, and the limits of their number."""
FULL_REGULARIZATION_EPOCHS = 300
"""Fewest epochs at which a recipe's regularization keeps its full strength; the paper's number."""


class FitError(ValueError):
    """Images that cannot be trained on; the message names the remedy."""


class Facts(Protocol):
    """What fitting needs to know about a data set."""

    @property
    def train_images(self) -> int: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def mirror_keeps_class(self) -> bool: ...


@dataclass(frozen=True)
class Change:
    """One setting that fitting changed, and why."""

    field: str
    """Its name, dotted for one part of a setting."""
    before: Any
    after: Any
    reason: str

    def to_dict(self) -> dict[str, object]:
        """Plain data, for JSON, and the change in words."""
        values = {"before": plain(self.before), "after": plain(self.after)}
        return {"field": self.field, **values, "reason": self.reason, "text": str(self)}

    def __str__(self) -> str:
        return f"{self.field}: {_short(self.before)} → {_short(self.after)} ({self.reason})"


@dataclass(frozen=True)
class Fitted:
    design: Design
    recipe: Recipe
    changes: tuple[Change, ...]


def fit(
    design: Design,
    recipe: Recipe,
    data: Facts,
    *,
    image_size: int,
    held_out: int = 0,
    epochs: int | None = None,
    batch_size: int | None = None,
    restores: bool = False,
) -> Fitted:
    """Fit a design and a recipe to a data set.

    Args:
        data: the numbers of training images and classes, and whether a mirror image keeps its class.
        image_size: side of the square images that the network sees, in pixels.
        held_out: training images that are not trained on, but calibrated on.
        epochs: passes over the training images; None keeps the recipe's number.
        batch_size: images per step; None fits the recipe's number.
        restores: whether the network learns to restore images, which must then have no black borders.

    Raises:
        FitError: too few images to train on, or to fill that batch.
    """
    new_recipe, recipe_changes = fit_recipe(
        *(recipe, data),
        image_size=image_size,
        held_out=held_out,
        epochs=epochs,
        batch_size=batch_size,
        restores=restores,
    )
    steps = new_recipe.epochs * ((data.train_images - held_out) // new_recipe.batch_size)
    new_design, design_changes = fit_design(design, image_size=image_size, steps=steps)
    return Fitted(new_design, new_recipe, recipe_changes + design_changes)


def fit_design(design: Design, *, image_size: int, steps: int) -> tuple[Design, tuple[Change, ...]]:
    """A design with the stem, stage strides and layer scale that small images and short trainings require."""
    changes: _Changes = {}
    # With less than 2x2 pixels in the last stage, its spatial convolutions would see little but padding.
    stem, strides = design.stem, list(design.stage_strides)
    reason = f"images of {image_size} pixels would leave less than 2x2 in the last stage"
    if image_size // total_stride(design) < 2:
        smaller: dict[Stem, Stem] = {
            "conv7_pool": "conv3_pool",
            "patchify4": "patchify2",
            "patchify8": "patchify2",
            "patchify16": "patchify2",
        }
        stem = smaller.get(stem, stem)
        for stage in reversed(range(len(strides))):
            if image_size // (stem_stride(stem) * math.prod(strides)) >= 2:
                break
            strides[stage] = 1
        if stem != design.stem:
            changes["stem"] = (stem, reason)
        if tuple(strides) != design.stage_strides:
            changes["stage_strides"] = (tuple(strides), reason)
    scale = design.layer_scale
    if scale != "off" and scale < FITTED_LAYER_SCALE and steps < STEPS_FOR_TINY_LAYER_SCALE:
        changes["layer_scale"] = (
            FITTED_LAYER_SCALE,
            f"in {steps:,} steps a branch scaled by {scale:g} stays the identity",
        )
    fitted = design.with_(**{field: value for field, (value, _) in changes.items()})
    return fitted, _record(design, changes)


def without_average(recipe: Recipe) -> tuple[Recipe, Change]:
    """The recipe without EMA, for networks with batch norm, whose running statistics do not fit averaged weights."""
    reason = "averaged weights do not fit batch norm's running statistics: the paper, and docs/log.md"
    return recipe.with_(ema="off"), Change("ema", recipe.ema, "off", reason)


def for_optimizer(recipe: Recipe, optimizer: SGD | AdamW | Muon) -> tuple[Recipe, tuple[Change, ...]]:
    """The fitted recipe for another optimizer, chosen by the user.

    AdamW in Muon's place gets the learning rate that it has there for the parameters that Muon does not take. SGD gets
    the rate and the weight decay of the paper's original recipe: its steps are as small as the gradients, so that the
    0.05 of AdamW and Muon would leave nothing of the weights (docs/log.md).
    """
    changed = recipe.with_(optimizer=optimizer)
    changes: _Changes = {}
    if isinstance(optimizer, AdamW) and isinstance(recipe.optimizer, Muon):
        rate = recipe.learning_rate * recipe.optimizer.rest_learning_rate_share
        changes["learning_rate"] = (rate, "what the recipe gives AdamW for the parameters that Muon does not take")
    elif isinstance(optimizer, SGD) and not isinstance(recipe.optimizer, SGD):
        rate = RESNET.learning_rate * recipe.batch_size / RESNET.batch_size
        reason = f"the paper's original recipe has {RESNET.learning_rate:g} for {RESNET.batch_size} images"
        changes["learning_rate"] = (rate, reason)
        changes["weight_decay"] = (min(recipe.weight_decay, RESNET.weight_decay), "SGD's in that recipe")
    if changes and changes["learning_rate"][0] < recipe.min_learning_rate:
        changes["min_learning_rate"] = (0.0, "below the learning rate")
    return changed.with_(**{name: value for name, (value, _) in changes.items()}), _record(recipe, changes)


def calibration_share(data: Facts, batch_size: int) -> float | None:
    """Share of the training images to hold out and calibrate confidences on; None where that would cost too much.

    It does where a tenth of the images or more would be missing, of all or, as each class gives at least one, of the
    classes; or where the rest would not fill a batch.
    """
    images = data.train_images
    count = min(max(HELD_OUT * images, FEWEST_HELD_OUT), MOST_HELD_OUT)
    if 10 * max(count, data.num_classes) > images or images - max(count, data.num_classes) < batch_size:
        return None
    return float(f"{count / images:.3g}")


def fit_recipe(
    recipe: Recipe,
    data: Facts,
    *,
    image_size: int,
    held_out: int = 0,
    epochs: int | None = None,
    batch_size: int | None = None,
    restores: bool = False,
) -> tuple[Recipe, tuple[Change, ...]]:
    """The recipe with what the data and the budget require. Arguments and errors as for ``fit``."""
    images = data.train_images - held_out
    if images < MIN_IMAGES:
        without = f", as {held_out} more are held out to calibrate on" if held_out else ""
        raise FitError(f"{images} training images are too few to train on{without}: give at least {MIN_IMAGES}")
    budget = recipe.epochs if epochs is None else epochs
    if budget < 1:
        raise FitError(f"epochs must be 1 or more, got {budget}")
    if batch_size is not None and not 1 <= batch_size <= images:
        raise FitError(
            f"a batch of {batch_size:,} images is larger than an epoch of {images:,}: set batch_size to at most "
            f"{images:,}, or leave it out"
        )
    batch = batch_size or fitted_batch_size(recipe.batch_size, images, budget)
    changes = {
        **_for_budget(recipe, budget),
        **_for_batch(recipe, batch, images, budget),
        **_for_average(recipe, budget * (images // batch)),
        **_for_mirror(recipe, data),
        **_for_image_size(recipe, image_size, budget, restores),
        **_gentler(recipe, budget),
    }
    fitted = recipe.with_(**{field: value for field, (value, _) in changes.items()})
    return fitted, _record(recipe, changes)


def _for_budget(recipe: Recipe, budget: int) -> _Changes:
    if budget == recipe.epochs:
        return {}
    changes: _Changes = {"epochs": (budget, "the given budget")}
    if recipe.warmup_epochs:
        warmup = round(recipe.warmup_epochs * budget / recipe.epochs, 2)
        changes["warmup_epochs"] = (warmup, "the recipe's share of the epochs")
    return changes


def _for_batch(recipe: Recipe, batch: int, images: int, budget: int) -> _Changes:
    if batch == recipe.batch_size:
        return {}
    steps = images // batch
    rate = _fitted_learning_rate(recipe, batch, budget)
    changes: _Changes = {
        "batch_size": (batch, f"{images:,} images make {steps:,} steps an epoch, {steps * budget:,} in all"),
        "learning_rate": rate,
    }
    if recipe.min_learning_rate > rate[0]:
        changes["min_learning_rate"] = (0.0, "below the fitted learning rate")
    return changes


def _for_average(recipe: Recipe, steps: int) -> _Changes:
    if recipe.ema == "off" or 1 / (1 - recipe.ema) <= steps / 5:
        return {}
    # In fewer than eight steps even an average over two is too long; preflight would warn of it.
    decay: float | str = "off" if steps < 8 else round(max(0.5, 1 - 10 / steps), 6)
    over = f"an average over {1 / (1 - recipe.ema):,.0f} steps"
    return {"ema": (decay, f"{over} would mostly hold the initial weights after {steps:,}")}


def _for_mirror(recipe: Recipe, data: Facts) -> _Changes:
    if data.mirror_keeps_class:
        return {}
    reason = "mirror images of this data are of another class or of none"
    changes: _Changes = {"horizontal_flip": (0.0, reason)} if recipe.horizontal_flip else {}
    if recipe.test_mirror == "on":
        changes["test_mirror"] = ("off", reason)
    return changes


def _for_image_size(recipe: Recipe, image_size: int, budget: int, restores: bool) -> _Changes:
    changes: _Changes = {}
    if image_size <= SMALL_IMAGE:
        if isinstance(recipe.crop, RandomResized):
            over = " with mirrored borders, as black ones would be learned" if restores else ""
            changes["crop"] = (
                Shift(border="reflect") if restores else Shift(),
                f"a crop of {100 * recipe.crop.scale[0]:g} % of {image_size} pixels shows nothing; shifted by up to "
                f"crop.share of the side instead{over}",
            )
        if recipe.test_crop_ratio < 1:
            changes["test_crop_ratio"] = (1.0, f"cropping would enlarge images of {image_size} pixels first")
    elif isinstance(recipe.crop, RandomResized) and budget < recipe.epochs and not restores:
        low, high = recipe.crop.scale
        weaker = round(high * (low / high) ** math.sqrt(budget / recipe.epochs), 2)
        reason = f"crops of {100 * low:g} % of an image need many epochs; with the root of {budget} / {recipe.epochs}"
        changes["crop.scale"] = ((weaker, high), reason)
    return changes


def fitted_batch_size(batch_size: int, images: int, epochs: int) -> int:
    """The largest power of two up to ``batch_size`` that gives 8 steps per epoch and 500 in all. Reaching 500 steps
    never takes it below 16 images or a 64th of the recipe's batch, where small networks spend their time on overhead.
    """
    least = max(16, batch_size // 64)
    fitted = min(images // 8, max(images * epochs // 500, least))
    fitted = max(fitted, min(16, images // 2))
    return min(batch_size, 1 << (max(2, fitted).bit_length() - 1))


def _fitted_learning_rate(recipe: Recipe, batch: int, epochs: int) -> tuple[float, str]:
    """SGD's rate scales with the batch (arXiv 1706.02677), AdamW's with its root (arXiv 2205.10287). Fewer epochs
    need longer steps: AdamW's rate rises inversely with the epochs, SGD's with the root of that; neither rises
    above the recipe's own rate."""
    ratio = batch / recipe.batch_size
    longer = max(1.0, recipe.epochs / epochs)
    if isinstance(recipe.optimizer, SGD):
        factor, batch_rule, epochs_rule = ratio * math.sqrt(longer), "the batch", "the root of "
    else:
        factor, batch_rule, epochs_rule = math.sqrt(ratio) * longer, "the root of the batch", ""
    epochs_rule += f"the epochs ({recipe.epochs} / {epochs})"
    return recipe.learning_rate * min(
        1.0, factor
    ), f"with {batch_rule} ({batch} / {recipe.batch_size}) and {epochs_rule}"


def _gentler(recipe: Recipe, epochs: int) -> _Changes:
    """Weaker regularization for few epochs: it prevents memorizing, which takes many passes over the same images, and
    otherwise slows learning. Strengths fall with the root of the epochs; label smoothing, which costs nothing, stays.
    """
    strength = math.sqrt(min(1.0, epochs / FULL_REGULARIZATION_EPOCHS))
    if strength == 1.0:
        return {}
    reason = f"{strength:.0%} of what {FULL_REGULARIZATION_EPOCHS} epochs need, with the root of the epochs"
    changes: _Changes = {}
    if recipe.mixing != "off":
        changes["mixing.probability"] = (round(recipe.mixing.probability * strength, 3), reason)
    for name in ("random_erasing", "stochastic_depth"):
        if getattr(recipe, name):
            changes[name] = (round(getattr(recipe, name) * strength, 3), reason)
    if recipe.rand_augment != "off" and epochs < RAND_AUGMENT_EPOCHS:
        reason = f"below {RAND_AUGMENT_EPOCHS} epochs there is no time to learn from distorted images as well"
        changes["rand_augment"] = ("off", reason)
    elif recipe.rand_augment != "off":
        weaker = RandAugment(round(recipe.rand_augment.magnitude * strength), recipe.rand_augment.magnitude_std)
        changes["rand_augment"] = (weaker, reason)
    return changes


def _record(before: Design | Recipe, changes: _Changes) -> tuple[Change, ...]:
    return tuple(
        Change(name, before.get(name), value, reason)
        for name, (value, reason) in changes.items()
        if value != before.get(name)
    )


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, RandAugment):
        return f"RandAugment({value.magnitude:g}, {value.magnitude_std:g})"
    return str(value.kind if isinstance(value, Settings) else value)
