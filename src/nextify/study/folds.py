"""Cross-validation: the training images in folds, each tested on by a network that was trained on the others.

Every fold has as many images of each class as the others, whole groups where the data names any, and the same recipe
and seed. Two cross-validations of the same data have the same folds, so that they are paired (docs/training.md).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from nextify.data import DataError, Images, ImageSet, open_images
from nextify.data.images import EncodedStore, UniformStore, check_images
from nextify.data.kept import Kept
from nextify.data.sources.listing import complete_groups
from nextify.evaluation.ensemble import EnsembleResult, join
from nextify.evaluation.evaluate import load_network
from nextify.study.engine import Done, Engine, Event, Job, LocalEngine
from nextify.study.plan import PlannedTrial
from nextify.study.results import read
from nextify.study.statistics import corrected_interval
from nextify.study.store import Store
from nextify.study.study import Trainings, default_side_by_side
from nextify.system.device import seeding
from nextify.system.files import JSON_FILE, write_json_atomic, write_text_atomic
from nextify.system.native import Mode
from nextify.system.text import as_csv
from nextify.training.continued import Finished, trained_before
from nextify.training.prepare import Prepared, prepare
from nextify.training.request import Request, RequestError
from nextify.training.result import Result, read_object
from nextify.training.trial import runtime

RESULTS, PREDICTIONS, ENSEMBLE = "results.json", "out-of-fold.csv", "ensemble"
_OF_THE_BUNDLE = ("model", "scale", "weights", "class_order", "frozen_stages", "image_size", "accumulation", "seed")
"""Of a bundle's request; its recipe and design are taken as they were trained."""
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """One fold: its images, and which of the training images are tested on."""

    images: Images
    held_out: Indices


@dataclass(frozen=True)
class FoldResult:
    """What the network of one fold gives on it; None where its training has not ended well."""

    fold: int
    """From 1."""
    train_images: int
    test_images: int
    top1: float | None
    """Percent."""
    seconds: float | None
    fingerprint: str
    """Of its images: trainings of equal ones can be compared image by image."""
    error: str | None = None


@dataclass(frozen=True)
class CrossValidation:
    """The folds together. Accuracies are percent of each fold's images, none of which its network was trained on."""

    folder: Path
    folds: tuple[FoldResult, ...]
    top1_mean: float | None
    top1_std: float | None
    top1_low: float | None
    top1_high: float | None
    """Ends of the 95 % interval of the mean, corrected for the training images that folds share
    (``corrected_interval``), within 0 to 100."""
    ensemble: EnsembleResult | None = None
    """The folds' networks together, where that was asked for and every fold is finished."""

    @property
    def predictions(self) -> Path:
        """The table of out-of-fold probabilities, once every fold is finished."""
        return self.folder / PREDICTIONS


def make_folds(images: Images, count: int, seed: int = 0) -> tuple[Fold, ...]:
    """Cut the training images into ``count`` folds, by scikit-learn. Raises ``DataError`` where a class or the groups
    do not reach for so many folds."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    check_images(images)
    if type(count) is not int or count < 2:
        raise RequestError(f"--folds must be a whole number from 2, got {count!r}")
    labels, named = images.train.labels, images.train.groups
    numbers = np.bincount(labels, minlength=images.num_classes)
    fewest = int(np.flatnonzero(numbers)[numbers[numbers > 0].argmin()])
    if numbers[fewest] < count:
        raise DataError(
            f"{images.classes[fewest]} has {numbers[fewest]} training images, and each of {count} folds needs one: "
            f"give fewer --folds, or add images"
        )
    options = {"n_splits": count, "shuffle": True, "random_state": seed}
    everything = np.arange(len(labels))
    if named is None:
        parts = [held for _, held in StratifiedKFold(**options).split(everything, labels)]
    else:
        groups = complete_groups(named)
        if len(set(groups)) < count:
            raise DataError(f"{images.name} has {len(set(groups))} groups to train on: give no more --folds than that")
        parts = [held for _, held in StratifiedGroupKFold(**options).split(everything, labels, groups)]
    folds = []
    for number, held in enumerate(parts):
        rest = np.setdiff1d(everything, held)
        if lost := sorted({*np.unique(labels)} - {*np.unique(labels[rest])}):
            raise DataError(
                f"all images of {images.classes[lost[0]]} fall into one fold, as their groups are few: give fewer "
                f"--folds, or add groups"
            )
        folds.append(Fold(held_out(images, rest, held, "fold", number, count, seed), held))
    return tuple(folds)


def held_out(images: Images, rest: Indices, held: Indices, *key: str | int) -> Images:
    """The training images at ``rest`` to train on and those at ``held`` to test on; ``key`` tells how they were
    chosen."""
    text = json.dumps([images.fingerprint, *key])
    return replace(
        images,
        train=_selected(images.train, rest),
        test=_selected(images.train, held),
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
        test_images_also_in_training=0,
    )


class _Part(UniformStore):
    """Some images of one size, gathered when they are first needed, in the process that needs them."""

    def __init__(self, whole: Kept, indices: Indices) -> None:
        self.whole, self.indices = whole, indices

    @cached_property
    def kept(self) -> Kept:  # type: ignore[override]
        return Kept(self.whole.array[self.indices])

    def __getstate__(self) -> dict[str, object]:
        return {"whole": self.whole, "indices": self.indices}


def _selected(images: ImageSet, chosen: Indices) -> ImageSet:
    """As ``ImageSet.selected``, and as fast to train on as the whole."""
    part = images.selected(chosen)
    if isinstance(images.store, UniformStore):
        part.store = _Part(images.store.kept, chosen)
    elif isinstance(images.store, EncodedStore):
        part.store = EncodedStore(images.store.images, images.store.indices[chosen])
    return part


def _smallest(folds: Sequence[Fold]) -> Images:
    """The images of the fold with the fewest to train on."""
    return min((fold.images for fold in folds), key=lambda part: len(part.train))


@dataclass(frozen=True)
class FoldsPlan:
    """The trainings of a cross-validation, which differ in their images only."""

    prepared: Prepared
    """Of the fold with the fewest training images, to which the recipe of all is fitted."""
    folds: tuple[Fold, ...]
    trials: tuple[PlannedTrial, ...]

    @classmethod
    def of(cls, request: Request, images: Images, count: int, seed: int = 0) -> Self:
        """Plan ``count`` folds. ``seed`` is that of the folds. Raises as ``prepare`` and ``make_folds``."""
        folds = make_folds(images, count, seed)
        return cls._of(prepare(request, _smallest(folds)), folds)

    @classmethod
    def like(cls, before: Finished, images: Images, count: int, seed: int = 0) -> Self:
        """Plan ``count`` folds of ``images``, trained with the design and the recipe of a training that is ``before``.
        Raises as ``prepare`` and ``make_folds``, and ``RequestError`` where ``before`` is no training of one class per
        image, or began with weights that know the images."""
        about, data, asked = before.about, before.asked["data"], before.asked["request"]
        if data.get("task", "classification") != "classification" or about.recipe is None:
            raise RequestError(f"{before.folder} is not a run with one class per image, which folds need")
        earlier = trained_before(asked.get("weights"))
        if earlier is not None and earlier.asked["data"].get("fingerprint") == data["fingerprint"]:
            raise RequestError(
                f"{before.folder} began with weights that were trained on the same images, so that no fold is new to "
                f"them: give {earlier.folder}"
            )
        folds, settings = make_folds(images, count, seed), before.preprocessing
        request = Request(**{name: asked[name] for name in _OF_THE_BUNDLE if name in asked})
        prepared = prepare(request, _smallest(folds), about.recipe.epochs)
        own = replace(prepared.trial.data, image_size=settings.size[0], mean=settings.mean, std=settings.std)
        trial = replace(prepared.trial, design=about.design, recipe=about.recipe, data=own)
        unfitted = replace(  # its notes and warnings would be those of a recipe that is not trained
            prepared,
            trial=trial,
            recipe_name=before.asked["recipe_name"],
            notes=(),
            changes=(),
            preflight=replace(prepared.preflight, warnings=()),
        )
        return cls._of(unfitted, folds)

    @classmethod
    def _of(cls, prepared: Prepared, folds: tuple[Fold, ...]) -> Self:
        trial = prepared.trial
        trials = (replace(trial, data=replace(trial.data, fingerprint=fold.images.fingerprint)) for fold in folds)
        planned = (PlannedTrial(f"fold{i}", one, prepared.request.model) for i, one in enumerate(trials, 1))
        return cls(prepared, folds, tuple(planned))

    @property
    def folder(self) -> str:
        """Its name below the results' folder."""
        together = json.dumps([planned.trial.fingerprint for planned in self.trials])
        return f"folds{len(self.folds)}-{hashlib.sha256(together.encode()).hexdigest()[:12]}"


@dataclass
class CrossTrainings(Trainings):
    """The trainings of a cross-validation, and what follows from them."""

    plan: FoldsPlan
    images: Images
    ensemble: bool = False
    """Whether the folds' networks become one bundle."""

    def job(self, planned: PlannedTrial) -> Job:
        prepared = self.plan.prepared
        return replace(
            super().job(planned),
            images=self.plan.folds[self.plan.trials.index(planned)].images,
            start=prepared.start,
            start_source=prepared.request.weights or "",
            licence=prepared.licence,
        )

    def found(self, ensemble: EnsembleResult | None = None) -> CrossValidation:
        """What the folds that are finished say."""
        folds = []
        for number, (planned, fold) in enumerate(zip(self.plan.trials, self.plan.folds, strict=True), 1):
            trial = self.trial(planned)
            sizes = len(fold.images.train), len(fold.images.test)
            top1, fingerprint = trial.metrics.get("top1"), fold.images.fingerprint
            folds.append(FoldResult(number, *sizes, top1, trial.seconds, fingerprint, trial.error))
        values = [one.top1 for one in folds if one.top1 is not None]
        whole = len(values) == len(folds)
        ends = corrected_interval(values) if whole else None
        low, high = (None, None) if ends is None else (max(ends[0], 0.0), min(ends[1], 100.0))
        spread = stdev(values) if len(values) > 1 else None
        return CrossValidation(
            self.store.root, tuple(folds), fmean(values) if values else None, spread, low, high, ensemble
        )

    def write(self, ensemble: EnsembleResult | None = None) -> CrossValidation:
        """Keep what is finished in results.json."""
        found, prepared = self.found(ensemble), self.plan.prepared
        content: dict[str, Any] = {key: value for key, value in asdict(found).items() if key != "folder"}
        if ensemble is not None:
            content["ensemble"]["bundle"] = ENSEMBLE
        content |= {
            "model": prepared.request.model,
            "data": self.images.name,
            "recipe_name": prepared.recipe_name,
            "seed": prepared.trial.seed,
            "epochs": prepared.trial.recipe.epochs,
            "request": prepared.request.to_dict(),
            "design": prepared.trial.design.to_dict(),
            "recipe": prepared.trial.recipe.to_dict(),
            "command": self.command,
            "environment": self.environment,
        }
        write_json_atomic(self.store.root / RESULTS, content)
        return found

    def bundles(self) -> list[Path]:
        """Of each fold, all being finished."""
        outcomes = [self.outcomes[planned.folder] for planned in self.plan.trials]
        return [outcome.bundle for outcome in outcomes if isinstance(outcome, Result)]

    def kept_ensemble(self) -> EnsembleResult | None:
        """The ensemble of an earlier call, as long as it is of these networks."""
        path = self.store.root / ENSEMBLE
        kept: Any = read_object(self.store.root / RESULTS).get("ensemble")
        if self.open_trials or not kept or not (path / JSON_FILE).is_file():
            return None
        return read(EnsembleResult, {**kept, "bundle": path})

    def joined(self) -> EnsembleResult:
        """Write the bundle of all networks, and measure it."""
        made_by = self.command or "nextify.cross_validate"
        return join(self.store.root / ENSEMBLE, self.bundles(), self.images, made_by, self.runtime.device)

    def probabilities(self) -> tuple[npt.NDArray[np.float32], Indices]:
        """``(N, K)`` of all training images, each by the network that was not trained on it, and ``(N,)`` its fold."""
        rows = np.empty((len(self.images.train), len(self.images.classes)), np.float32)
        number = np.empty(len(rows), np.int64)
        for i, (bundle, fold) in enumerate(zip(self.bundles(), self.plan.folds, strict=True), 1):
            network = load_network(bundle, self.runtime.device, self.runtime.kernels)
            rows[fold.held_out] = network(fold.images.test)
            number[fold.held_out] = i
        return rows, number

    def predictions(self) -> str:
        """Every training image with its label, its fold, and the probability of each class, as CSV."""
        train, classes = self.images.train, self.images.classes
        rows, number = self.probabilities()
        each = (
            (train.name(i), classes[label], number[i], *map(repr, rows[i].tolist()))
            for i, label in enumerate(train.labels)
        )
        return as_csv(("path", "label", "fold", *classes), each)


@seeding()
def cross_validate(
    model: str,
    data: str | Path | Images,
    *,
    folds: int = 5,
    out: str | Path,
    device: str = "auto",
    threads: int | None = None,
    kernels: Mode = "auto",
    split_seed: int = 0,
    settings: Mapping[str, object] | None = None,
    ensemble: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
    **request: Any,
) -> CrossValidation:
    """Train a network per fold of the training images; the same call goes on where it stopped.

    Args:
        data: as ``train`` takes it, for classification.
        folds: how many, each with its share of every class and whole groups.
        split_seed: of the folds, and of the split into training and test images.
        ensemble: leave one bundle of all folds' networks, measured on the data's own test images.
        on_event: called with each event of the study's engine.

    The others are those of ``train``.

    Raises:
        RequestError: impossible options.
        DataError: images that cannot be trained on in so many folds.
        EngineError: the trainings cannot go on; what is finished stays.
    """
    out = Path(out)
    wanted = Request(model, settings={} if settings is None else settings, **request)
    images = data if isinstance(data, Images) else open_images(data, split_seed=split_seed, cache=out / "cache")
    plan = FoldsPlan.of(wanted, images, folds, split_seed)
    place = runtime(device, threads, kernels=kernels)
    together, each = default_side_by_side(plan.prepared.image_size, place.device, threads)
    with Store(out / plan.folder) as store, LocalEngine(replace(place, threads=each), together) as engine:
        trainings = CrossTrainings(plan, store, images, engine.runtime, together, ensemble=ensemble)
        return run_folds(trainings, engine, on_event)


def run_folds(trainings: CrossTrainings, engine: Engine, on_event: Callable[[Event], None]) -> CrossValidation:
    """Train what is missing, and keep the results. Raises ``EngineError``."""
    trainings.load()
    ensemble = trainings.kept_ensemble()
    trainings.write(ensemble)

    def keep(event: Event) -> None:
        if isinstance(event, Done):
            trainings.write()
        on_event(event)

    if trainings.open_trials:
        trainings.run(engine, keep)
    found = trainings.write(ensemble)
    if all(one.top1 is not None for one in found.folds):
        write_text_atomic(found.predictions, trainings.predictions())
        if trainings.ensemble and ensemble is None:
            found = trainings.write(trainings.joined())
    return found
