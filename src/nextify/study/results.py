"""What a study found, as the content of ``results.json`` (docs/results-schema.md) and the only thing a report reads.

Accuracies are percent, changes percentage points, times seconds. Any number may be None: one seed has no spread, an
unfinished step has no accuracy. None is never zero, and no other number stands in for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from nextify.system.environment import Environment

SCHEMA = 1
Json = dict[str, Any]
"""An object of a JSON file, of whatever version of the schema."""


class _Record:
    """A dataclass whose fields are keys of a JSON object; every field has a default."""

    @classmethod
    def from_dict(cls, values: Json) -> Self:
        """Take the fields from ``values``. Absent and null ones keep their defaults, and unknown keys are ignored, so
        that files of older and newer versions can be read."""
        known = {f.name: values.get(f.name) for f in fields(cls)}  # type: ignore[arg-type]
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items() if v is not None})

    def to_dict(self) -> Json:
        """The fields as JSON has them: None stands for every NaN and infinity, and lists for tuples."""
        found: Json = finite(asdict(self))  # type: ignore[call-overload]
        return found


@dataclass(frozen=True)
class Epoch(_Record):
    """A point of a training curve."""

    epoch: int = 0
    """From 1."""
    train_loss: float | None = None
    learning_rate: float | None = None
    test_top1: float | None = None
    """None where it was not measured."""


@dataclass(frozen=True)
class TrialResult(_Record):
    """One training."""

    step: str = ""
    seed: int = 0
    status: str = ""
    """``finished``, ``failed`` or ``missing``."""
    top1: float | None = None
    top5: float | None = None
    """Accuracy of the final weights."""
    final_train_loss: float | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    peak_memory_mib: float | None = None
    error: str | None = None
    """Why it failed."""
    curve: Sequence[Epoch] = ()
    fingerprint: str = ""

    @classmethod
    def from_dict(cls, values: Json) -> Self:
        curve = [Epoch.from_dict(point) for point in values.get("curve") or () if point.get("epoch") is not None]
        return super().from_dict({**values, "curve": tuple(curve)})


@dataclass(frozen=True)
class StepResult(_Record):
    """One step of the roadmap over all its seeds."""

    step: str = "?"
    title: str = ""
    group: str = "Steps"
    """Section of the paper's Figure 2."""
    adopted: bool = True
    """False for a step that is only explored: the next one does not build on it."""
    n: int = 0
    """Trainings with an accuracy."""
    top1_mean: float | None = None
    top1_std: float | None = None
    binomial_standard_error: float | None = None
    compared_with: str | None = None
    change: float | None = None
    change_low: float | None = None
    change_high: float | None = None
    p_value: float | None = None
    p_value_holm: float | None = None
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
    def trained(self) -> bool:
        """Whether there is an accuracy."""
        return self.top1_mean is not None


@dataclass(frozen=True)
class StudyData(_Record):
    """The images of a study."""

    name: str = "the images"
    classes: int | None = None
    class_names: Sequence[str] = ()
    train_images: int | None = None
    test_images: int | None = None
    fingerprint: str | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class StudySettings(_Record):
    """What was asked for."""

    regime: str = ""
    data: StudyData = StudyData()
    scale: str = ""
    image_size: int | None = None
    """Side in pixels."""
    seeds: Sequence[int] = ()
    command: str = ""
    started: str | None = None
    finished: str | None = None
    """ISO 8601."""
    seconds: float | None = None
    """Time of all trainings divided by the number side by side."""
    notes: Sequence[str] = ()
    """What fitting changed and why."""
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """``original`` for the first row, ``modern`` for all others."""

    @classmethod
    def from_dict(cls, values: Json) -> Self:
        return super().from_dict({**values, "data": StudyData.from_dict(values.get("data") or {})})


@dataclass(frozen=True)
class StudyResults(_Record):
    """Everything that is known of a study."""

    schema: int = SCHEMA
    study: StudySettings = StudySettings()
    rows: Sequence[StepResult] = ()
    """In the paper's order."""
    trials: Sequence[TrialResult] = ()
    environment: Environment = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Json) -> Self:
        """The results that ``to_dict`` gave. Raises ``ValueError`` for the schema of a newer version."""
        schema = values.get("schema", SCHEMA)
        if schema != SCHEMA:
            raise ValueError(f"results of schema {schema}; this nextify reads schema {SCHEMA}: update nextify")
        return cls(
            schema,
            StudySettings.from_dict(values.get("study") or {}),
            tuple(StepResult.from_dict(row) for row in values.get("rows") or ()),
            tuple(TrialResult.from_dict(trial) for trial in values.get("trials") or ()),
            values.get("environment") or {},
        )

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The results in a ``results.json``."""
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))


def finite(value: Any) -> Any:
    """The same data as plain dicts and lists, with None for every NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
