"""What a training takes here: a few steps are timed, and the parts of a batch that fit memory found by trying."""

import math
import statistics
import time
from dataclasses import dataclass, field, replace
from typing import get_args

import torch

from nextify.kernels.choice import fast_bfloat16
from nextify.paper.design import Design
from nextify.paper.recipe import Precision
from nextify.system import native, processes
from nextify.system.device import out_of_memory, peak_memory_mib
from nextify.training.learned import AnyImages, batches_to_test
from nextify.training.prepare import Preparation, Prepared
from nextify.training.request import RequestError
from nextify.training.schedule import relative_cost
from nextify.training.trainer import Trainer, measured
from nextify.training.trial import Runtime, Trial

PROBE_SECONDS = 3.0
"""A probe stops after this long, not counting the first step, which may build kernels."""
FIRST_GUESS = 10
"""Epochs for which the first probe of ``--minutes`` is fitted."""
PLANNED_SHARE = 0.97
"""Of ``--minutes``; the rest is left for what a probe does not see."""
WANTED_EPOCHS = 20
"""Where ``--minutes`` hold fewer, the images get smaller, if their size is not given: docs/log.md."""
WANTED_IMAGES, MOST_WANTED_EPOCHS = 130_000, 80
"""Of few images, more epochs are wanted, up to this many: until so many images have been seen."""
WANTED_STEPS = 2500
"""More are wanted of detectors and segmenters, too, whose batches are small however few the images are."""
SIZE_STEP, SMALLEST_SIDE = 32, 64
"""Images get smaller by multiples of this many pixels, and not smaller than this; with boxes or masks, whose objects
may be small, than half their size."""
FASTER = 0.95
"""``--minutes`` chooses bf16 where a step takes at most this share of the time in fp32."""


class OutOfMemory(RequestError):
    """A batch does not fit memory, not even in the smallest parts that may be chosen here."""


@dataclass(frozen=True)
class Speed:
    """What a few steps of a training took."""

    step_seconds: float
    """Median of a step, at the mean size of the images over the training."""
    test_seconds: float
    """Of all evaluations."""
    total_steps: int
    waited: float = field(default=0.0, kw_only=True)
    """Share of the time in which the processor did something else, such as another program; 0 where that is unknown,
    as beside a GPU."""

    @property
    def seconds(self) -> float:
        """Of the whole training."""
        return self.step_seconds * self.total_steps + self.test_seconds


@dataclass(frozen=True)
class Estimate(Speed):
    """A training's time and memory, from a few measured steps; of several processes the slowest counts."""

    images_per_second: float
    memory_mib: int
    """Peak memory of a process while measuring: the device's, or on a CPU the process's own."""
    accumulation: int
    """Parts into which each batch must be cut to fit memory, at least as many as were asked for."""


def probe(trial: Trial, images: AnyImages, runtime: Runtime, steps: int = 8, *, together: bool = False) -> Speed:
    """Measure a few steps and one batch of test images; nothing is kept. ``together``: of several processes, whether
    they exchange gradients and statistics, as the training will. If not, each computes its own share without waiting
    for the others, so that one may find that its memory does not suffice."""
    torch.set_num_threads(runtime.threads)
    recipe, size = trial.recipe, trial.data.image_size
    if isinstance(trial.design, Design):  # for others the Trainer refuses it
        recipe = recipe.with_(progressive_resizing="off")
    with native.use_image_kernels(runtime.kernels):
        trainer = Trainer(replace(trial, recipe=recipe), images, runtime, together=together)
        times: list[float] = []
        own: list[float] = []  # seconds of the processor, of each step
        before, used = time.perf_counter(), time.thread_time()
        for pixels, labels in trainer.batches.iterate(0, min(steps, trainer.total_steps)):
            float(trainer.train_step(pixels, labels))
            now = time.perf_counter()
            times.append(now - before)
            own.append(time.thread_time() - used)
            before, used = now, used + own[-1]
            if sum(times[1:]) > PROBE_SECONDS and not trainer.together:
                break
        alone = trainer.device.type == "cpu" and not runtime.workers  # this thread waits for nothing of ours
        waited = max(0.0, 1 - sum(own[1:]) / sum(times[1:])) if alone and len(times) > 1 else 0.0
        pixels, labels = next(iter(batches_to_test(trainer.trial, images.test)))
        for _ in range(2):  # the first may build kernels, too
            before = time.perf_counter()
            measured(trainer.task, trainer.model, [trainer.task.test_batch(pixels, labels)])
            test_seconds = time.perf_counter() - before
    tests = runtime.evaluations * len(batches_to_test(trial, images.test, count=processes.count()))
    return Speed(
        statistics.median(times[2:] or times[1:] or times) * relative_cost(trial.recipe, size, trainer.stride),
        test_seconds * tests,
        trainer.total_steps,
        waited=waited,
    )


def measure(prepared: Prepared, runtime: Runtime) -> Estimate:
    """Time a few steps; where a batch does not fit memory, halve it until it does. With batch norm the parts would
    change the result, so the choice is left to the user. Raises ``OutOfMemory`` where a part of one image does not fit,
    or the network has batch norm."""
    trial = prepared.trial
    several, fsdp = processes.count() > 1, runtime.distributed == "fsdp"  # fsdp's processes compute nothing alone
    batch = trial.recipe.batch_size
    most = max(1, batch // processes.count())
    parts = asked = max(runtime.accumulation, trial.accumulation)
    if parts > most:
        raise RequestError(
            f"--accumulation {parts} cuts a batch of {batch} into more parts than it has images: give at most {most}"
        )
    while True:
        try:
            speed = probe(trial, prepared.images, replace(runtime, accumulation=parts), steps=6, together=fsdp)
            break
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        if parts >= most:
            raise OutOfMemory("even one image at a time does not fit in memory: give a smaller --image-size or model")
        more = min(2 * parts, most)
        if prepared.parts_matter:
            sees = "batch norm then sees" if prepared.uses_batch_norm else "the losses are then averaged over"
            raise OutOfMemory(
                f"a batch of {batch} in {asked} micro-batch{'es' if asked > 1 else ''} does not fit in memory: "
                f"--accumulation {more} needs less, but is a different run, as {sees} smaller micro-batches"
            )
        if fsdp and several:
            raise OutOfMemory(
                f"a batch in {parts} micro-batches does not fit in memory: try --accumulation {more}, or more processes"
            )
        parts = more
        if runtime.device.startswith("cuda"):
            torch.cuda.empty_cache()
    (parts,) = map(int, processes.largest([parts]))
    waited = speed.waited  # for other programs; below, also for the other processes
    if several and not fsdp:  # only now, as one whose memory did not suffice would have left the others waiting
        speed = probe(trial, prepared.images, replace(runtime, accumulation=parts), steps=6, together=True)
    memory = peak_memory_mib() or 0
    if runtime.device.startswith("cuda"):
        memory = torch.cuda.max_memory_allocated(runtime.device) // 2**20
    step, tests, most_memory, waited = processes.largest([speed.step_seconds, speed.test_seconds, memory, waited])
    return Estimate(step, tests, speed.total_steps, batch / step, int(most_memory), parts, waited=waited)


@dataclass(frozen=True)
class Plan:
    """What ``--minutes`` decides."""

    epochs: int
    image_size: int | None = None
    """None keeps what a ``Preparation`` has; so does ``precision``."""
    precision: str | None = None

    def __post_init__(self) -> None:
        sizes = [self.epochs] if self.image_size is None else [self.epochs, self.image_size]
        precisions = (None, *get_args(Precision))
        if any(type(number) is not int or number < 1 for number in sizes) or self.precision not in precisions:
            raise ValueError(f"no plan of a training: {self}")


def plan_for(minutes: float, began: float, preparation: Preparation, runtime: Runtime) -> Plan:
    """Epochs that fill ``minutes`` here, at a precision that is fast, with images that are small enough; the image size
    of ``preparation`` is kept where it is fixed or ``WANTED_EPOCHS`` fit. The minutes count from ``began``, a reading
    of ``time.monotonic``, less what measuring takes. Raises ``RequestError`` where not one epoch fits."""
    prepared = preparation.fitted_to(FIRST_GUESS)
    found = measure(prepared, runtime)
    if fast_bfloat16(runtime.device) and preparation.recipe.precision == "fp32" and not preparation.fixed_precision:
        shorter = preparation.planned(precision="bf16")
        other = measure(shorter.fitted_to(FIRST_GUESS), runtime)
        if other.step_seconds < FASTER * found.step_seconds:
            preparation, found = shorter, other
    for last in (False, True):
        per_epoch = found.step_seconds * prepared.steps_per_epoch
        (spent,) = processes.largest([time.monotonic() - began])
        exact = ((60 * minutes - spent) * PLANNED_SHARE - found.test_seconds) / per_epoch
        if last:
            break
        size, dense = preparation.image_size, preparation.canvas is not None
        seen = min(MOST_WANTED_EPOCHS, WANTED_IMAGES / len(preparation.images.train))
        wanted = max(WANTED_EPOCHS, WANTED_STEPS / prepared.steps_per_epoch if dense else seen)
        least = max(SMALLEST_SIDE, size / 2 if dense else 0)
        if not preparation.fixed_size and exact < wanted and size > least:
            side = max(size * math.sqrt(max(exact, 0) / wanted), least)  # a step's time goes with the pixels
            preparation = preparation.planned(min(size, round(side / SIZE_STEP) * SIZE_STEP))
            exact *= (size / preparation.image_size) ** 2
        # The batch is fitted to the epochs, and so is the time of one.
        prepared = preparation.fitted_to(min(max(math.floor(exact), 1), 10**6))
        found = measure(prepared, runtime)
    if exact < 1:
        smaller = "or " if prepared.request.scale == "tiny" else "a smaller --scale or "
        raise RequestError(
            f"one epoch takes about {(spent + per_epoch + found.test_seconds) / 60:.1f} minutes here, more than "
            f"--minutes {minutes:g}: give more minutes, {smaller}a smaller --image-size"
        )
    return Plan(min(math.floor(exact), 10**6), preparation.image_size, preparation.recipe.precision)
