"""The loop over a training's steps, which decides when to read the loss, test, save and stop.

Several processes run it in step (``processes``): each computes its share of every batch, all see the same loss and stop
together, and the first one writes.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from nextify.data import DataError
from nextify.system import processes
from nextify.system.text import some
from nextify.tasks.task import Metrics
from nextify.training.records import Entry, Records
from nextify.training.schedule import learning_rate
from nextify.training.trainer import Trainer

WARM_UP_STEPS = 3
"""Steps left out of the speed, as they include first allocations and the choice of kernels."""
CHECK_EVERY = 20
"""Steps between readings of the loss, each of which waits for the device."""
AGREE_EVERY = 5
"""Steps after which several processes agree on whether to stop or to save."""
SHOW_SECONDS = 0.3
"""Shortest time between two reports of progress within an epoch."""


class TrainingStopped(RuntimeError):
    """The training was asked to stop; its checkpoint is saved, and the same training goes on from there."""


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite; the message says where and what to try."""


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    step: int
    total_steps: int
    images_per_second: float
    entry: Entry | None = None
    """The epoch's, where one has just ended."""


OnProgress = Callable[[Progress], None]
ShouldStop = Callable[[], bool]
OnEpoch = Callable[[Trainer], None]


def run_steps(
    trainer: Trainer,
    records: Records,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    on_epoch: OnEpoch | None = None,
) -> Metrics:
    """Take all steps that are left, and return the metrics of the final weights.

    Args:
        on_epoch: called by the first process after each epoch; it must leave the training as it is.

    Raises:
        TrainingStopped: ``should_stop`` returned True in any process; a checkpoint is saved.
        TrainingDiverged: the loss became NaN or infinite; the last good checkpoint stays.
        DataError: an image cannot be read; a checkpoint is saved.
    """
    runtime, epochs = trainer.runtime, trainer.trial.recipe.epochs
    measured = {math.ceil(epochs * (i + 1) / runtime.evaluations) for i in range(runtime.evaluations)}
    saved_at = shown_at = before = time.perf_counter()
    pending: list[Tensor] = []
    final: Metrics | None = None

    def look() -> None:
        if pending:
            trainer.epoch_loss += _checked(pending, trainer, records)
            pending.clear()

    def stop() -> NoReturn:
        unsaved = not records.save(trainer.state()) and records.folder is not None
        how = "; this step could not be saved, so the previous checkpoint is kept" if unsaved else ""
        raise TrainingStopped(f"stopped at step {trainer.step:,} of {trainer.total_steps:,}{how}")

    def stop_if_asked() -> None:
        if processes.count() == 1 and should_stop is not None and should_stop():
            stop()

    def show(entry: Entry | None = None) -> None:
        nonlocal shown_at
        shown_at = time.perf_counter()
        if on_progress is not None:
            on_progress(Progress(trainer.step, trainer.total_steps, speed(trainer), entry))

    def end_epoch() -> None:
        nonlocal final, before
        due = trainer.step // trainer.steps_per_epoch in measured
        final = trainer.evaluate(stop_if_asked) if due else None
        entry = _end_epoch(trainer, final)
        records.epoch(entry, trainer.step)
        if on_epoch is not None and processes.is_first():
            on_epoch(trainer)
        trainer.seconds += time.perf_counter() - before
        show(entry)
        before = time.perf_counter()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        try:
            yield from trainer.batches.iterate(trainer.step, trainer.total_steps)
        except DataError as error:
            look()
            if processes.count() > 1 or not records.save(trainer.state()):
                raise
            raise DataError(f"{error}; the training is saved and resumes from step {trainer.step:,}") from None

    if trainer.step // trainer.steps_per_epoch > len(trainer.curve):  # stopped while the test images were measured
        end_epoch()
    for pixels, labels in batches():
        pending.append(trainer.train_step(pixels, labels))
        end_of_epoch = trainer.step % trainer.steps_per_epoch == 0
        if end_of_epoch or len(pending) >= CHECK_EVERY or trainer.device.type == "cpu":
            look()
        now = time.perf_counter()
        trainer.step_seconds.append(now - before)
        trainer.seconds += now - before
        before = now
        if end_of_epoch:
            end_epoch()
        elif now - shown_at > SHOW_SECONDS:
            show()
        now = time.perf_counter()
        if trainer.step < trainer.total_steps and (processes.count() == 1 or trainer.step % AGREE_EVERY == 0):
            due = records.folder is not None and now - saved_at > runtime.checkpoint_seconds
            asked, save = processes.largest([should_stop is not None and should_stop(), due])
            if asked or save:
                look()
            if asked:
                stop()
            if save:
                records.save(trainer.state())
                saved_at = time.perf_counter()
        before = time.perf_counter()
    return final or trainer.evaluate()


def speed(trainer: Trainer) -> float:
    """Images per second: batch size over the median time of a step, the preparation of its batch included."""
    steady = trainer.step_seconds[WARM_UP_STEPS:] or trainer.step_seconds
    return trainer.trial.recipe.batch_size / statistics.median(steady) if steady else 0.0


def _end_epoch(trainer: Trainer, test: Metrics | None) -> Entry:
    metric = trainer.task.metric_specs[0].key
    entry: Entry = {
        "epoch": trainer.step // trainer.steps_per_epoch,
        "train_loss": trainer.epoch_loss / trainer.steps_per_epoch,
        "learning_rate": learning_rate(trainer.trial.recipe, trainer.step - 1, trainer.steps_per_epoch),
        f"test_{metric}": None if test is None else test.values()[metric],
    }
    trainer.curve.append(entry)
    trainer.epoch_loss = 0.0
    return entry


def _checked(shares: list[Tensor], trainer: Trainer, records: Records) -> float:
    """The sum of the last steps' losses, of which each process has its shares. Raises ``TrainingDiverged``."""
    losses = processes.summed(torch.stack(shares))
    total = float(losses.sum())
    if math.isfinite(total):
        return total
    first = int((~losses.isfinite()).int().argmax())
    step = trainer.step - len(losses) + first
    rate = learning_rate(trainer.trial.recipe, step, trainer.steps_per_epoch)
    names = [trainer.images.train.name(int(i)) for i in trainer.batches.indices(step)]
    last_good = "none (nothing is saved yet)" if records.last_good is None else str(records.last_good)
    raise TrainingDiverged(
        f"the loss is {float(losses[first])} at step {step + 1} of {trainer.total_steps} (learning rate {rate:.3g}); "
        f"try a lower learning rate, gradient_clip=1.0 or fp32; the batch was {some(names)}; the last good checkpoint "
        f"is {last_good}"
    )
