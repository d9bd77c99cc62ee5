"""A study from its plan to its results: probe, train what is missing, conclude.

A study that was killed continues when it is started again: finished trials are read from the store, and an unfinished
one resumes from its checkpoint to the same result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from statistics import fmean
from typing import Protocol

from nextify.data import Images
from nextify.data.dense.annotations import DenseImages
from nextify.data.images import check_images
from nextify.evaluation.evaluate import evaluate
from nextify.study.conclusions import study_conclusions, study_results, trial_result
from nextify.study.engine import Done, Engine, EngineError, Event, Failed, Job, Probed, Stopped
from nextify.study.looks import more_seeds
from nextify.study.plan import Plan, PlannedTrial
from nextify.study.results import StudyResults, TrialResult
from nextify.study.statistics import StepStatistics
from nextify.study.store import Store
from nextify.system.environment import Environment, cores, describe
from nextify.system.text import plural
from nextify.tasks.metric_specs import MetricSpec
from nextify.training.learned import AnyImages, metric_specs
from nextify.training.probe import Speed
from nextify.training.result import Result, packed
from nextify.training.trial import Runtime

SMALL_SIDE = 64
"""Side of images in pixels up to which networks are trained on one thread each."""


@dataclass(frozen=True)
class StudyEstimate:
    """How long the open trials will take here, from a few measured steps of each network."""

    seconds: float
    """Wall time of the whole, side by side."""
    trial_seconds: Mapping[str, float]
    """By folder of the trial."""
    images_per_second: Mapping[str, float]
    """By step, each of the trials side by side."""


class Planned(Protocol):
    """Anything with planned trials."""

    @property
    def trials(self) -> tuple[PlannedTrial, ...]: ...


@dataclass
class Trainings:
    """Planned trials, their store, and how to run them."""

    plan: Planned
    store: Store
    images: AnyImages
    runtime: Runtime
    side_by_side: int
    command: str = ""
    environment: Environment = field(default_factory=describe)
    """Taken when the study begins, since the source tree may move on while it runs."""
    outcomes: dict[str, Result | Failed] = field(default_factory=dict)
    """What became of each trial that has ended, by folder."""

    def __post_init__(self) -> None:
        if not isinstance(self.images, DenseImages):
            check_images(self.images)

    def load(self) -> None:
        """Read what earlier runs finished."""
        for planned in self.open_trials:
            if (result := self.store.result(planned)) is not None:
                self.outcomes[planned.folder] = result

    @property
    def open_trials(self) -> list[PlannedTrial]:
        """What is still to be trained."""
        return [planned for planned in self.plan.trials if planned.folder not in self.outcomes]

    @property
    def notes(self) -> list[str]:
        """What the user should know about earlier trainings in the store."""
        earlier = {folder for planned in self.open_trials for folder in self.store.of_earlier_versions(planned)}
        said = f"{len(earlier)} runs in {self.store.trials} are from an earlier version of nextify: they are kept"
        return [f"{said} as they are, and the networks are trained again"] if earlier else []

    def estimate(self, engine: Engine, on_probe: Callable[[str], None] = lambda step: None) -> StudyEstimate:
        """Measure a few steps of each network that is still to be trained, side by side as it will run. Raises
        ``EngineError`` where that fails with all of them."""
        first = {planned.step: planned for planned in reversed(self.open_trials)}
        measured: dict[str, Speed] = {}
        failed: list[str] = []

        def on_event(event: Event) -> None:
            if isinstance(event, Probed):
                measured[event.key] = event.speed
                on_probe(event.key)
            elif isinstance(event, Failed):
                failed.append(event.error)

        engine.run([replace(self.job(p), key=step, folder=None) for step, p in first.items()], on_event)
        if failed and not measured:
            raise EngineError(f"none of {plural(len(first), 'network')} can take a step of training: {failed[0]}")
        probed = [planned for planned in self.open_trials if planned.step in measured]
        trial_seconds = {p.folder: measured[p.step].seconds for p in probed}
        speed = {p.step: p.trial.recipe.batch_size / measured[p.step].step_seconds for p in probed}
        together = min(self.side_by_side, len(trial_seconds)) or 1
        return StudyEstimate(sum(trial_seconds.values()) / together, trial_seconds, speed)

    def run(self, engine: Engine, on_event: Callable[[Event], None]) -> None:
        """Train what is missing. Raises ``EngineError`` where the study cannot go on; what is finished stays."""

        def record(event: Event) -> None:
            if isinstance(event, Done):
                self.outcomes[event.key] = event.result
            elif isinstance(event, Failed) and not isinstance(event, Stopped):
                self.outcomes[event.key] = event
            on_event(event)

        engine.run([self.job(planned) for planned in self.open_trials], record)

    def job(self, planned: PlannedTrial) -> Job:
        """A planned trial as an engine takes it."""
        return Job(planned.folder, planned.trial, self.images, self.store.folder(planned), planned.name)

    def trial(self, planned: PlannedTrial) -> TrialResult:
        """What became of a trial."""
        return trial_result(planned, self.outcomes.get(planned.folder))


@dataclass
class Study(Trainings):
    """The trainings of a roadmap, and what follows from them."""

    plan: Plan
    first_look: int | None = None
    """Seeds of every step's first look, where more may follow (``more_seeds``); None where the seeds were planned."""
    _contradicting: set[str] = field(default_factory=set, init=False)
    """Folders whose networks do not give the accuracy of their results when they are evaluated again."""

    @property
    def notes(self) -> list[str]:
        """What the user should know about earlier trainings in the store."""
        seeds = self.plan.seeds
        following = self.plan.with_seeds({step: n + 1 for step, n in seeds.items()}).trials
        further = [p for p in following if p.trial.seed == seeds[p.step] and self.store.result(p) is not None]
        said = f"{self.store.trials} has further seeds, which are not used: give --until-decided, or a larger --seeds"
        return super().notes + ([said] if further and self.first_look is None else [])

    def evaluate_again(self, on_network: Callable[[str], None] = lambda step: None) -> None:
        """Find out which test images the classifiers of earlier versions get right, and keep it with their results."""
        if not isinstance(self.images, Images):
            return
        for planned in self.plan.trials:
            outcome = self.outcomes.get(planned.folder)
            known = planned.folder in self._contradicting
            if isinstance(outcome, Result) and outcome.right is None and not known:
                on_network(planned.step)
                runtime = self.runtime
                found = evaluate(outcome.bundle, self.images, device=runtime.device, kernels=runtime.kernels)
                outcome = replace(outcome, right=packed(found.right))
                if outcome.right_images is not None:
                    self.outcomes[planned.folder] = outcome
                    self.store.keep_right(planned, str(outcome.right))
                else:
                    self._contradicting.add(planned.folder)

    @property
    def metrics(self) -> Sequence[MetricSpec]:
        """Of the task, the main one first."""
        return metric_specs(self.plan.trials[0].trial)

    def conclusions(self) -> dict[str, StepStatistics]:
        return study_conclusions(self)

    def look_again(self) -> bool:
        """Plan the seeds of the next look; False where every step is decided or has had its last look.

        The study must have a ``first_look``."""
        assert self.first_look is not None
        more = more_seeds(self.conclusions(), self.plan.seeds, self.first_look)
        if more is not None:
            self.plan = self.plan.with_seeds(more)
            self.load()
        return more is not None

    def expected(self) -> StudyEstimate:
        """How long the open trials will take, from the finished ones of the same steps."""
        done: dict[str, list[Result]] = {}
        for planned in self.plan.trials:
            outcome = self.outcomes.get(planned.folder)
            if isinstance(outcome, Result):
                done.setdefault(planned.step, []).append(outcome)
        seconds = {p.folder: fmean(r.seconds for r in done[p.step]) for p in self.open_trials if p.step in done}
        speeds = {step: fmean(r.images_per_second for r in results) for step, results in done.items()}
        return StudyEstimate(sum(seconds.values()) / (min(self.side_by_side, len(seconds)) or 1), seconds, speeds)

    def results(self, started: datetime) -> StudyResults:
        """What was found so far; ``started`` is when this run began."""
        return study_results(self, started)


def default_side_by_side(image_side: int, device: str, threads: int | None) -> tuple[int, int]:
    """Return (trials side by side, threads of each): one thread each for small networks, all for one large network.

    On a CUDA device four small trials share it (not measured yet).

    Args:
        image_side: of the images that the networks are for, in pixels; at a scale, the largest that it has.
        threads: of each trial; None chooses.
    """
    available = cores()
    small = image_side <= SMALL_SIDE
    if device.startswith("cuda"):
        return (4 if small else 1), threads or max(1, available // 4)
    each = threads or (1 if small else available)
    return max(1, available // each), each
