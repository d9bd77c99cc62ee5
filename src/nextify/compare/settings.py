"""What a comparison is asked for, how long it will take, and how often each figure is measured in that time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nextify.evaluation.profiling import Conditions
from nextify.networks.dense.design import Head
from nextify.system.text import several

Choices = Sequence[tuple[tuple[int, ...], int]]
"""Batch sizes of inference and of training to choose from, the largest first."""

TRAINING_PER_INFERENCE = 3.3
"""Estimated time of a training step over that of a forward pass: forward, twice that backward, the optimizer."""
PROCESS_SECONDS, BUILDING_SECONDS = 2.0, 0.5
"""Estimated time to start a process that measures memory, and to build a network with random weights."""
PASSES, PASSES_KEPT = 3, 10
"""How often all sizes are visited, for a share of their rounds each, so that a drift of the machine does not look like
growth with resolution. More often where the networks stay in memory."""
KEPT_SHARE = 0.4
"""Share of free memory that the networks of all sizes may keep: weights, and two moments of the optimizer."""
FEWEST_ROUNDS, WANTED_ROUNDS, MOST_ROUNDS = 3, 20, 60
"""At every size. Batches shrink to reach the wanted rounds: many short rounds share slow moments better than few long
ones."""
LONG_CALL = 0.03
"""Seconds of a call. A shorter one after another network's finds its caches full of that one, and is not counted."""
VISITS = 2
"""Turns of each network in a round at batch 1 (A B C A B C), where calls are shortest and scatter most."""
RESERVE = 0.1
"""Share of the minutes for the unforeseen."""
CALL_ON_GPU = 0.008
"""Estimated seconds of the smallest call on a GPU: a network is some hundred kernels, called one by one."""
SHORTEST_TIMED = 0.2
"""Seconds that the steps behind one throughput take together, at least."""
ON_CPU: Choices = (((1, 8), 4), ((1, 4), 4), ((1, 4), 2), ((1, 2), 1))
ON_GPU: Choices = (((1, 8, 64), 64), ((1, 8, 32), 16))


@dataclass(frozen=True)
class Settings:
    """Everything that changes the figures."""

    models: tuple[str, ...]
    sizes: tuple[int, ...]
    """Sides of square images in pixels, ascending."""
    conditions: Conditions
    threads: int
    batch_sizes: tuple[int, ...]
    """Of throughput, ascending; peak memory in inference is that of the largest."""
    training_batch_size: int
    calls: int
    """Timed calls of a visit at batch 1; a round has ``VISITS``."""
    rounds: int | None = None
    """None: as many as ``minutes`` allow, from ``FEWEST_ROUNDS`` to ``MOST_ROUNDS``."""
    minutes: float = 15.0
    num_classes: int | None = None
    """Of the data that networks are trained on; None takes a bundle's own, otherwise 1000."""
    fitted_to: int | None = None
    """Side of the images that networks are trained on and fitted to; None where nothing is trained."""
    head: Head | None = None
    """Of the detectors or segmenters whose backbones the networks are; None compares classifiers."""
    keeps: bool = False
    """Whether the networks of all sizes stay in memory until the end."""

    def __post_init__(self) -> None:
        for name in ("models", "sizes", "batch_sizes"):
            object.__setattr__(self, name, several(getattr(self, name)))
        numbers = (*self.sizes, *self.batch_sizes, self.training_batch_size, self.threads, self.calls)
        if not self.models or not self.sizes or not self.batch_sizes or min(numbers) < 1:
            raise ValueError("models, sizes and batch sizes must be given, and every number must be 1 or more")
        if (self.rounds is not None and self.rounds < 1) or self.minutes <= 0:
            raise ValueError("rounds must be 1 or more, and minutes above 0")
        if self.conditions.precision == "tf32" and not self.conditions.on_gpu:
            raise ValueError("tf32 exists on CUDA GPUs only; choose fp32 or bf16")

    @property
    def passes(self) -> int:
        """How often the sizes are gone through."""
        most = PASSES_KEPT if self.keeps else PASSES
        return min(most, self.rounds or most) if len(self.sizes) > 1 else 1

    def inference_seconds(self, image_seconds: float) -> float:
        """Seconds for latency and throughput of one network at one size in one round; ``image_seconds``: of one image
        in inference, here and below."""
        batches = sum(max(SHORTEST_TIMED, b * image_seconds) for b in self.batch_sizes if b > 1)
        call = max(image_seconds, CALL_ON_GPU) if self.conditions.on_gpu else image_seconds
        visit = max(SHORTEST_TIMED / 2, (self.calls + (image_seconds < LONG_CALL)) * call)
        return VISITS * visit + batches

    def training_seconds(self, image_seconds: float) -> float:
        """Seconds for training one network at one size in one round."""
        return max(SHORTEST_TIMED, TRAINING_PER_INFERENCE * self.training_batch_size * image_seconds)

    def memory_seconds(self, image_seconds: float) -> float:
        """Seconds for the peak memory of one network at one size."""
        images = max(self.batch_sizes) + 2 * TRAINING_PER_INFERENCE * self.training_batch_size
        return PROCESS_SECONDS + images * image_seconds

    def warming_seconds(self, image_seconds: float) -> float:
        """Seconds to build and warm up one network at one size: spent once where it is kept, else at each pass."""
        images = 2 + sum(self.batch_sizes) + TRAINING_PER_INFERENCE * self.training_batch_size
        return BUILDING_SECONDS + images * image_seconds


@dataclass(frozen=True)
class Left:
    """Where a comparison stands, by image size."""

    done: Mapping[int, int]
    """Rounds."""
    passes: Mapping[int, int]
    """Still to come. Memory is measured in the first."""


@dataclass(frozen=True)
class Plan:
    """How many rounds at each image size, and the seconds that they should take."""

    rounds: Mapping[int, int]
    seconds: float
    over_budget: bool
    """Even the fewest rounds take longer than the minutes asked for."""


def plan(
    settings: Settings,
    image_seconds: Mapping[int, Sequence[float]],
    available: float | None = None,
    left: Left | None = None,
) -> Plan:
    """Plan rounds and time for ``{image size: seconds of one image through each network there}``.

    Beyond ``WANTED_ROUNDS``, small sizes get more rounds than large ones, since theirs are short and scatter more:
    their number goes with one over the root of a round's time.

    Args:
        available: seconds; by default the settings' minutes less ``RESERVE``.
        left: where the comparison stands, by default at its beginning. The planned rounds include those done, the
            seconds do not.
    """
    budget = settings.minutes * 60
    available = (1 - RESERVE) * budget if available is None else available
    left = left or Left(dict.fromkeys(image_seconds, 0), dict.fromkeys(image_seconds, settings.passes))
    rounds, each, seconds = dict(left.done), {}, 0.0
    for size, own in image_seconds.items():
        fresh = left.passes[size] == settings.passes
        times = int(fresh) if settings.keeps else left.passes[size]
        seconds += times * sum(settings.warming_seconds(s) for s in own)
        seconds += sum(settings.memory_seconds(s) for s in own) if fresh else 0.0
        if left.passes[size]:
            each[size] = sum(settings.inference_seconds(s) + settings.training_seconds(s) for s in own)
            rounds[size] = max(settings.rounds or FEWEST_ROUNDS, left.done[size] + left.passes[size])
            seconds += (rounds[size] - left.done[size]) * each[size]
    while settings.rounds is None:
        fitting = [s for s in each if rounds[s] < MOST_ROUNDS and seconds + each[s] <= available]
        if not fitting:
            break
        fewest = min(fitting, key=lambda s: (rounds[s] >= WANTED_ROUNDS, rounds[s] * math.sqrt(each[s])))
        rounds[fewest] += 1
        seconds += each[fewest]
    return Plan(rounds, seconds, seconds > budget)


def fit_batches(settings: Settings, image_seconds: Mapping[int, Sequence[float]], choices: Choices) -> Settings:
    """Return the settings with the largest batches that leave time for ``WANTED_ROUNDS``, else with the smallest."""
    wanted = settings.rounds or WANTED_ROUNDS
    for batch_sizes, training_batch_size in choices:
        settings = replace(settings, batch_sizes=batch_sizes, training_batch_size=training_batch_size)
        tried = replace(settings, rounds=wanted, minutes=(1 - RESERVE) * settings.minutes)
        if not plan(tried, image_seconds).over_budget:
            break
    return settings
