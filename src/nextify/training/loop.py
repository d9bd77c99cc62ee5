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
    return _Loop(trainer, records, on_progress, should_stop, on_epoch).run()


class _Loop:
    """The steps that are left of a training, and what is due between them."""

    def __init__(
        self,
        trainer: Trainer,
        records: Records,
        on_progress: OnProgress | None,
        should_stop: ShouldStop | None,
        on_epoch: OnEpoch | None,
    ) -> None:
        self.trainer, self.records = trainer, records
        self.on_progress, self.should_stop, self.on_epoch = on_progress, should_stop, on_epoch
        epochs, evaluations = trainer.trial.recipe.epochs, trainer.runtime.evaluations
        self.measured = {math.ceil(epochs * (i + 1) / evaluations) for i in range(evaluations)}
        """Epochs after which the test images are measured."""
        self.pending: list[Tensor] = []
        """Losses that have not been read yet."""
        self.final: Metrics | None = None
        self.saved_at = self.shown_at = self.before = time.perf_counter()

    def run(self) -> Metrics:
        trainer = self.trainer
        if trainer.step // trainer.steps_per_epoch > len(trainer.curve):  # stopped while the test images were measured
            self.end_epoch()
        for pixels, labels in self.batches():
            self.pending.append(trainer.train_step(pixels, labels))
            end_of_epoch = trainer.step % trainer.steps_per_epoch == 0
            if end_of_epoch or len(self.pending) >= CHECK_EVERY or trainer.device.type == "cpu":
                self.look()
            now = time.perf_counter()
            trainer.step_seconds.append(now - self.before)
            trainer.seconds += now - self.before
            self.before = now
            if end_of_epoch:
                self.end_epoch()
            elif now - self.shown_at > SHOW_SECONDS:
                self.show()
            self.save_or_stop()
            self.before = time.perf_counter()
        return self.final or trainer.evaluate()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        trainer = self.trainer
        try:
            yield from trainer.batches.iterate(trainer.step, trainer.total_steps)
        except DataError as error:
            self.look()
            if processes.count() > 1 or not self.records.save(trainer.state()):
                raise
            raise DataError(f"{error}; the training is saved and resumes from step {trainer.step:,}") from None

    def look(self) -> None:
        """Read the losses that are pending."""
        if self.pending:
            self.trainer.epoch_loss += _checked(self.pending, self.trainer, self.records)
            self.pending.clear()

    def show(self, entry: Entry | None = None) -> None:
        self.shown_at, trainer = time.perf_counter(), self.trainer
        if self.on_progress is not None:
            self.on_progress(Progress(trainer.step, trainer.total_steps, speed(trainer), entry))

    def end_epoch(self) -> None:
        trainer = self.trainer
        due = trainer.step // trainer.steps_per_epoch in self.measured
        self.final = trainer.evaluate(self.stop_if_asked) if due else None
        entry = _end_epoch(trainer, self.final)
        self.records.epoch(entry, trainer.step)
        if self.on_epoch is not None and processes.is_first():
            self.on_epoch(trainer)
        trainer.seconds += time.perf_counter() - self.before
        self.show(entry)
        self.before = time.perf_counter()

    def save_or_stop(self) -> None:
        """Save a checkpoint where one is due, and stop where that was asked for; several processes agree on both."""
        trainer, now = self.trainer, time.perf_counter()
        last = trainer.step == trainer.total_steps
        if last or (processes.count() > 1 and trainer.step % AGREE_EVERY):
            return
        due = self.records.folder is not None and now - self.saved_at > trainer.runtime.checkpoint_seconds
        asked, save = processes.largest([self.should_stop is not None and self.should_stop(), due])
        if asked or save:
            self.look()
        if asked:
            self.stop()
        if save:
            self.records.save(trainer.state())
            self.saved_at = time.perf_counter()

    def stop_if_asked(self) -> None:
        if processes.count() == 1 and self.should_stop is not None and self.should_stop():
            self.stop()

    def stop(self) -> NoReturn:
        trainer = self.trainer
        unsaved = not self.records.save(trainer.state()) and self.records.folder is not None
        how = "; this step could not be saved, so the previous checkpoint is kept" if unsaved else ""
        raise TrainingStopped(f"stopped at step {trainer.step:,} of {trainer.total_steps:,}{how}")


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
