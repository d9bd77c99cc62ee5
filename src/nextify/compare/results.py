"""What a comparison found: the content of results.json.

Ratios, growth, findings and recommendations are worked out from the rows whenever they are asked for, so that an older
file is read by today's definitions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cached_property
from statistics import median
from typing import Any, Self

import numpy as np

from nextify.compare.growth import Growth, growths
from nextify.compare.measure import Cell, Comparison
from nextify.compare.ratios import Beside, SpeedRatio, speed_ratios, table_12
from nextify.compare.records import Accuracy, Model, Row, Run, Speed, Why
from nextify.study.results import Json, named, read, unnamed
from nextify.tasks.metric_specs import ACCURACY

METRIC = ACCURACY[0]
"""By which networks are compared."""
SCHEMA = 2
"""Version of results.json. In version 1 a ratio was the median over the rounds; reading works both out anew."""


@dataclass(frozen=True)
class Results:
    """Everything that was measured, and what follows from it."""

    run: Run
    environment: Mapping[str, str | float | None]
    models: tuple[Model, ...]
    rows: tuple[Row, ...]
    """Size by size, in the order of ``models``."""
    accuracy: Accuracy | None = None
    why: tuple[Why, ...] = ()
    limits: tuple[str, ...] = ()
    """Of the budget that a network is recommended for, as they were written."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """What a repetition must ask for too, to replace these; see ``folder.request``."""

    @cached_property
    def growth(self) -> dict[tuple[str, str], Growth]:
        """``{(network, quantity): growth with the pixels}``."""
        return dict(growths(self.rows))

    @cached_property
    def ratios(self) -> tuple[SpeedRatio, ...]:
        """Speeds over the reference's."""
        return tuple(speed_ratios(self.rows))

    @cached_property
    def table_12(self) -> tuple[Beside, ...]:
        """Speeds beside those of the paper's Table 12."""
        return tuple(table_12(self.models, self.rows))

    def model(self, label: str) -> Model:
        return next(model for model in self.models if model.model == label)

    def candidates(self) -> list[tuple[Row, float]]:
        """Rows that have an accuracy, in percent, at their size: as measured here, where anything was trained or
        evaluated, otherwise the paper's at 224² and 384²."""
        if self.accuracy:
            size = self.accuracy.image_size
            measured = {(r.model, size if r.image_size is None else r.image_size): r.mean for r in self.accuracy.rows}
            found = [(row, measured.get((row.model, row.image_size))) for row in self.rows]
        else:
            found = [(r, self.model(r.model).printed(r.image_size, "top1", "top1_384")) for r in self.rows]
        return [(row, accuracy) for row, accuracy in found if accuracy is not None]

    def to_dict(self) -> Json:
        """Plain data; the findings and the recommendation are added where the file is written."""
        run = asdict(self.run)
        settings = run.pop("settings")
        if settings["head"] is None:  # as files had it before there were heads
            del settings["head"]
        return {
            "schema": SCHEMA,
            "asked": dict(self.asked),
            "settings": settings.pop("conditions") | settings | run,
            "environment": dict(self.environment),
            "models": list(map(asdict, self.models)),
            "rows": list(map(asdict, self.rows)),
            "growth": [{"model": m, "quantity": q, **asdict(growth)} for (m, q), growth in self.growth.items()],
            "ratios": list(map(asdict, self.ratios)),
            # The figures of a ratio stand beside those of its row.
            "table_12": [
                asdict(row) | (asdict(row.ratio) if row.ratio else dict.fromkeys(("ratio", "low", "high", "n")))
                for row in self.table_12
            ],
            "accuracy": self.accuracy
            and asdict(self.accuracy) | {"rows": [named(asdict(row), ACCURACY) for row in self.accuracy.rows]},
            "why": list(map(asdict, self.why)),
        }

    @classmethod
    def from_dict(cls, found: Json) -> Self:
        """The measurements of a results.json of either version."""
        run = found["settings"]
        accuracy = found["accuracy"]
        if accuracy:
            accuracy = read(Accuracy, accuracy | {"rows": [unnamed(row, ACCURACY) for row in accuracy["rows"]]})
        return cls(
            read(Run, {**run, "settings": {**run, "conditions": run}}),
            found["environment"],
            read(tuple[Model, ...], found["models"]),
            read(tuple[Row, ...], found["rows"]),
            accuracy,
            read(tuple[Why, ...], found["why"]),
            tuple((found["budget"] or {}).get("limits", ())),
            found.get("asked", {}),
        )


def collect(
    comparison: Comparison,
    command: str,
    started: datetime,
    finished: datetime,
    environment: Mapping[str, str | float | None],
    *,
    accuracy: Accuracy | None = None,
    why: Sequence[Why] = (),
    limits: Sequence[str] = (),
    asked: Mapping[str, Any] | None = None,
) -> Results:
    """Return the results of a comparison so far."""
    settings, plan = comparison.settings, comparison.plan
    run = Run(
        replace(settings, rounds=min(plan.rounds.values()) if plan else None),
        command,
        started.isoformat(timespec="seconds"),
        finished.isoformat(timespec="seconds"),
        (finished - started).total_seconds(),
        plan.seconds if plan else None,
        comparison.interleaved,
        comparison.complete,
        settings.passes,
    )
    models = tuple(dict.fromkeys(cell.entry for cell in comparison.cells))
    rows = tuple(_row(cell, settings.training_batch_size) for cell in comparison.cells)
    return Results(run, environment, models, rows, accuracy, tuple(why), tuple(limits), asked or {})


def _row(cell: Cell, training_batch_size: int) -> Row:
    found: dict[str, Any] = {}
    if cell.counts:
        found |= vars(cell.counts) | {"attention_share": cell.counts.attention_share}
    if cell.latency:
        calls = [1e3 * seconds for times in cell.latency for seconds in times]
        found |= {f"latency_ms_p{share}": float(np.percentile(calls, share)) for share in (50, 95, 99)}
        found |= {"latency_calls": len(calls)}
        found |= {"latency_rounds_ms": tuple(1e3 * median(times) for times in cell.latency)}
    if cell.throughput:
        speeds = [Speed.of(batch, rounds) for batch, rounds in sorted(cell.throughput.items())]
        per_image = 1e3 / speeds[-1].images_per_second
        found |= {"throughput": tuple(speeds), "batch_size": speeds[-1].batch_size, "batch_ms_per_image": per_image}
    if cell.training:
        speed = Speed.of(training_batch_size, cell.training)
        found |= {"training": speed, "training_ms_per_image": 1e3 / speed.images_per_second}
    if cell.memory:
        found |= {f"{part}_mib": getattr(cell.memory, part) for part in ("start", "inference", "training")}
    return Row(cell.entry.model, cell.image_size, cell.status, tuple(cell.problems), **found)
