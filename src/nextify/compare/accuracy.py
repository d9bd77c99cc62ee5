"""Accuracy in a comparison: every network is trained by one recipe with the same seeds, or its weights are evaluated.

Seeds are paired as in a study: one seed gives every network the same order of images and the same augmentations. The
recipe is fitted to the images and the epochs, never to a network.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from nextify.compare.entries import FOREIGN_FAMILIES, is_path, network
from nextify.compare.ratios import reference
from nextify.compare.records import Accuracy, AccuracyRow, Model
from nextify.data import Images
from nextify.data.foreign import from_timm_config
from nextify.evaluation.evaluate import MatchedNetwork
from nextify.evaluation.seen import trained_on
from nextify.fitting.fit import fit_recipe
from nextify.networks.foreign import Foreign, build, timm_network
from nextify.paper.design import RESNET50, Design
from nextify.paper.recipe import RECIPES, Recipe
from nextify.report.text import listing
from nextify.study.conclusions import study_data, values_and_scores
from nextify.study.plan import PlanError, PlannedTrial
from nextify.study.results import finite, named
from nextify.study.statistics import binomial_standard_error, conclude, confidence_interval
from nextify.study.study import StudyEstimate, Trainings
from nextify.system.files import parse_json, write_json_atomic
from nextify.system.text import several
from nextify.tasks.classification import Classification, Hits
from nextify.tasks.metric_specs import ACCURACY
from nextify.training.trial import Data, Trial
from nextify.weights import About, Loaded, WeightsError, load, read_weights
from nextify.weights.class_names import class_names, names_beside

GUESSED_EPOCHS = 10
"""Epochs for the probe by which they are chosen; they decide the batch size, and so a little of the speed."""
PLANNED_SHARE = 0.92
"""Share of the minutes that is planned for; the rest is for what a probe does not see."""


@dataclass(frozen=True)
class AccuracyPlan:
    """Which networks are trained, and which are evaluated."""

    entries: tuple[Model, ...]
    data: Data
    recipe_name: str
    recipe: Recipe
    trials: tuple[PlannedTrial, ...]
    """Seed by seed, so that a table of one seed stands first."""
    weights: Mapping[str, str]
    """``{label: bundle or file}`` of the networks that are evaluated and not trained."""
    seeds: tuple[int, ...]
    notes: tuple[str, ...]
    """What fitting changed and why, a sentence each; none where nothing is trained."""


def make_plan(
    entries: Sequence[Model],
    images: Images,
    *,
    image_size: int,
    seeds: int,
    epochs: int,
    recipe: str = "convnext",
    precision: str = "fp32",
    weights: Mapping[str, str] | None = None,
) -> AccuracyPlan:
    """The trainings of a comparison; bundles are evaluated, and so are the networks of ``weights``, ``{name: file}``.
    Raises ``PlanError`` for no seed, an unknown recipe, or weights for a network that takes no part, and ``FitError``
    for images that no training can work on."""
    given = dict(weights or {})
    if unknown := [name for name in given if name not in {entry.name for entry in entries}]:
        named = ", ".join(entry.name for entry in entries)
        raise PlanError(f"--weights names {', '.join(unknown)}, which takes no part; those that do: {named}")
    if foreign := [name for name in given if name.partition("@")[0] in FOREIGN_FAMILIES]:
        raise PlanError(f"--weights cannot evaluate {', '.join(foreign)}: leave it out, and it is trained")
    if seeds < 1:
        raise PlanError("a comparison needs at least one seed: give --seeds 1 or more")
    if recipe not in RECIPES:
        raise PlanError(f"no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    evaluated = {e.model: given.get(e.name, e.name) for e in entries if e.name in given or is_path(e.name)}
    fitted, changes = fit_recipe(RECIPES[recipe], images, image_size=image_size, epochs=epochs)
    fitted = fitted.with_(precision=precision)
    steps = fitted.epochs * (len(images.train) // fitted.batch_size)
    data = Data(images.name, images.fingerprint, images.num_classes, image_size)
    trained = [(e, network(e, image_size, image_size, steps)) for e in entries if e.model not in evaluated]
    numbers = tuple(range(seeds))
    trials = tuple(
        PlannedTrial(step_name(entry), Trial(made, fitted, data, seed)) for seed in numbers for entry, made in trained
    )
    notes = [f"{recipe} recipe, {change}" for change in changes if trials]
    if fitted.ema != "off" and (worse := [entry.model for entry, made in trained if _has_batch_norm(made)]):
        notes.append(
            f"{recipe} recipe: averaged weights (ema) do not fit batch norm's running statistics, so {listing(worse)} "
            f"may be far less accurate than without; --recipe convnext does not average"
        )
    return AccuracyPlan(tuple(entries), data, recipe, fitted, trials, evaluated, numbers, tuple(notes))


def _has_batch_norm(made: Design | Foreign) -> bool:
    if isinstance(made, Design):
        return made.norm == "batch"
    with torch.device("meta"):
        return any(isinstance(module, _BatchNorm) for module in build(made, 2).modules())


def step_name(entry: Model) -> str:
    """Return the label in a form that fits into the name of a folder."""
    return re.sub(r"[^\w.@-]", "_", entry.model)


def epochs_within(
    plan: AccuracyPlan, estimate: StudyEstimate, train_images: int, minutes: float, side_by_side: int
) -> int:
    """Return the epochs that all trainings together have time for (at least 1), from a probe of this plan."""
    images = plan.recipe.batch_size * (train_images // plan.recipe.batch_size)
    tests = each = 0.0
    for planned in plan.trials:
        if (speed := estimate.images_per_second.get(planned.step)) is not None:
            each += images / speed
            tests += max(0.0, estimate.trial_seconds[planned.folder] - plan.recipe.epochs * images / speed)
    budget = PLANNED_SHARE * 60 * minutes * (min(side_by_side, len(plan.trials)) or 1)
    return max(1, math.floor((budget - tests) / each)) if each else plan.recipe.epochs


def kept_epochs(out: Path, plan: AccuracyPlan, minutes: float, choose: Callable[[], int]) -> int:
    """The epochs that an earlier run of the same comparison chose, since a restart must not choose others; else those
    of ``choose``, which are kept in ``epochs.json``."""
    trials = sorted(planned.trial.fingerprint for planned in plan.trials)
    key = hashlib.sha256(json.dumps([trials, minutes]).encode()).hexdigest()[:12]
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = parse_json((out / "epochs.json").read_text(encoding="utf-8"))
        if found["comparison"] == key and type(found["epochs"]) is int and found["epochs"] >= 1:
            return int(found["epochs"])
    epochs = choose()
    write_json_atomic(out / "epochs.json", {"comparison": key, "epochs": epochs})
    return epochs


def accuracy_results(
    plan: AccuracyPlan,
    trainings: Trainings,
    evaluated: Mapping[str, AccuracyRow],
    images: Images,
    sizes: Sequence[int],
) -> Accuracy:
    """Collect the accuracies of trained and evaluated networks, in the plan's order. ``sizes``: at which costs are
    measured."""
    labels = {step_name(entry): entry.model for entry in plan.entries}
    trials = [replace(trainings.trial(planned), step=labels[planned.step]) for planned in plan.trials]
    metric = ACCURACY[0]
    found, scored = values_and_scores(plan.trials, trainings.outcomes, metric)
    steps = dict.fromkeys(planned.step for planned in plan.trials)
    values = {labels[step]: found.get(step, {}) for step in steps}
    scores = {labels[step]: scored.get(step, {}) for step in steps}
    base, tests = reference(list(values)) if values else None, len(images.test)
    references = {m: None if m == base else base for m in values}
    names = {m: f"“{base} → {m}”" for m in values}
    concluded = conclude(values, references, test_images=tests, scores=scores, names=names)
    rows = {label: _beside(row, sizes) for label, row in evaluated.items()}
    for label, statistics in concluded.items():
        own = [trial for trial in trials if trial.step == label]
        low, high = confidence_interval([t.metrics[metric.key] for t in own if t.metrics]) or (None, None)
        rows[label] = AccuracyRow(
            model=label,
            how="trained",
            low=low,
            high=high,
            training_images_per_second=_mean(t.images_per_second for t in own),
            training_seconds=_mean(t.seconds for t in own),
            problems=tuple(dict.fromkeys(t.error for t in own if t.error)),
            **{name: value for name, value in statistics.figures().items() if name != "seeds_needed"},
        )
    kept = [named(finite(trial), ACCURACY) for trial in trials]
    return Accuracy(
        data=study_data(images),
        image_size=plan.data.image_size,
        recipe_name=plan.recipe_name,
        recipe=plan.recipe.to_dict(),
        seeds=plan.seeds,
        side_by_side=trainings.side_by_side,
        threads_per_training=trainings.runtime.threads,
        seconds=round(sum(t.seconds or 0.0 for t in trials) / trainings.side_by_side, 1),
        notes=plan.notes,
        rows=tuple(rows[entry.model] for entry in plan.entries if entry.model in rows),
        trials=tuple(trial | {"model": trial.pop("step")} for trial in kept),
    )


def _beside(row: AccuracyRow, sizes: Sequence[int]) -> AccuracyRow:
    """An evaluated network's row, which says so if its costs are not measured at the size of its images."""
    if row.image_size in sizes:
        return row
    side = "a shape of its own" if row.image_size is None else f"{row.image_size}²"
    remedy = "" if row.image_size is None else f": --sizes {row.image_size} measures that"
    costs_at = ", ".join(f"{size}²" for size in sizes)
    problem = f"evaluated at {side}, as its weights ask for; its cost at {costs_at} is not this accuracy's{remedy}"
    return replace(row, image_size=row.image_size or 0, problems=(*row.problems, problem))


def _mean(values: Iterable[float | None]) -> float | None:
    found = [v for v in values if v is not None]
    return fmean(found) if found else None


def read_weights_options(choices: str | Sequence[str]) -> dict[str, str]:
    """``MODEL=FILE`` as a dict. Raises ``ValueError`` for anything else."""
    found = {}
    for choice in several(choices):
        name, equals, source = choice.partition("=")
        if not equals or not name or not source:
            raise ValueError(f"--weights needs MODEL=FILE, got {choice!r}; for example --weights convnext_tiny=a.pth")
        found[name] = source
    return found


def evaluate(
    entry: Model, source: str, images: Images, device: str, threads: int, fitted_to: int | None = None
) -> AccuracyRow:
    """The accuracy of an entry with the weights of ``source``: a bundle, or a file for a network of ours or of timm's.
    A network at a scale is that for images of ``fitted_to`` pixels.

    Each test image counts once and is prepared as the weights' own description says. Raises ``WeightsError`` for
    weights that cannot be read or are not the network's, and ``DataError`` for classes that they do not know."""
    torch.set_num_threads(threads)
    if entry.name.startswith("timm:"):
        loaded = timm_with_weights(entry.name.removeprefix("timm:"), source)
    else:
        loaded = load(source, _design(entry, fitted_to))
    loaded.about.check_classifier(source)
    network = MatchedNetwork(loaded, images, device, "off")
    labels = torch.from_numpy(network.label_of[images.test.labels])
    accuracy = Classification.metrics([Hits.of(torch.from_numpy(network(images.test)), labels)]).top1
    height, width = network.settings.size
    return AccuracyRow(
        model=entry.model,
        how="evaluated",
        weights=source,
        image_size=height if height == width else None,
        n=1,
        mean=accuracy,
        binomial_standard_error=binomial_standard_error(accuracy, len(images.test)),
        problems=(*network.notes, *network.inference.notes, *trained_on(source, [images.test])),
    )


def _design(entry: Model, fitted_to: int | None) -> str | Design | None:
    """What the weights of an entry must be; a bundle is what it is."""
    if is_path(entry.name):
        return None
    made = network(entry, fitted_to or 0, fitted_to) if "@" in entry.name else entry.name
    assert not isinstance(made, Foreign)  # ``make_plan`` refuses weights for these
    return made


def timm_with_weights(name: str, source: str) -> Loaded:
    """timm's network with the weights of a file, and what is known of them: its classes, timm's preprocessing."""
    import timm
    from timm.data import resolve_model_data_config

    file = read_weights(source)
    state = file.state
    last = f"{timm.get_pretrained_cfg(name).classifier}.weight"
    if last not in state:
        raise WeightsError(f"{source} has no {last}: give weights of timm's {name}")
    model: Any = build(timm_network(name), len(state[last]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{source} does not fit timm's {name}: {str(error).splitlines()[-1].strip()}") from None
    settings = from_timm_config(resolve_model_data_config(model))
    classes, _ = class_names({**file.metadata, **file.beside}, len(state[last]), file.path.parent)
    classes = classes or names_beside(file.path, len(state[last]))[0]
    # ``About`` describes networks of ours; of this one only classes and preprocessing are read.
    about = About(RESNET50, len(state[last]), name=name, classes=classes, preprocessing=settings)
    return Loaded(model.eval(), about, ())
