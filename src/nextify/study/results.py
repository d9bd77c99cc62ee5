"""What a study found, as the content of ``results.json`` (docs/results-schema.md) and the only thing a report reads.

The main metric of the task stands in the figures of a step (``mean``, ``std``) and of a curve (``test``). In files they
have its key in their names (``named``), such as ``top1_mean`` and ``test_top1``.

Metrics are percent, changes percentage points, times seconds. Any number may be None: one seed has no spread, an
unfinished step has no figure. None is never zero, and no other number stands in for it.
"""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from nextify.paper.settings import Settings
from nextify.system.files import parse_json
from nextify.tasks.metric_specs import ACCURACY, MetricSpec

SCHEMA = 1
CLASSIFICATION = "classification"
_DENSE = ("task", "metrics", "head", "canvas")
"""Settings that files of classification leave out, as they had it before there were other tasks."""
Json = dict[str, Any]
"""An object of a JSON file, of whatever version of the schema."""
T = TypeVar("T")


def read(kind: type[T], value: Any) -> T:
    """``value``, from JSON, as ``kind``: a dataclass, settings, a sequence or union of such, or anything that JSON has
    itself.

    Unknown keys are ignored, and absent and null ones keep the field's default, so that files of older and newer
    versions can be read.
    """
    found: Any = value
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType) and value is not None:
        found = read(next(a for a in arguments if a is not type(None)), value)
    elif origin in (tuple, Sequence):
        found = tuple(read(arguments[0], v) for v in value)
    elif isinstance(kind, type) and issubclass(kind, Settings):
        found = kind.from_dict(value)
    elif is_dataclass(kind) and isinstance(value, Mapping):
        hints, optional = _fields(kind)
        given = {name: v for name, v in value.items() if name in hints and not (v is None and name in optional)}
        found = kind(**{name: read(hints[name], v) for name, v in given.items()})
    return found  # type: ignore[no-any-return]


@cache
def _fields(kind: Any) -> tuple[Mapping[str, Any], frozenset[str]]:
    """The types of a dataclass's fields, and the names of those that have a default."""
    optional = (f.name for f in fields(kind) if f.default is not MISSING or f.default_factory is not MISSING)
    return get_type_hints(kind), frozenset(optional)


def named(record: Json, metrics: Sequence[MetricSpec]) -> Json:
    """A step, training, point of a curve or row of a comparison with the names that it has in files."""
    names, found = _names(metrics[0].key), Json()
    for key, value in record.items():
        if key == "metrics":
            found |= {spec.key: value.get(spec.key) for spec in metrics}
        elif key == "curve":
            found[key] = [named(point, metrics) for point in value]
        else:
            found[names.get(key, key)] = value
    return found


def unnamed(record: Json, metrics: Sequence[MetricSpec]) -> Json:
    """What ``named`` was given."""
    names = {in_files: name for name, in_files in _names(metrics[0].key).items()}
    found = {names.get(key, key): value for key, value in record.items()}
    if "curve" in found:
        found["curve"] = [unnamed(point, metrics) for point in found["curve"]]
    return found | {"metrics": {s.key: record[s.key] for s in metrics if record.get(s.key) is not None}}


def _names(key: str) -> dict[str, str]:
    return {**{name: f"{key}_{name}" for name in ("mean", "std", "low", "high")}, "test": f"test_{key}"}


@dataclass(frozen=True)
class Epoch:
    """A point of a training curve."""

    epoch: int = 0
    """From 1."""
    train_loss: float | None = None
    learning_rate: float | None = None
    test: float | None = None
    """The main metric; None where it was not measured."""


@dataclass(frozen=True)
class TrialResult:
    """One training."""

    step: str = ""
    seed: int = 0
    status: str = ""
    """``finished``, ``failed`` or ``missing``."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the final weights, by their keys; empty where there are none."""
    final_train_loss: float | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    peak_memory_mib: float | None = None
    error: str | None = None
    """Why it failed."""
    curve: Sequence[Epoch] = ()
    fingerprint: str = ""

    @property
    def folder(self) -> str:
        """Its name below ``trials``."""
        return f"{self.step}-seed{self.seed}-{self.fingerprint}"


@dataclass(frozen=True)
class StepResult:
    """One step of the roadmap over all its seeds."""

    step: str = "?"
    title: str = ""
    group: str = "Steps"
    """Section of the paper's Figure 2."""
    adopted: bool = True
    """False for a step that is only explored: the next one does not build on it."""
    seeds: int | None = None
    """Trainings that are planned."""
    n: int = 0
    """Trainings with a figure."""
    mean: float | None = None
    std: float | None = None
    """Of the main metric over the seeds."""
    binomial_standard_error: float | None = None
    compared_with: str | None = None
    change: float | None = None
    change_low: float | None = None
    change_high: float | None = None
    p_value: float | None = None
    p_value_holm: float | None = None
    interval_low: float | None = None
    interval_high: float | None = None
    p_crossed: float | None = None
    p_crossed_holm: float | None = None
    image_error: float | None = None
    seeds_needed: int | None = None
    verdict: str | None = None
    conclusion: str | None = None
    parameters: int | None = None
    macs: int | None = None
    images_per_second: float | None = None
    published_top1: float | None = None
    published_std: float | None = None
    published_change: float | None = None
    published_gflops: float | None = None
    design: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The title, or the step where it has none."""
        return self.title or self.step

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """The 95 % interval of the change that is shown: for new seeds and images, or else for new seeds."""
        crossed = self.interval_low, self.interval_high
        return (self.change_low, self.change_high) if None in crossed else crossed

    @property
    def trained(self) -> bool:
        """Whether there is a figure."""
        return self.mean is not None


@dataclass(frozen=True)
class StudyData:
    """The images of a study."""

    name: str = "the images"
    classes: int | None = None
    class_names: Sequence[str] = ()
    train_images: int | None = None
    test_images: int | None = None
    fingerprint: str | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class StudySettings:
    """What was asked for."""

    regime: str = ""
    data: StudyData = StudyData()
    scale: str = ""
    image_size: int | None = None
    """Side in pixels; of a canvas the longer one."""
    seeds: Sequence[int] = ()
    command: str = ""
    started: str | None = None
    finished: str | None = None
    """ISO 8601."""
    seconds: float | None = None
    """Time of all trainings divided by the number side by side."""
    notes: Sequence[str] = ()
    """What fitting changed and why."""
    first_look: int | None = None
    """Seeds of each step's first look where seeds are added until it is decided; None where they were planned."""
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """``original`` for the first row, ``modern`` for all others."""
    task: str = CLASSIFICATION
    """``classification``, ``detection`` or ``segmentation``."""
    metrics: Sequence[MetricSpec] = ACCURACY
    """Of the task, the main one first."""
    head: str | None = None
    """Of detectors and segmenters."""
    canvas: Sequence[int] | None = None
    """Height and width of what they see, pixels."""


@dataclass(frozen=True)
class StudyResults:
    """Everything that is known of a study."""

    schema: int = SCHEMA
    study: StudySettings = StudySettings()
    rows: Sequence[StepResult] = ()
    """In the paper's order."""
    trials: Sequence[TrialResult] = ()
    environment: Mapping[str, str | int | float | None] = field(default_factory=dict)

    @property
    def metric(self) -> MetricSpec:
        """The main one, by which steps are compared."""
        return self.study.metrics[0]

    def main(self, trial: TrialResult) -> float | None:
        """The main metric of a training; None where there is none."""
        return trial.metrics.get(self.metric.key)

    @classmethod
    def from_dict(cls, values: Json) -> Self:
        """The results that ``to_dict`` gave. Raises ``ValueError`` for the schema of a newer version."""
        if values.get("schema", SCHEMA) != SCHEMA:
            raise ValueError(
                f"results of schema {values['schema']}; this nextify reads schema {SCHEMA}: update nextify"
            )
        study = read(StudySettings, values.get("study", {}))
        records = {part: [unnamed(r, study.metrics) for r in values.get(part, ())] for part in ("rows", "trials")}
        return read(cls, values | records)

    def to_dict(self) -> Json:
        """The fields as JSON has them: None stands for every NaN and infinity, and lists for tuples."""
        found: Json = finite(self)
        if self.study.task == CLASSIFICATION:
            for setting in _DENSE:
                del found["study"][setting]
        for part in ("rows", "trials"):
            found[part] = [named(record, self.study.metrics) for record in found[part]]
        return found

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The results in a ``results.json``."""
        return cls.from_dict(parse_json(Path(path).read_text(encoding="utf-8")))


def finite(value: Any) -> Any:
    """``value`` as JSON has it: dataclasses as objects, tuples as lists, paths as text, and None for every NaN and
    infinity."""
    if isinstance(value, Settings):
        return finite(value.to_dict())
    if is_dataclass(value):
        return {f.name: finite(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
