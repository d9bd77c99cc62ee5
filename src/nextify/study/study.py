"""A study from its plan to its results: probe, train what is missing, conclude.

Killed anywhere and started again it continues: finished trials are read from the store, a running one resumes from its
checkpoint to the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from nextify.data import Images
from nextify.networks.layout import cost
from nextify.study.engine import Done, Engine, Event, Failed, Job, Probed
from nextify.study.plan import Plan, PlannedTrial
from nextify.study.statistics import conclude
from nextify.study.store import Store
from nextify.system.device import gpu_name
from nextify.system.environment import Environment, cores, describe
from nextify.training.probe import Speed
from nextify.training.trial import Runtime

SCHEMA = 1
"""Version of results.json, described in docs/results-schema.md."""


@dataclass(frozen=True)
class Estimate:
    """How long the open trials will take here, from a few measured steps of each network."""

    seconds: float
    """Wall time of the whole, side by side."""
    trial_seconds: Mapping[str, float]
    """By folder of the trial."""
    images_per_second: Mapping[str, float]
    """By step, each of the trials side by side."""


class Planned(Protocol):
    """Whatever names its trainings."""

    @property
    def trials(self) -> tuple[PlannedTrial, ...]: ...


@dataclass
class Trainings:
    """Planned trials, their store, and how to run them."""

    plan: Planned
    store: Store
    images: Images
    runtime: Runtime
    side_by_side: int
    command: str = ""
    environment: Environment = field(default_factory=describe)
    """Taken when the study begins, since the source tree may move on while it runs."""
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Result or ``{"error": …}`` of each trial by folder, as far as there is one."""

    def load(self) -> None:
        """Read what earlier runs finished."""
        for planned in self.plan.trials:
            result = self.store.result(planned)
            if result is not None:
                self.outcomes[planned.folder] = result.to_dict()

    @property
    def open_trials(self) -> list[PlannedTrial]:
        """What is still to be trained."""
        return [planned for planned in self.plan.trials if planned.folder not in self.outcomes]

    @property
    def notes(self) -> list[str]:
        """What the user should know of earlier trainings in the store."""
        earlier = {folder for planned in self.open_trials for folder in self.store.of_earlier_versions(planned)}
        if not earlier:
            return []
        return [
            f"{len(earlier)} trainings in {self.store.trials} are of an earlier version of nextify: they stay as they "
            f"are, and these are trained anew"
        ]

    def estimate(self, engine: Engine, on_probe: Callable[[str], None] = lambda step: None) -> Estimate:
        """Measure a few steps of each network that is still to be trained, side by side as it will run."""
        first = {planned.step: planned for planned in reversed(self.open_trials)}
        measured: dict[str, Speed] = {}

        def on_event(event: Event) -> None:
            if isinstance(event, Probed):
                measured[event.key] = event.speed
                on_probe(event.key)

        engine.run([Job(step, first[step].trial, self.images) for step in first], on_event)
        trial_seconds, speed = {}, {}
        for planned in self.open_trials:
            if planned.step in measured:
                trial_seconds[planned.folder] = measured[planned.step].seconds
                speed[planned.step] = planned.trial.recipe.batch_size / measured[planned.step].step_seconds
        together = min(self.side_by_side, len(trial_seconds)) or 1
        return Estimate(sum(trial_seconds.values()) / together, trial_seconds, speed)

    def run(self, engine: Engine, on_event: Callable[[Event], None]) -> None:
        """Train what is missing. Raises ``EngineError`` where the study cannot go on; what is finished stays."""

        def record(event: Event) -> None:
            if isinstance(event, Done):
                self.outcomes[event.key] = event.result.to_dict()
            elif isinstance(event, Failed):
                self.outcomes[event.key] = {"error": event.error}
            on_event(event)

        jobs = [Job(p.folder, p.trial, self.images, self.store.folder(p), p.name) for p in self.open_trials]
        engine.run(jobs, record)

    def trial(self, planned: PlannedTrial) -> dict[str, Any]:
        """What became of a trial, as plain data."""
        outcome = self.outcomes.get(planned.folder)
        status = "missing" if outcome is None else "failed" if "error" in outcome else "finished"
        return {
            "step": planned.step,
            "seed": planned.trial.seed,
            "status": status,
            **{
                key: (outcome or {}).get(key)
                for key in ("top1", "top5", "final_train_loss", "seconds", "images_per_second", "peak_memory_mib")
            },
            "error": (outcome or {}).get("error"),
            "curve": (outcome or {}).get("curve", []),
            "fingerprint": planned.trial.fingerprint,
        }


@dataclass
class Study(Trainings):
    """The trainings of a roadmap, and what follows from them."""

    plan: Plan

    def results(self, started: datetime) -> dict[str, Any]:
        """Everything of the study as plain data: docs/results-schema.md."""
        finished = datetime.now(UTC)
        plan = self.plan
        environment = self.environment | {
            "gpu": gpu_name(self.runtime.device),
            "device": self.runtime.device,
            "threads_per_trial": self.runtime.threads,
            "trials_side_by_side": self.side_by_side,
        }
        return {
            "schema": SCHEMA,
            "study": {
                "regime": plan.roadmap.name,
                "data": {
                    "name": plan.data.name,
                    "classes": len(self.images.classes),
                    "class_names": list(self.images.classes),
                    "train_images": len(self.images.train),
                    "test_images": len(self.images.test),
                    "fingerprint": plan.data.fingerprint,
                    "notes": list(self.images.notes),
                },
                "scale": plan.scale.name,
                "image_size": plan.data.image_size,
                "seeds": sorted({planned.trial.seed for planned in plan.trials}),
                "command": self.command,
                "started": started.isoformat(timespec="seconds"),
                "finished": finished.isoformat(timespec="seconds"),
                "seconds": round(sum(o.get("seconds", 0.0) for o in self.outcomes.values()) / self.side_by_side, 1),
                "notes": list(plan.notes),
                "recipes": {"original": plan.original.to_dict(), "modern": plan.modern.to_dict()},
            },
            "rows": self._rows(),
            "trials": [self.trial(planned) for planned in plan.trials],
            "environment": environment,
        }

    def _rows(self) -> list[dict[str, Any]]:
        plan = self.plan
        accuracies: dict[str, dict[int, float | None]] = {}
        speeds: dict[str, list[float]] = {}
        for planned in plan.trials:
            outcome = self.outcomes.get(planned.folder, {})
            accuracies.setdefault(planned.step, {})[planned.trial.seed] = outcome.get("top1")
            if "images_per_second" in outcome:
                speeds.setdefault(planned.step, []).append(outcome["images_per_second"])
        references = {row.row.name: row.compared_with for row in plan.rows}
        concluded = conclude(accuracies, references, test_images=len(self.images.test))
        rows = []
        for planned_row in plan.rows:
            row, summary = planned_row.row, concluded[planned_row.row.name].summary
            comparison = concluded[row.name].comparison
            costs = cost(planned_row.design, plan.data.image_size, plan.data.num_classes)
            speed = speeds.get(row.name)
            reference = planned_row.compared_with
            published_change = None
            if reference is not None:
                published_change = round(row.published.top1 - plan.roadmap[reference].published.top1, 2)
            rows.append(
                {
                    "step": row.name,
                    "title": row.title,
                    "group": row.group,
                    "adopted": row.adopted,
                    "n": summary.n,
                    "top1_mean": summary.mean,
                    "top1_std": summary.std,
                    "binomial_standard_error": summary.binomial_standard_error,
                    "compared_with": reference,
                    "change": comparison.change if comparison else None,
                    "change_low": comparison.low if comparison else None,
                    "change_high": comparison.high if comparison else None,
                    "p_value": comparison.p_value if comparison else None,
                    "p_value_holm": comparison.p_holm if comparison else None,
                    "seeds_needed": comparison.seeds_needed if comparison else None,
                    "verdict": comparison.verdict if comparison else None,
                    "conclusion": comparison.conclusion if comparison else None,
                    "parameters": costs.parameters,
                    "macs": costs.macs,
                    "images_per_second": round(sum(speed) / len(speed), 1) if speed else None,
                    "published_top1": row.published.top1,
                    "published_std": row.published.std,
                    "published_change": published_change,
                    "published_gflops": row.published.gflops,
                    "design": planned_row.design.to_dict(),
                }
            )
        return rows


def default_side_by_side(scale: str, device: str, threads: int | None) -> tuple[int, int]:
    """(trials side by side, threads of each): one thread each for small networks, all threads for one large one.

    On a CUDA device four small trials share it (not measured yet)."""
    available = cores()
    small = scale in ("tiny", "small")
    if device.startswith("cuda"):
        return (4 if small else 1), threads or max(1, available // 4)
    each = threads or (1 if small else available)
    return max(1, available // each), each
