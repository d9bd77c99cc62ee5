"""Thousands of small trainings of which only the figure is wanted: each is written down and its network deleted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextify.study.attribution import Attributed, Attribution, Subset
from nextify.study.engine import Done, Engine, Event, Failed, Job, Probed
from nextify.study.plan import PlannedTrial
from nextify.study.study import StudyEstimate, Trainings
from nextify.system.files import UnusableFolder, parse_json, write_json_atomic
from nextify.training.learned import metric_specs
from nextify.training.result import Result

if TYPE_CHECKING:
    from nextify.tasks.metric_specs import MetricSpec


@dataclass
class Ledger(Trainings):
    """Trainings whose figures are kept and whose networks are not. ``values.json`` holds the figure of each that has
    ended, by folder."""

    known: dict[str, tuple[float, float]] = field(default_factory=dict)
    """``{folder: (value, seconds)}``."""

    @property
    def metric(self) -> MetricSpec:
        """What the networks are judged by."""
        return metric_specs(self.plan.trials[0].trial)[0]

    @property
    def path(self) -> Path:
        return self.store.root / "values.json"

    @property
    def ended(self) -> int:
        """Training runs in the store that have ended, those whose networks are kept among them."""
        return len(self.known.keys() | {path.parent.name for path in self.store.trials.glob("*/result.json")})

    def load(self) -> None:
        """Read what earlier runs wrote down. What they only finished, the next run finds as it stands. Raises
        ``UnusableFolder`` for a ``values.json`` that is not ours."""
        try:
            found: Any = parse_json(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
            self.known = {str(folder): (float(value), float(took)) for folder, (value, took) in found.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise UnusableFolder(f"{self.path} holds no values of trainings ({error}): choose another --out") from error

    @property
    def open_trials(self) -> list[PlannedTrial]:
        """What is still to be trained."""
        return [p for p in self.plan.trials if p.folder not in self.known and p.folder not in self.outcomes]

    def run(self, engine: Engine, on_event: Callable[[Event], None]) -> None:
        """Train what is missing. Raises ``EngineError`` where it cannot go on; what is finished stays."""

        def record(event: Event) -> None:
            if isinstance(event, Done):
                self._keep(event.key, event.result)
                self.outcomes.pop(event.key, None)
            on_event(event)

        super().run(engine, record)

    def _keep(self, folder: str, result: Result) -> None:
        self.known[folder] = float(result.metrics[self.metric.key]), result.seconds
        write_json_atomic(self.path, self.known)
        shutil.rmtree(self.store.trials / folder, ignore_errors=True)


@dataclass
class Attributing(Ledger):
    """The trainings of an attribution."""

    plan: Attributed

    @property
    def metric(self) -> MetricSpec:
        """What the networks are judged by, whether or not any are planned yet."""
        return metric_specs(self.plan.trial(Subset(), 0).trial)[0]

    def estimate_from_known(self) -> StudyEstimate:
        """How long the open trials will take, from the mean of those that have ended."""
        return self._estimate(self._mean_seconds)

    @property
    def _mean_seconds(self) -> float:
        """Of the trainings that have ended; 0 where none has."""
        return sum(seconds for _, seconds in self.known.values()) / max(1, len(self.known))

    def _estimate(self, each: float) -> StudyEstimate:
        seconds = {p.folder: each for p in self.open_trials}
        return StudyEstimate(sum(seconds.values()) / self.side_by_side, seconds, {})

    def probe(self, engine: Engine) -> StudyEstimate:
        """How long the open trials will take, from a few steps of the first and the last network."""
        every = Subset(self.plan.names)
        measured: list[float] = []

        def on_event(event: Event) -> None:
            if isinstance(event, Probed):
                measured.append(event.speed.seconds)

        jobs = [Job(str(len(s)), self.plan.trial(s, 0).trial, self.images) for s in (Subset(), every)]
        engine.run(jobs, on_event)
        return self._estimate(sum(measured) / max(1, len(measured)))

    def seconds_of_a_pair(self) -> float:
        """Time that a further pair of orders will take, at the pace so far."""
        return self._mean_seconds * self.plan.trainings_of_a_pair / self.side_by_side

    def attribution(self) -> Attribution:
        """What follows from the trainings that have ended."""
        keyed = {key: planned.folder for key, planned in self.plan.keyed.items()}
        values = {key: self.known[folder][0] for key, folder in keyed.items() if folder in self.known}
        failed = {key for key, folder in keyed.items() if isinstance(self.outcomes.get(folder), Failed)}
        return self.plan.attribution(values, failed)
