"""The trainer: one function that runs a Trial to its result, and continues where a killed run stopped.

Several processes run it in step (``processes``): each computes its share of every batch, all see the same loss and stop
together, and the first one writes. What a step is stands in ``training.py``.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextify.data import Images, TestBatches
from nextify.data.errors import some
from nextify.evaluation.accuracy import Accuracy, accuracy
from nextify.evaluation.inference import Inference
from nextify.paper.design import Design
from nextify.system import processes
from nextify.training.records import Entry, Records, Warn, to_stderr
from nextify.training.schedule import learning_rate, relative_cost
from nextify.training.tracking import Tracker
from nextify.training.trainer import TEST_BATCH, Training
from nextify.training.trial import Runtime, Trial

WARM_UP_STEPS = 3
"""Steps left out of the speed, which the first calls' allocations and kernel choices would spoil."""
CHECK_EVERY = 20
"""Steps between two looks at the loss; each look waits for the device."""
AGREE_EVERY = 5
"""Steps between two times that several processes ask each other whether to stop or to save."""


class TrainingStopped(RuntimeError):
    """The training was asked to stop; its checkpoint is saved, and the same training goes on from there."""


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number; the message says where and what to try."""


class TrainingOutOfMemory(RuntimeError):
    """The memory ran out in the middle of a training; the message says how to go on."""


@dataclass
class Result:
    """What a training gave."""

    top1: float
    """Of the final (averaged, where the recipe averages) weights on the test images, percent."""
    top5: float
    test_images: int
    final_train_loss: float
    """Mean over the last epoch."""
    seconds: float
    """Time spent training and evaluating, over all its runs."""
    images_per_second: float
    """Batch size over the median time of a step: forward, backward, update and the preparation of the batch."""
    curve: list[Entry] = field(default_factory=list)
    """One entry an epoch: epoch, train_loss, learning_rate, test_top1 (None where it was not measured)."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


Progress = Callable[[dict[str, Any]], None]


def train(
    trial: Trial,
    images: Images,
    runtime: Runtime,
    folder: Path | None = None,
    progress: Progress | None = None,
    *,
    start: Mapping[str, Tensor] | None = None,
    keep: Callable[[dict[str, Tensor], Result], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    trackers: Callable[[int], list[Tracker]] | None = None,
    warn: Warn = to_stderr,
) -> Result:
    """Run a trial to its end.

    Args:
        folder: holds the checkpoint while the training runs and the log (``log.jsonl``, one line an epoch); a
            checkpoint found there is continued. None keeps nothing.
        progress: called after steps with ``{"step", "total_steps", "images_per_second"}``, a few times a second at
            most.
        start: weights to begin with, in our names; ``trial.start`` must be their digest. What they lack (a new
            classifier) stays as the seed draws it.
        keep: called at the end, in the first process, with the weights of the result, before the checkpoint is removed.
        should_stop: asked after a step; True, in any process, saves a checkpoint and raises ``TrainingStopped``.
        trackers: called in the first process with the steps that are done already.
        warn: told of a record that could not be written; the training goes on.

    Raises:
        TrainingStopped: ``should_stop`` said so.
        TrainingDiverged: the loss became NaN or infinite; the last good checkpoint stays.
        TrainingOutOfMemory: likewise.
    """
    torch.set_num_threads(runtime.threads)
    records = Records(folder if processes.is_first() else None, warn)
    try:
        run = Training(trial, images, runtime, start)
        state = processes.from_first(lambda: records.load(trial.fingerprint))
        if state is not None:
            run.load_state(state)
        records.whole_log(run.curve)
        if trackers is not None:
            processes.from_first(lambda: records.track(trackers(run.step)))
        final = _run(run, records, progress, should_stop)
    except (TrainingStopped, TrainingDiverged):
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingOutOfMemory(_less_memory(trial, runtime)) from error
    finally:
        records.close()
    records.whole_log(run.curve)  # in case a full disk had cost a line
    last_loss = run.curve[-1]["train_loss"]
    assert last_loss is not None
    result = Result(
        final.top1, final.top5, final.images, last_loss, round(run.seconds, 2), round(_speed(run), 1), run.curve
    )
    weights = run.kept_weights()

    def finish() -> None:
        if keep is not None:
            keep(weights, result)
        records.remove_checkpoint()

    processes.from_first(finish)
    return result


def _run(
    run: Training, records: Records, progress: Progress | None, should_stop: Callable[[], bool] | None
) -> Accuracy:
    """All steps that are left; the accuracy of the final weights."""
    trial, runtime = run.trial, run.runtime
    epochs = trial.recipe.epochs
    measured = {math.ceil(epochs * (i + 1) / runtime.evaluations) for i in range(runtime.evaluations)}
    saved_at = shown_at = before = time.perf_counter()
    pending: list[Tensor] = []
    final: Accuracy | None = None
    folderless = records.folder is None

    def look() -> None:
        if pending:
            run.epoch_loss += _checked(pending, run, records)
            pending.clear()

    for pixels, labels in run.batches.iterate(run.step, run.total_steps):
        pending.append(run.train_step(pixels, labels))
        end_of_epoch = run.step % run.steps_per_epoch == 0
        if end_of_epoch or len(pending) >= CHECK_EVERY or run.device.type == "cpu":
            look()
        now = time.perf_counter()
        run.step_seconds.append(now - before)
        run.seconds += now - before
        before = now
        if end_of_epoch:
            epoch = run.step // run.steps_per_epoch
            final = run.evaluate() if epoch in measured else None
            records.epoch(_end_epoch(run, epoch, final), run.step)
            run.seconds += time.perf_counter() - before
        now = time.perf_counter()
        if progress is not None and now - shown_at > 0.3:
            shown_at = now
            progress({"step": run.step, "total_steps": run.total_steps, "images_per_second": _speed(run)})
        if run.step < run.total_steps and (processes.count() == 1 or run.step % AGREE_EVERY == 0):
            due = records.folder is not None and now - saved_at > runtime.checkpoint_seconds
            stop, save = processes.largest([should_stop is not None and should_stop(), due])
            if stop or save:
                look()
                saved = records.save(run.state())
                saved_at = time.perf_counter()
            if stop:
                how = "" if saved or folderless else ", which could not be saved: the checkpoint before is kept"
                raise TrainingStopped(f"stopped at step {run.step:,} of {run.total_steps:,}{how}")
        before = time.perf_counter()
    return final or run.evaluate()


def _end_epoch(run: Training, epoch: int, test: Accuracy | None) -> Entry:
    entry: Entry = {
        "epoch": epoch,
        "train_loss": run.epoch_loss / run.steps_per_epoch,
        "learning_rate": learning_rate(run.trial.recipe, run.step - 1, run.steps_per_epoch),
        "test_top1": None if test is None else test.top1,
    }
    run.curve.append(entry)
    run.epoch_loss = 0.0
    return entry


def _checked(shares: list[Tensor], run: Training, records: Records) -> float:
    """The sum of the last steps' losses, of which each process has its shares. Raises ``TrainingDiverged``."""
    losses = processes.summed(torch.stack(shares))
    total = float(losses.sum())
    if math.isfinite(total):
        return total
    first = int((~losses.isfinite()).int().argmax())
    step = run.step - len(losses) + first
    rate = learning_rate(run.trial.recipe, step, run.steps_per_epoch)
    names = [run.images.train.name(int(i)) for i in run.batches.indices(step)]
    raise TrainingDiverged(
        f"the loss is {float(losses[first])} at step {step + 1} of {run.total_steps} (learning rate {rate:.3g}); "
        f"try a lower learning rate, gradient_clip=1.0 or fp32; the batch was {some(names)}; the last good checkpoint "
        f"is {_last_good(records)}"
    )


def _last_good(records: Records) -> str:
    return "none yet, the beginning" if records.last_good is None else str(records.last_good)


def _less_memory(trial: Trial, runtime: Runtime) -> str:
    parts = 2 * runtime.accumulation
    if parts > trial.recipe.batch_size // processes.count():
        return "the memory ran out: take a smaller model or image size, or end other programs on this machine"
    return (
        f"the memory ran out: the same command with --accumulation {parts} needs less of it, and goes on from the "
        f"last checkpoint"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that a device's or the machine's memory is used up."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def _speed(run: Training) -> float:
    steady = run.step_seconds[WARM_UP_STEPS:] or run.step_seconds
    return run.trial.recipe.batch_size / statistics.median(steady) if steady else 0.0


PROBE_SECONDS = 3.0
"""A probe takes no further step once it has run this long, the first step aside: that one may build kernels."""


def probe(trial: Trial, images: Images, runtime: Runtime, steps: int = 8) -> dict[str, float]:
    """``step_seconds`` (median), ``test_seconds`` (all evaluations) and ``total_steps``, measured in a few steps and
    one batch of test images; nothing is kept.

    Of several processes each measures its own share, without waiting for the others in each step, so that one may
    find that its memory does not suffice; but for ``fsdp``, where none can compute without the others.
    """
    torch.set_num_threads(runtime.threads)
    together = runtime.distributed == "fsdp"
    recipe, size = trial.recipe, trial.data.image_size
    if isinstance(trial.design, Design):  # what others make of it is for Training to say
        recipe = recipe.with_(progressive_resizing="off")
    run = Training(replace(trial, recipe=recipe), images, runtime, together=together)
    times: list[float] = []
    before = time.perf_counter()
    for pixels, labels in run.batches.iterate(0, min(steps, run.total_steps)):
        float(run.train_step(pixels, labels))
        now = time.perf_counter()
        times.append(now - before)
        before = now
        if sum(times[1:]) > PROBE_SECONDS and not run.together:
            break
    pixels, labels = next(iter(TestBatches(images.test, recipe, size, TEST_BATCH)))
    before = time.perf_counter()
    accuracy(run.model, [run.prepared_test_batch(pixels, labels)], Inference.of(recipe))
    test_batch_seconds = time.perf_counter() - before
    return {
        "step_seconds": statistics.median(times[2:] or times[1:] or times)
        * relative_cost(trial.recipe, size, run.stride),
        "test_seconds": test_batch_seconds
        * runtime.evaluations
        * math.ceil(len(images.test) / (TEST_BATCH * processes.count())),
        "total_steps": run.total_steps,
    }
