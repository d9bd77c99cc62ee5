"""From the recipe as fitted to the one that is trained with: the user's settings, calibration, images without colours.

Each step returns the recipe and the changes to it, with reasons, as they stand after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nextify.data import DataError, Images
from nextify.data.batches import divided
from nextify.fitting.fit import Change, calibration_share, for_optimizer, without_average
from nextify.paper.design import Design
from nextify.paper.recipe import Recipe
from nextify.system.text import plural
from nextify.training.prepare_classifier import OF_COLOURS
from nextify.training.request import DESIGN_FIELDS, Values

Changes = list[Change]
UNCALIBRATED = (
    "confidences are not calibrated, as there are too few images to hold some out; --set calibration=0.1 holds out a "
    "tenth all the same"
)
UNCALIBRATED_GROUPS = (
    "confidences are not calibrated, as the groups are too large to hold one out; --set calibration=0.1 holds "
    "one out all the same"
)
THRESHOLDS_OF_HALF = "labels with a probability of at least 0.5 are predicted; --set calibration=0.1 fits thresholds"


def for_chosen_optimizer(fitted: Recipe, settings: Values) -> tuple[Recipe, Sequence[Change]]:
    """The fitted recipe with the rates that suit the optimizer of the ``settings``."""
    chosen = {name: value for name, value in settings.items() if name.partition(".")[0] == "optimizer"}
    return for_optimizer(fitted, fitted.with_(**chosen).optimizer)


def with_settings(usual: Recipe, settings: Values, design: Design, changes: Changes) -> tuple[Recipe, Changes]:
    """The ``usual`` recipe with the user's ``settings``, without the changes that they or the ``design`` undo."""
    above = dict(settings)
    rate = above.get("learning_rate")
    if rate is not None and "min_learning_rate" not in above and rate < usual.min_learning_rate:
        above["min_learning_rate"] = 0.0  # the cosine must not end above where it starts
    recipe = usual.with_(**above)
    changes = [c for c in changes if c.after == (design if c.field in DESIGN_FIELDS else recipe).get(c.field)]
    if design.norm == "batch" and recipe.ema != "off" and "ema" not in above:
        recipe, change = without_average(recipe)
        changes = [*(c for c in changes if c.field != "ema"), change]
    return recipe, changes


@dataclass(frozen=True)
class HeldOut:
    """The training images on which confidences or thresholds are fitted after the training."""

    count: int = 0
    change: Change | None = None
    """How the recipe is changed for it; None where the user chose, or where none are held out."""


def held_out(images: Images, recipe: Recipe, settings: Values, notes: list[str]) -> HeldOut:
    """The images that the user's ``settings`` or the ``recipe`` hold out; else a share of them if there are enough,
    or a note why not. Raises ``DataError`` where the user's share cannot be held out in whole groups."""
    chosen = settings.get("calibration", recipe.calibration)
    if "calibration" in settings or chosen != "off":
        return HeldOut(len(divided(images.train, recipe.with_(calibration=chosen))[1]))
    batch_size = settings.get("batch_size", 1)  # a fitted batch is at most an eighth of the images
    share = calibration_share(images, batch_size)
    if share is None:
        notes.append(UNCALIBRATED)
        return HeldOut()
    count = _count(images, recipe.with_(calibration=share), batch_size)
    if not count:
        notes.append(UNCALIBRATED_GROUPS)
        return HeldOut()
    groups = "" if images.train.groups is None else ", in whole groups"
    fitted_on = "thresholds" if images.multilabel else "confidences"
    reason = (
        f"{count:,} training images are held out{groups}, and {fitted_on} fitted on them; "
        f"--set calibration=off trains on all"
    )
    return HeldOut(count, Change("calibration", "off", share, reason))


def _count(images: Images, recipe: Recipe, batch_size: int) -> int:
    """Images to calibrate on; 0 where whole groups would be too many of them, or no group can be spared."""
    try:
        trained, held = divided(images.train, recipe)
    except DataError:
        return 0
    few = 10 * len(held) <= len(images.train) and len(trained) >= batch_size
    return len(held) if few else 0


def without_colours(recipe: Recipe, changes: Changes, channels: int) -> tuple[Recipe, Changes]:
    """The recipe without the augmentations that know colours only."""
    for name in OF_COLOURS:
        before = recipe.get(name)
        if before == "off":
            continue
        recipe = recipe.with_(**{name: "off"})
        reason = f"it changes colours, and the images have {plural(channels, 'channel')}"
        changes = [*(c for c in changes if c.field != name), Change(name, before, "off", reason)]
    return recipe, changes
