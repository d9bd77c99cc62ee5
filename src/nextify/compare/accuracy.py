"""Accuracy in a comparison: every network trained by one recipe with the same seeds, or its weights evaluated.

Seeds are paired as in a study: one seed draws the same order of images and the same augmentations for every network.
The recipe is fitted to the images and the epochs alone, never to a network.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextify.compare.entries import Entry, is_path, network
from nextify.compare.results import reference
from nextify.fitting.fit import fit_recipe
from nextify.paper.recipe import RECIPES, Recipe
from nextify.study.plan import PlanError, PlannedTrial
from nextify.study.statistics import binomial_standard_error, conclude, confidence_interval
from nextify.system.files import write_json_atomic
from nextify.training.trial import Data, Trial

if TYPE_CHECKING:
    from nextify.compare.weights import Evaluated
    from nextify.data import Images
    from nextify.study.study import StudyEstimate, Trainings

SMALLEST_IMAGE, LARGEST_IMAGE = 16, 224
"""Side of the images, pixels, where none is asked for."""
GUESSED_EPOCHS = 10
"""For the probe that the epochs are chosen by; they decide the batch size, and by it a little of the speed."""
PLANNED_SHARE = 0.92
"""Of the minutes, for what a probe does not see."""


@dataclass(frozen=True)
class AccuracyPlan:
    """What is trained and what is evaluated for the accuracies of a comparison."""

    entries: tuple[Entry, ...]
    data: Data
    recipe_name: str
    recipe: Recipe
    trials: tuple[PlannedTrial, ...]
    """Seed by seed, so that a table of one seed stands first."""
    weights: Mapping[str, str]
    """``{label: bundle or file}`` of the networks that are evaluated and not trained."""
    seeds: tuple[int, ...]
    notes: tuple[str, ...]
    """What fitting changed and why, a sentence each."""


def image_side(images: Images) -> int:
    """Side of the square images that networks see, pixels, where none is asked for."""
    native = images.native_size
    return min(max(min(native), SMALLEST_IMAGE), LARGEST_IMAGE) if native else LARGEST_IMAGE


def make_plan(
    entries: Sequence[Entry],
    images: Images,
    *,
    image_size: int,
    seeds: int,
    epochs: int,
    recipe: str = "convnext",
    precision: str = "fp32",
    weights: Mapping[str, str] | None = None,
) -> AccuracyPlan:
    """The trainings of a comparison.

    Args:
        weights: ``{name: file}`` of networks that are evaluated; bundles are in any case.

    Raises:
        PlanError: no seed, an unknown recipe, weights for a network that takes no part.
        FitError: images that no training can work on.
    """
    given = dict(weights or {})
    unknown = [name for name in given if name not in {entry.name for entry in entries}]
    if unknown:
        named = ", ".join(entry.name for entry in entries)
        raise PlanError(f"--weights names {', '.join(unknown)}, which takes no part; {named} do")
    if seeds < 1:
        raise PlanError("a comparison needs at least one seed: give --seeds 1 or more")
    if recipe not in RECIPES:
        raise PlanError(f"no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    evaluated = {e.label: given.get(e.name, e.name) for e in entries if e.name in given or is_path(e.name)}
    fitted, changes = fit_recipe(RECIPES[recipe], images, image_size=image_size, epochs=epochs)
    fitted = fitted.with_(precision=precision)
    steps = fitted.epochs * (len(images.train) // fitted.batch_size)
    data = Data(images.name, images.fingerprint, images.num_classes, image_size)
    trained = [(e, network(e, image_size, image_size, steps)) for e in entries if e.label not in evaluated]
    numbers = tuple(range(seeds))
    trials = tuple(
        PlannedTrial(step_name(entry), Trial(made, fitted, data, seed)) for seed in numbers for entry, made in trained
    )
    notes = tuple(f"{recipe} recipe, {change}" for change in changes)
    return AccuracyPlan(tuple(entries), data, recipe, fitted, trials, evaluated, numbers, notes)


def step_name(entry: Entry) -> str:
    """The label as part of a folder's name."""
    return re.sub(r"[^\w.@-]", "_", entry.label)


# -- how many epochs ---------------------------------------------------------------------------------------------------


def epochs_within(
    plan: AccuracyPlan, estimate: StudyEstimate, train_images: int, minutes: float, side_by_side: int
) -> int:
    """As many epochs as all trainings together have time for, from a probe of a plan with other epochs; at least 1."""
    images = plan.recipe.batch_size * (train_images // plan.recipe.batch_size)
    tests = each = 0.0
    for planned in plan.trials:
        speed = estimate.images_per_second.get(planned.step)
        if speed is not None:
            each += images / speed
            tests += max(0.0, estimate.trial_seconds[planned.folder] - plan.recipe.epochs * images / speed)
    budget = PLANNED_SHARE * 60 * minutes * (min(side_by_side, len(plan.trials)) or 1)
    return max(1, math.floor((budget - tests) / each)) if each else plan.recipe.epochs


def chosen_epochs(out: Path, key: str) -> int | None:
    """The epochs that an earlier run of the same comparison chose by its probe: a restart must not choose others."""
    with suppress(OSError, ValueError, KeyError):
        found = json.loads((out / "epochs.json").read_text(encoding="utf-8"))
        return int(found["epochs"]) if found["comparison"] == key else None
    return None


def keep_epochs(out: Path, key: str, epochs: int) -> None:
    """For :func:`chosen_epochs`."""
    write_json_atomic(out / "epochs.json", {"comparison": key, "epochs": epochs})


def comparison_key(plan: AccuracyPlan, minutes: float) -> str:
    """Changes with whatever the number of epochs is chosen for."""
    trials = sorted(planned.trial.fingerprint for planned in plan.trials)
    return hashlib.sha256(json.dumps([trials, minutes]).encode()).hexdigest()[:12]


# -- results -----------------------------------------------------------------------------------------------------------


def accuracy_results(
    plan: AccuracyPlan, trainings: Trainings, evaluated: Mapping[str, Evaluated], images: Images
) -> dict[str, Any]:
    """The part ``accuracy`` of results.json: docs/compare.md lists its keys."""
    steps = {step_name(entry): entry.label for entry in plan.entries}
    trials = [{**trainings.trial(p).to_dict(), "model": steps[p.step]} for p in plan.trials]
    for trial in trials:
        del trial["step"]
    values: dict[str, dict[int, float | None]] = {}
    for trial in trials:
        values.setdefault(trial["model"], {})[trial["seed"]] = trial["top1"]
    base = reference(list(values)) if values else None
    tests = len(images.test)
    concluded = conclude(values, {m: None if m == base else base for m in values}, test_images=tests)
    rows = []
    for entry in plan.entries:
        if entry.label in plan.weights:
            rows.append(_evaluated_row(entry, plan.weights[entry.label], evaluated.get(entry.label)))
            continue
        found = concluded[entry.label]
        numbers = [v for v in values[entry.label].values() if v is not None]
        interval = confidence_interval(numbers)
        own = [t for t in trials if t["model"] == entry.label]
        comparison = found.comparison
        rows.append(
            {
                "model": entry.label,
                "how": "trained",
                "weights": None,
                "n": found.summary.n,
                "top1_mean": found.summary.mean,
                "top1_std": found.summary.std,
                "top1_low": interval[0] if interval else None,
                "top1_high": interval[1] if interval else None,
                "binomial_standard_error": found.summary.binomial_standard_error,
                "compared_with": comparison.reference if comparison else None,
                "change": comparison.change if comparison else None,
                "change_low": comparison.low if comparison else None,
                "change_high": comparison.high if comparison else None,
                "p_value": comparison.p_value if comparison else None,
                "p_value_holm": comparison.p_holm if comparison else None,
                "verdict": comparison.verdict if comparison else None,
                "conclusion": comparison.conclusion if comparison else None,
                "training_images_per_second": _mean([t["images_per_second"] for t in own]),
                "training_seconds": _mean([t["seconds"] for t in own]),
                "problems": list(dict.fromkeys(t["error"] for t in own if t["error"])),
            }
        )
    return {
        "data": {
            "name": images.name,
            "classes": images.num_classes,
            "train_images": len(images.train),
            "test_images": tests,
            "fingerprint": images.fingerprint,
            "notes": list(images.notes),
        },
        "image_size": plan.data.image_size,
        "recipe_name": plan.recipe_name,
        "recipe": plan.recipe.to_dict(),
        "seeds": list(plan.seeds),
        "side_by_side": trainings.side_by_side,
        "threads_per_training": trainings.runtime.threads,
        "seconds": round(sum(t["seconds"] or 0.0 for t in trials) / trainings.side_by_side, 1),
        "notes": list(plan.notes),
        "rows": rows,
        "trials": trials,
    }


def _evaluated_row(entry: Entry, source: str, found: Evaluated | None) -> dict[str, Any]:
    empty = dict.fromkeys(
        (
            *("top1_std", "top1_low", "top1_high", "compared_with", "change", "change_low", "change_high"),
            *("p_value", "p_value_holm", "verdict", "conclusion", "training_images_per_second", "training_seconds"),
        )
    )
    error = None if found is None else binomial_standard_error(found.top1, found.images)
    return {
        "model": entry.label,
        "how": "evaluated",
        "weights": source,
        "n": 0 if found is None else 1,
        "top1_mean": None if found is None else found.top1,
        **empty,
        "binomial_standard_error": error,
        "problems": [] if found is None else list(found.notes),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    found = [v for v in values if v is not None]
    return math.fsum(found) / len(found) if found else None
