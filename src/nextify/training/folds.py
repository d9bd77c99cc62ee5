"""Probabilities of training images by networks that were not trained on them.

Each fold is predicted by a network that learned from the others, with the design and the recipe of a bundle.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nextify.data import DataError, Images
from nextify.evaluation.evaluate import predict_set
from nextify.system.files import parse_json
from nextify.tasks.classification import Inference
from nextify.training.loop import OnProgress, ShouldStop
from nextify.training.prepare import Prepared, prepare
from nextify.training.request import Request, RequestError
from nextify.training.run import run_trial
from nextify.training.trial import Runtime
from nextify.weights import load, load_bundle

_FROM_REQUEST = ("model", "scale", "weights", "class_order", "frozen_stages", "image_size", "accumulation", "seed")
"""Of the bundle's request; recipe and design are taken as they were trained."""


@dataclass(frozen=True)
class Fold:
    """One training: its images to test on are those held out of the others' training images."""

    prepared: Prepared
    held_out: npt.NDArray[np.int64]
    """Which of the data's training images."""

    def probabilities(
        self,
        folder: Path,
        runtime: Runtime,
        on_progress: OnProgress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> npt.NDArray[np.float32]:
        """``(len(held_out), K)`` of the held-out images, trained in a folder below ``folder``, where it resumes.

        Raises as ``run_trial``.
        """
        prepared = self.prepared
        images = prepared.images
        assert isinstance(images, Images)
        result = run_trial(
            *(prepared.trial, images, runtime, folder / prepared.trial.fingerprint, on_progress),
            name=prepared.request.model,
            start=prepared.start,
            start_source=prepared.request.weights or "",
            licence=prepared.licence,
            should_stop=should_stop,
        )
        loaded = load(result.bundle)
        inference = Inference.of(loaded.about.recipe, loaded.about.temperature)
        model = loaded.model.to(runtime.device)
        return predict_set(model, images.test, loaded.preprocessing, runtime.device, inference)


def folds_of(bundle: str | Path, images: Images, count: int) -> list[Fold]:
    """The trainings of ``count`` folds, each class shared out evenly over them in an order that the count seeds.

    Raises:
        RequestError: nothing beside the bundle says how it was trained; fewer than two folds, or more than images.
        DataError: a class has one training image only.
        WeightsError: what it started from cannot be read.
    """
    about = load_bundle(bundle).about
    record = Path(bundle).resolve().parent / "recipe.json"
    if about.recipe is None or not record.is_file():
        raise RequestError(
            f"--folds trains as the bundle was, and {bundle} has no recipe.json beside it: give the bundle in the "
            f"folder that nextify train left"
        )
    stated: dict[str, Any] = parse_json(record.read_text(encoding="utf-8"))["request"]
    request = Request(**{name: stated[name] for name in _FROM_REQUEST if name in stated})
    labels = images.train.labels
    if not 2 <= count <= len(labels):
        raise RequestError(f"--folds must be from 2 to {len(labels)}, the training images, got {count}")
    sizes = np.bincount(labels, minlength=images.num_classes)
    if alone := [images.classes[i] for i in np.flatnonzero(sizes == 1)]:
        raise DataError(f"--folds needs two training images of each class, and {alone[0]} has one: add some")
    places = np.empty(len(labels), np.int64)
    order = np.random.RandomState(count).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    places[order] = np.arange(len(labels)) % count
    found = []
    for number in range(count):
        held_out, rest = np.flatnonzero(places == number), np.flatnonzero(places != number)
        digest = hashlib.sha256(f"{images.fingerprint} fold {number} of {count}".encode()).hexdigest()
        part = replace(
            images,
            name=f"{images.name}, fold {number + 1} of {count}",
            train=images.train.selected(rest),
            test=images.train.selected(held_out),
            fingerprint=digest,
        )
        prepared = prepare(request, part, about.recipe.epochs)
        settings = about.preprocessing
        trial = replace(
            prepared.trial,
            design=about.design,
            recipe=about.recipe,
            data=replace(prepared.trial.data, image_size=settings.size[0], mean=settings.mean, std=settings.std),
        )
        found.append(Fold(replace(prepared, trial=trial), held_out))
    return found


def gathered(folds: list[Fold], probabilities: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """``(N, K)`` of all training images, of what each fold gave for its own."""
    found = np.empty((sum(map(len, probabilities)), probabilities[0].shape[1]), np.float32)
    for fold, own in zip(folds, probabilities, strict=True):
        found[fold.held_out] = own
    return found
