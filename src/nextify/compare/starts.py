"""Which weights to start from: a probe of minutes that predicts the order after full fine-tuning (docs/pretraining.md).

A part of the training images is divided into folds. For each fold and each start, a linear classifier on frozen
features and a short fine-tuning learn from the other folds; the fine-tuning ranks. Intervals widen the variance by
Nadeau and Bengio's factor (Machine Learning 52, 2003), as folds share training images, and by Bonferroni's for pairs.
"""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch

from nextify import kernels
from nextify.data import DataError, Images
from nextify.data.preprocessing import Preprocessing
from nextify.data.sources.listing import complete_groups
from nextify.networks.layout import cost
from nextify.networks.network import ConvNet
from nextify.networks.zoo import designs
from nextify.paper.design import Design
from nextify.study.statistics import corrected_interval
from nextify.tasks.metric_specs import MASKED_ERROR
from nextify.training.loop import TrainingDiverged
from nextify.training.prepare import prepare
from nextify.training.request import Request
from nextify.training.run import TrainingOutOfMemory, run_trial
from nextify.training.trainer import build_network
from nextify.training.trial import Runtime
from nextify.weights import WeightsError, load
from nextify.weights.dialects import licence_terms

FRESH = "fresh:"
"""Of a start without weights: ``fresh:convnext_atto``."""
PERMISSIVE = frozenset(
    {"yours", "mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "unlicense", "cc-by-4.0"}
)
"""Licences, in lower case, that allow commercial use and do not pass on to what is made from the weights."""
FEATURE_BATCH = 64
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
"""Inverse regularizations of the linear classifier, of which a quarter of its training images choose one."""
CONFIDENCE = 0.95


def consequence(licence: str) -> str:
    """What a licence means for weights fine-tuned from those that have it."""
    name = licence.lower()
    if terms := licence_terms(name):
        return terms
    if name == "yours":
        return "your own weights: nobody else's terms"
    if name in PERMISSIVE:
        return "any use, with its notice" + (" and credit" if name.startswith("cc-by") else "")
    if "-nc" in name:
        return "no commercial use, nor of anything fine-tuned from them"
    if "-sa" in name or "gpl" in name:
        return "passes on to what is made from them"
    return "unknown to nextify: ask whoever published them"


class ProbeFailed(ValueError):
    """A start cannot be measured on these images; the message names it and the remedy."""


@dataclass(frozen=True)
class Start:
    """Weights to start from, before anything is measured."""

    source: str
    """As it was given."""
    model: str
    """The design's name."""
    licence: str
    settings: Preprocessing | None
    """How the weights' images are prepared; None for fresh ones."""
    data: str = ""
    """Name of what they learned with labels, as a bundle states it."""


@dataclass(frozen=True)
class Probed:
    """What the probe found of one start."""

    source: str
    model: str
    licence: str
    consequence: str
    parameters: int
    macs: int
    """For one image at its size."""
    image_size: int
    linear: tuple[float, ...]
    """Accuracy of each fold in percent, of a linear classifier on frozen features."""
    tuned: tuple[float, ...]
    """Likewise after a short fine-tuning."""
    recipe: str
    """Name of the one that this was by."""
    data: str
    """Name of what the weights learned with labels; empty where that is unknown, or nothing."""
    seconds: float


@dataclass(frozen=True)
class Advice:
    """The start with the best mean, and which others cannot be told from it."""

    best: str
    differences: Mapping[str, tuple[float, float, float]]
    """Of each other start: how many points the best is ahead, and the interval of that."""

    @property
    def equals(self) -> list[str]:
        """Those whose interval holds zero."""
        return [source for source, (_, low, high) in self.differences.items() if low <= 0 <= high]

    def text(self) -> str:
        """The recommendation in a sentence."""
        if not self.differences:
            return f"{self.best} is the only start: nothing to choose"
        if not self.equals:
            return f"start from {self.best}: it is ahead of every other one beyond chance"
        others = ", ".join(self.equals)
        if len(self.equals) == len(self.differences):
            return f"no difference can be told: {self.best} has the best mean, and {others} may be as good"
        return f"{self.best} has the best mean; no difference can be told between it and {others}"


def advise(scores: Mapping[str, Sequence[float]], least_error: float = 0.0) -> Advice:
    """The best of several starts by the accuracies of the same folds, ``{start: percent of each fold}``, at least 2.
    ``least_error`` is that of ``corrected_interval``."""
    best = max(scores, key=lambda source: fmean(scores[source]))
    others = [source for source in scores if source != best]
    each = 1 - (1 - CONFIDENCE) / max(1, math.comb(len(scores), 2))  # any of them could have been the best
    pairs = {source: [a - b for a, b in zip(scores[best], scores[source], strict=True)] for source in others}
    intervals = {source: corrected_interval(found, each, least_error) for source, found in pairs.items()}
    return Advice(best, {source: (fmean(pairs[source]), *ends) for source, ends in intervals.items() if ends})


def find_start(source: str) -> Start:
    """What is known of a start. Raises ``WeightsError`` where the weights cannot be read or are of no named design, and
    ``UnknownModel`` where no design has a fresh one's name."""
    if source.startswith(FRESH):
        return Start(source, source.removeprefix(FRESH), "yours", None)
    loaded = load(source)
    loaded.about.check_single("a start")
    name = loaded.about.name or next((n for n, d in designs().items() if d == loaded.about.design), "")
    if not name:
        raise WeightsError(f"{source} is of no named design: make it a bundle with a name, by nextify train --weights")
    learned = [metric.dataset for metric in loaded.about.metrics if metric.name != MASKED_ERROR.key]
    return Start(source, name, loaded.about.licence, loaded.about.preprocessing, learned[0] if learned else "")


def folds_of(images: Images, used: int, folds: int) -> list[npt.NDArray[np.int64]]:
    """A part of the training images in folds, each with its share of every class, and no group in two of them. Raises
    ``DataError`` where they, or their groups, are too few."""
    order = np.random.RandomState(0).permutation(len(images.train))[:used]
    if images.train.groups is None:
        by_class = order[np.argsort(images.train.labels[order], kind="stable")]
        found = [np.sort(by_class[i::folds]) for i in range(folds)]
    else:
        found = _folds_of_groups(images.train.labels, images.train.groups, np.sort(order), folds)
    if min(map(len, found)) < 2 or len(order) - len(found[0]) < 16:
        raise DataError(f"{len(order):,} training images are too few for {folds} folds: add some, or take fewer folds")
    return found


def _folds_of_groups(
    labels: npt.NDArray[np.int64], named: Sequence[str], chosen: npt.NDArray[np.int64], folds: int
) -> list[npt.NDArray[np.int64]]:
    """Whole groups of the ``chosen`` images in folds of about as many images of each class."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups = np.array(complete_groups(named))[chosen]
    most, count = np.bincount(labels[chosen]).max(), len({*groups})
    if folds > min(most, count):
        raise DataError(
            f"{len(chosen):,} training images of {count:,} groups are too few for {folds} folds: take fewer"
        )
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(chosen, labels[chosen], groups)
    return [chosen[held] for _, held in splits]


def probe_start(
    start: Start,
    images: Images,
    folds: Sequence[npt.NDArray[np.int64]],
    epochs: int,
    runtime: Runtime,
    on_fold: Callable[[Start, int], None] = lambda start, fold: None,
) -> Probed:
    """Measure one start on every fold. Raises ``ProbeFailed`` where the features are not finite, or a fine-tuning
    diverges or needs more memory than there is."""
    began = time.monotonic()
    weights = None if start.settings is None else start.source
    everything = np.concatenate(list(folds))
    labels = images.train.labels
    linear, tuned = [], []
    features: npt.NDArray[np.float32] | None = None
    place = {int(index): row for row, index in enumerate(everything)}
    design: Design | None = None
    size, recipe = 0, ""
    for number, fold in enumerate(folds):
        on_fold(start, number + 1)
        rest = np.concatenate([other for i, other in enumerate(folds) if i != number])
        part = replace(images, train=images.train.selected(rest), test=images.train.selected(fold))
        prepared = prepare(Request(start.model, weights=weights, epochs=epochs, seed=number), part)
        trial = prepared.trial
        assert isinstance(trial.design, Design)
        design, size, recipe = trial.design, trial.data.image_size, prepared.recipe_name
        if features is None or weights is None:  # fresh weights differ by seed
            model = build_network(trial, prepared.start)
            assert isinstance(model, ConvNet)
            crop = Preprocessing.from_crop_ratio(
                size, trial.recipe.test_crop_ratio, mean=trial.data.mean, std=trial.data.std
            )
            features = _features(model, images, everything, start.settings or crop, runtime)
            if not np.isfinite(features).all():
                raise ProbeFailed(f"{start.source} gives features of these images that are NaN or infinite: leave it "
                                  f"out, or take an earlier checkpoint")  # fmt: skip
        rows, tests = ([place[int(i)] for i in indices] for indices in (rest, fold))
        linear.append(_linear(features[rows], labels[rest], features[tests], labels[fold]))
        with TemporaryDirectory() as folder:
            try:
                result = run_trial(
                    trial, part, replace(runtime, evaluations=1), Path(folder) / "trial", start=prepared.start
                )
            except (TrainingDiverged, TrainingOutOfMemory) as error:
                raise ProbeFailed(f"{start.source} cannot be fine-tuned here ({error}): leave it out") from error
        tuned.append(result.top1)
    assert design is not None
    price = cost(design, size, images.num_classes)
    return Probed(
        *(start.source, start.model, start.licence, consequence(start.licence), price.parameters, price.macs, size),
        linear=tuple(linear),
        tuned=tuple(tuned),
        recipe=recipe,
        data=start.data,
        seconds=time.monotonic() - began,
    )


@torch.no_grad()
def _features(
    model: ConvNet, images: Images, indices: npt.NDArray[np.int64], settings: Preprocessing, runtime: Runtime
) -> npt.NDArray[np.float32]:
    """``(N, C)`` pooled features of training images."""
    torch.set_num_threads(runtime.threads)
    model.reset_classifier(0)
    model.eval().to(runtime.device)
    kernels.install(model, runtime.kernels)
    found = []
    for at in range(0, len(indices), FEATURE_BATCH):
        batch = torch.stack([settings(images.train.load(int(i))) for i in indices[at : at + FEATURE_BATCH]])
        found.append(model(batch.to(runtime.device)).cpu())
    return torch.cat(found).numpy()


def _linear(
    train: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    test: npt.NDArray[np.float32],
    test_labels: npt.NDArray[np.int64],
) -> float:
    """Accuracy in percent of a regularized linear classifier on standardized features; one class alone is constant."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    order = np.random.RandomState(0).permutation(len(labels))
    apart, rest = order[: len(order) // 4], order[len(order) // 4 :]
    scaled = StandardScaler().fit(train)
    x, y = scaled.transform(train), scaled.transform(test)

    def fitted(rows: npt.NDArray[np.int64], strength: float) -> LogisticRegression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # weak regularizations, which seldom are chosen
            return LogisticRegression(C=strength, max_iter=200, tol=1e-3).fit(x[rows], labels[rows])

    if len({*labels.tolist()}) < 2:
        return 100 * float((test_labels == labels[0]).mean())
    alone = len({*labels[rest].tolist()}) < 2  # then nothing can choose
    strength = 1.0 if alone else max(STRENGTHS, key=lambda s: float(fitted(rest, s).score(x[apart], labels[apart])))
    return 100 * float(fitted(order, strength).score(y, test_labels))


def permitted(starts: Sequence[Start], licence: str) -> tuple[list[Start], list[str]]:
    """The starts that ``permissive`` or ``any`` licences leave, and a sentence on each that is left out."""
    if licence == "any":
        return list(starts), []
    kept = [start for start in starts if start.licence.lower() in PERMISSIVE]
    notes = [
        f"{start.source} is left out: its licence is {start.licence} ({consequence(start.licence)})"
        for start in starts
        if start not in kept
    ]
    return kept, notes


def probe_starts(
    starts: Sequence[Start],
    images: Images,
    runtime: Runtime,
    *,
    used: int,
    folds: int,
    epochs: int,
    on_fold: Callable[[Start, int], None] = lambda start, fold: None,
) -> list[Probed]:
    """Measure each start on the same folds of ``used`` training images; see ``probe_start``. ``on_fold`` is called
    before each, with its number from 1."""
    parts = folds_of(images, used, folds)
    return [probe_start(start, images, parts, epochs, runtime, on_fold) for start in starts]
