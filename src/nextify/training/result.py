"""The result of a training: its figures, and whether what a folder holds is one, whole and of this trial."""

import base64
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from nextify.evaluation.metrics import unpacked
from nextify.paper.recipe import Recipe
from nextify.system.files import FOREIGN_JSON, check_regular, parse_json
from nextify.training.learned import metric_specs
from nextify.training.records import Entry
from nextify.training.trial import VERSION, Trial
from nextify.weights import WeightsError, is_bundle
from nextify.weights.bundle import JSON_FILE, WEIGHTS_FILE, any_from_json, belongs

ROUNDING = 0.01
"""Points by which the mean of scores in float32 may differ from their metric."""


@dataclass(frozen=True)
class Result:
    """The outcome of a training."""

    fingerprint: str
    bundle: Path
    """The network: a bundle that can be evaluated, predicted with and exported; of a network of timm's, its weights."""
    metrics: Mapping[str, float]
    """Of the final (averaged, where the recipe averages) weights on the test images, by the keys of the task."""
    test_images: int
    final_train_loss: float
    """Mean over the last epoch."""
    seconds: float
    """Time spent training and evaluating, over all its runs."""
    images_per_second: float
    """Batch size over the median time of a step: forward, backward, update and the preparation of the batch."""
    peak_memory_mib: int | None
    """Peak memory of the training's process. In a study it may be that of an earlier training, but not on Linux."""
    curve: list[Entry]
    """One entry per epoch: epoch, train_loss, learning_rate, and the main test metric (None where not measured)."""
    trained: bool = True
    """False where an earlier run had finished it."""
    right: str | None = None
    """Which test images a classifier's final weights get right, as ``packed``; None where that was not recorded."""
    scores: str | None = None
    """Of the test images with a detector's or segmenter's final weights, as ``packed_scores``."""

    def __getattr__(self, name: str) -> float:
        """A metric by its key, such as ``result.top1`` of a classification, in percent."""
        metrics = self.__dict__.get("metrics", {})  # a copy asks before it has any
        if name not in metrics:
            raise AttributeError(f"a Result has no {name}; its metrics are {', '.join(metrics)}")
        return float(metrics[name])

    @property
    def main(self) -> float:
        """The task's main metric, the first of ``metrics``."""
        return next(iter(self.metrics.values()))

    @property
    def right_images(self) -> npt.NDArray[np.bool_] | None:
        """Of each test image whether a classifier gets it right, ``(N,)``; None where that is unknown or contradicts
        the accuracy."""
        return unpacked(self.right, self.test_images, self.main)

    @property
    def image_scores(self) -> npt.NDArray[np.bool_] | npt.NDArray[np.float64] | None:
        """Of each test image whether it is right, or a score in percent, ``(N,)``, whose mean is the main metric; None
        where they are unknown or contradict it."""
        if self.scores is None:
            return self.right_images
        try:
            found = np.frombuffer(base64.b64decode(self.scores, validate=True), "<f4").astype(np.float64)
        except ValueError:
            return None
        return found if len(found) == self.test_images and abs(found.mean() - self.main) < ROUNDING else None

    def to_dict(self) -> dict[str, object]:
        """The figures as plain data, as ``result.json`` has them."""
        left_out = {"bundle", "metrics", "trained", *(["scores"] if self.scores is None else [])}
        others = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {"fingerprint": self.fingerprint, **self.metrics, **others}


def packed(right: bytes) -> str:
    """One byte per image, 0 or 1, as ``result.json`` has it: eight images a byte, the first highest, in base64."""
    return base64.b64encode(np.packbits(np.frombuffer(right, np.uint8)).tobytes()).decode()


def packed_scores(scores: npt.NDArray[np.float64]) -> str:
    """Scores ``(N,)`` as ``result.json`` has them: float32, the lowest byte first, in base64."""
    return base64.b64encode(scores.astype("<f4").tobytes()).decode()


def finished(folder: Path, trial: Trial) -> Result | None:
    """The result of a training that is done, or None where its result or its network is missing, cut or another's."""
    content = read_object(folder / "result.json")
    figures = {f: content.get(f) for f in Result.__dataclass_fields__ if f not in ("bundle", "metrics", "trained")}
    metrics = {spec.key: content.get(spec.key) for spec in metric_specs(trial)}
    if (
        figures["fingerprint"] != trial.fingerprint
        or not _plausible(figures, metrics, trial)
        or not _whole_network(folder / "bundle")
    ):
        return None
    return Result(bundle=folder / "bundle", metrics=cast("Any", metrics), trained=False, **cast("Any", figures))


def _plausible(figures: Mapping[str, object], metrics: Mapping[str, object], trial: Trial) -> bool:
    """Whether the figures of a result are of the right types and within their ranges."""
    percent = {spec.key for spec in metric_specs(trial) if spec.unit == "%"}
    main, curve, memory = metric_specs(trial)[0].key, figures["curve"], figures["peak_memory_mib"]
    in_curve = {"train_loss", "learning_rate", f"test_{main}"}

    def metric(key: str, value: object) -> bool:
        return _number(value, 0, 100) if key in percent else _number(value)

    def entry(value: object) -> bool:
        return (
            isinstance(value, dict)
            and in_curve <= value.keys()
            and _whole_number(value.get("epoch"), 1)
            and all(value[key] is None or _number(value[key]) for key in in_curve)
            and (value[f"test_{main}"] is None or metric(main, value[f"test_{main}"]))
        )

    return (
        all(metric(*item) for item in metrics.items())
        and _whole_number(figures["test_images"], 1)
        and _number(figures["final_train_loss"])
        and all(_number(figures[f], 0) for f in ("seconds", "images_per_second"))
        and (memory is None or _whole_number(memory, 0))
        and isinstance(curve, list)
        and all(map(entry, curve))
        and all(isinstance(figures[f], str | None) for f in ("right", "scores"))
    )


def _number(value: object, least: float = -sys.float_info.max, most: float = sys.float_info.max) -> bool:
    """Whether it is a finite number of this range, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _whole_number(value: object, least: int) -> bool:
    return isinstance(value, int) and _number(value, least)


def fitted_otherwise(folder: Path, trial: Trial, request: Mapping[str, object]) -> dict[str, object]:
    """The settings in which a training of the same request on the same images, whose recipe an earlier nextify fitted
    otherwise, differs from the trial; empty where the folder holds none such."""
    content = read_object(folder / "recipe.json")
    data = content.get("data")
    if (
        content.get("version") != VERSION
        or json.dumps(content.get("request"), sort_keys=True) != json.dumps(request, sort_keys=True)
        or not (isinstance(data, dict) and data.get("fingerprint") == trial.data.fingerprint)
    ):
        return {}
    try:
        before = Recipe.from_dict(cast("Any", content.get("recipe")))
    except (ValueError, TypeError, AttributeError):
        return {}
    return {name: theirs for name, (theirs, _) in before.differences(trial.recipe).items()}


def of_earlier_versions(folders: Iterable[Path]) -> list[Path]:
    """Those of ``folders`` that hold a training of another version of nextify, whose results are not reused."""
    contents = {f: read_object(f / "result.json") or read_object(f / "recipe.json") for f in folders}
    return [folder for folder, content in contents.items() if content and content.get("version") != VERSION]


def read_object(path: Path) -> dict[str, object]:
    """The JSON object in a file; empty where there is none. Raises ``UnusableFolder`` for a pipe or device."""
    check_regular([path])
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _whole_network(bundle: Path) -> bool:
    """Whether a bundle, or the weights of a network of timm's, is as it was written."""
    try:
        content = read_object(bundle / (JSON_FILE if is_bundle(bundle) else FOREIGN_JSON))
        if is_bundle(bundle):
            any_from_json(content, bundle)
        with safe_open(bundle / WEIGHTS_FILE, framework="pt"):  # raises where bytes are missing
            return bool(content) and belongs(bundle / WEIGHTS_FILE, content)
    except (OSError, WeightsError, SafetensorError):
        return False
