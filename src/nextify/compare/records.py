"""The records of a comparison, as results.json keeps them: docs/compare.md lists the keys and units.

Everything measured may be None where it was not measured; ``problems`` of a row says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, Self

from nextify.compare.settings import Settings
from nextify.evaluation.profiling import MemoryLayout, Precision
from nextify.paper.published import PublishedModel
from nextify.study.results import StudyData


@dataclass(frozen=True)
class Speed:
    """Throughput in images/s over the rounds: the median, the slowest and the fastest, and each round."""

    batch_size: int
    images_per_second: float
    low: float
    high: float
    n: int
    rounds: tuple[float, ...]

    @classmethod
    def of(cls, batch_size: int, rounds: Sequence[float]) -> Self:
        """The speed of at least one round."""
        return cls(batch_size, median(rounds), min(rounds), max(rounds), len(rounds), tuple(rounds))


@dataclass(frozen=True)
class Row:
    """One network at one image size."""

    model: str
    image_size: int
    status: str
    problems: tuple[str, ...] = ()
    parameters: int | None = None
    macs: int | None = None
    attention_macs: int | None = None
    attention_share: float | None = None
    activations: int | None = None
    latency_calls: int = 0
    latency_ms_p50: float | None = None
    latency_ms_p95: float | None = None
    latency_ms_p99: float | None = None
    latency_rounds_ms: tuple[float, ...] = ()
    throughput: tuple[Speed, ...] = ()
    """By batch size, ascending."""
    batch_size: int | None = None
    batch_ms_per_image: float | None = None
    training: Speed | None = None
    training_ms_per_image: float | None = None
    start_mib: float | None = None
    inference_mib: float | None = None
    training_mib: float | None = None

    @property
    def images_per_second(self) -> float | None:
        """Throughput of the largest batch."""
        return self.throughput[-1].images_per_second if self.throughput else None

    def speeds(self) -> dict[tuple[str, int], Speed]:
        """``{(inference or training, batch size): speed}``; the batch size of training is written as 0."""
        found = {("inference", speed.batch_size): speed for speed in self.throughput}
        return found | ({("training", 0): self.training} if self.training else {})


@dataclass(frozen=True)
class Model:
    """One network of the comparison, whatever the size of its images."""

    model: str
    """Its label, by which the other records name it."""
    name: str
    """As it was asked for."""
    family: str
    """ConvNeXt, isotropic ConvNeXt, ResNet, ViT, Swin or other."""
    published: PublishedModel | None = None
    """The paper's figures."""

    def printed(self, image_size: int, at_224: str, at_384: str) -> float | None:
        """The paper's figure at this size, by the names of its fields; None at any other size."""
        key = {224: at_224, 384: at_384}.get(image_size)
        return getattr(self.published, key) if self.published and key else None

    def printed_gflops(self, image_size: int) -> float | None:
        """The paper's multiply-adds, in units of 10^9."""
        return self.printed(image_size, "gflops", "gflops_384")


@dataclass(frozen=True)
class Variant:
    """One network in one memory layout and precision; ``shares`` is each kind of operator's share of the time."""

    layout: MemoryLayout
    precision: Precision
    ms_per_image: float
    rounds_ms: tuple[float, ...]
    shares: dict[str, float]


@dataclass(frozen=True)
class Why:
    """What layout, precision and operators cost one network."""

    model: str
    image_size: int
    batch_size: int
    variants: tuple[Variant, ...]


@dataclass(frozen=True, kw_only=True)
class AccuracyRow:
    """The main metric of one network, and its difference from the reference, paired seed by seed. Files have its key in
    the names of its figures (``study.results.named``)."""

    model: str
    how: Literal["trained", "evaluated"]
    weights: str | None = None
    image_size: int | None = None
    """Of evaluated weights the side that they ask for, in pixels, 0 for other shapes; None for trained networks, whose
    size is the data's."""
    n: int
    mean: float | None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    binomial_standard_error: float | None = None
    compared_with: str | None = None
    change: float | None = None
    change_low: float | None = None
    change_high: float | None = None
    p_value: float | None = None
    p_value_holm: float | None = None
    interval_low: float | None = None
    """95 % interval of the change for new seeds and new test images, by which verdicts go."""
    interval_high: float | None = None
    p_crossed: float | None = None
    p_crossed_holm: float | None = None
    image_error: float | None = None
    verdict: str | None = None
    conclusion: str | None = None
    training_images_per_second: float | None = None
    training_seconds: float | None = None
    problems: tuple[str, ...] = ()

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """95 % interval of the difference: for new seeds and images, else for new seeds."""
        if self.interval_low is not None:
            return self.interval_low, self.interval_high
        return self.change_low, self.change_high


@dataclass(frozen=True)
class Accuracy:
    """The accuracies of a comparison, and how the networks were trained."""

    data: StudyData
    image_size: int
    recipe_name: str
    recipe: dict[str, Any]
    seeds: tuple[int, ...]
    side_by_side: int
    threads_per_training: int
    seconds: float
    notes: tuple[str, ...]
    rows: tuple[AccuracyRow, ...]
    trials: tuple[dict[str, Any], ...]
    """As in a study's results.json, with ``model`` in place of ``step``."""


@dataclass(frozen=True)
class Run:
    """How and when a comparison ran: ``settings`` of results.json, where settings and conditions stand beside it."""

    settings: Settings
    """``rounds`` are the fewest planned at any size; None where the networks were only counted."""
    command: str
    started: str
    finished: str
    seconds: float
    expected_seconds: float | None
    interleaved: bool
    complete: bool
    passes: int = 1
