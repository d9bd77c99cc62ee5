"""What a search was asked for and what it found, as ``search.json`` has it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from nextify.compare.designs import Candidate
from nextify.paper.settings import Range, check_ranges
from nextify.study.results import Json, StudyData, finite
from nextify.study.statistics import StepStatistics
from nextify.system.environment import Environment
from nextify.training.request import RequestError

WORDS = {"search": "the search’s winner", "random": "random search’s best", "family": "the best family member"}
"""The arms of a comparison, by the winner of each."""


@dataclass(frozen=True)
class Settings:
    """What decides what a search finds, beside the images and the speed of the machine."""

    budget: str
    minutes: Annotated[float, Range(above=0, most=10**7)] = 60.0
    """Of the search; random search and the families each take about as long again."""
    epochs: int | None = None
    """Of the last rung and of the final trainings; None takes the scale's."""
    seeds: Annotated[int, Range(least=1, most=1000)] = 3
    """Final trainings of each winner."""
    seed: Annotated[int, Range(least=0, most=2**31 - 1)] = 0
    """Of the draws, and of the trainings that decide."""
    scale: str = "tiny"
    image_size: int | None = None
    recipe: str | None = None
    precision: str = "fp32"
    alone: bool = False
    """Without random search and families."""
    latency_threads: Annotated[int, Range(least=1, most=1024)] | None = None
    """CPU threads with which latency is measured; None takes all cores."""

    def __post_init__(self) -> None:
        check_ranges(self, RequestError)


@dataclass(frozen=True)
class Tried:
    """A design that was measured, and how far it got."""

    arm: str
    candidate: Candidate
    epochs: int = 0
    """Of its longest training; 0 for one that takes too much, failed, or was left out for lack of time."""
    accuracy: float | None = None
    """Of that training on the validation images, percent."""
    seconds: float = 0.0
    """Of all its trainings."""
    error: str | None = None


@dataclass(frozen=True)
class Final:
    """The winner of an arm, trained on all training images and measured on the test images."""

    arm: str
    candidate: Candidate
    statistics: StepStatistics
    """Of its accuracies; the winner's own has no comparison, a rival's is of the winner against it."""
    accuracies: tuple[float | None, ...]
    """By seed, percent."""
    latency_ms: tuple[float, ...]
    """Medians of the rounds in which the winners were measured in turn."""
    seconds: float
    """That the arm's trainings took, together, before it was chosen."""
    member: str | None = None
    """Of the families: the member whose design the search's winner has, in place of a comparison."""


@dataclass(frozen=True)
class Found:
    """What a search found, as ``search.json`` has it."""

    settings: Settings
    data: StudyData
    image_size: int
    rungs: tuple[int, ...]
    """Epochs."""
    validation_images: int
    metric: str
    latency_threads: int
    side_by_side: int
    tried: tuple[Tried, ...]
    finals: tuple[Final, ...]
    bundle: Path | None
    """The winner's network of the first seed; None where its training failed."""
    bundle_accuracy: float | None
    command: str
    started: str
    finished: str
    environment: Environment

    @property
    def winner(self) -> Candidate:
        return self.finals[0].candidate

    @property
    def members(self) -> list[Tried]:
        """The members of the families within the budget."""
        return [t for t in self.tried if t.arm == "family" and t.candidate.used <= 1 and not self.settings.alone]

    @property
    def left_out(self) -> list[str]:
        """The members that there was no time to train."""
        return [t.candidate.name for t in self.members if not t.epochs and t.error is None]

    def to_dict(self) -> Json:
        return {**finite(self), "members_left_out": self.left_out, "schema": 1}
