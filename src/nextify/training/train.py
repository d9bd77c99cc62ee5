"""The trainer: one function that runs a Trial to its result, and continues where a killed run stopped.

Everything random is a function of (seed, step): the data's order and augmentation, mixing, erasing, and the dropped
paths. So a resumed training equals an undisturbed one bit for bit on the CPU, and two designs trained with one seed
see the same images in the same order with the same augmentation (the pairing that a study's statistics rest on).
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nextify.data import Images, TestBatches, TrainBatches, finish
from nextify.data.errors import some
from nextify.evaluation.accuracy import Accuracy, accuracy
from nextify.files import write_text_atomic
from nextify.foreign import build, classifier
from nextify.nn.network import ConvNet
from nextify.training.checkpoint import load_checkpoint, remove_checkpoint, save_checkpoint
from nextify.training.optimizer import build_optimizers, set_learning_rate
from nextify.training.schedule import learning_rate
from nextify.training.trial import Runtime, Trial

WARM_UP_STEPS = 3
"""Steps left out of the speed, which the first calls' allocations and kernel choices would spoil."""
CHECK_EVERY = 20
"""Steps between two looks at the loss; each look waits for the device."""
TEST_BATCH = 256


class TrainingStopped(RuntimeError):
    """The training was asked to stop; its checkpoint is saved, and the same training goes on from there."""


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number; the message says where and what to try."""


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
    curve: list[dict[str, float | int | None]] = field(default_factory=list)
    """One entry an epoch: epoch, train_loss, learning_rate, test_top1 (None where it was not measured)."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


Progress = Callable[[dict[str, Any]], None]


class Training:
    """The state of one training: model, optimizer, averages, position."""

    def __init__(
        self, trial: Trial, images: Images, runtime: Runtime, start: Mapping[str, Tensor] | None = None
    ) -> None:
        self.trial, self.images, self.runtime = trial, images, runtime
        recipe = trial.recipe
        self.device = torch.device(runtime.device)
        torch.manual_seed(trial.seed)
        model = build(trial.design, trial.data.num_classes, recipe.stochastic_depth)
        with torch.no_grad():
            for parameter in list(classifier(model).parameters())[:1]:  # the weight
                parameter.mul_(recipe.head_init_scale)
        if start is not None:
            _begin_with(model, start)
        self.class_weights: Tensor | None = None
        if recipe.class_balance == "loss":
            self.class_weights = class_weights(images.train.labels, trial.data.num_classes).to(self.device)
        self.frozen: list[nn.Module] = []
        if trial.frozen_stages:
            if not isinstance(model, ConvNet):
                raise ValueError("only networks of ours have stages that can be frozen: leave frozen_stages at 0")
            self.frozen = [model.stem, *list(model.stages)[: trial.frozen_stages]]
        for module in self.frozen:
            module.requires_grad_(False)
        self.model: nn.Module = model.to(self.device)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.model) if runtime.compile else self.model
        self.optimizers = build_optimizers(self.model, recipe)
        self.average: AveragedModel | None = None
        if recipe.ema != "off":
            averaging = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.model, multi_avg_fn=averaging, use_buffers=True)
        self.batches = TrainBatches(images.train, recipe, trial.data.image_size, trial.seed, workers=runtime.workers)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = recipe.epochs * self.steps_per_epoch
        self.step = 0
        self.epoch_loss = 0.0  # summed over the epoch's steps so far
        self.curve: list[dict[str, float | int | None]] = []
        self.seconds = 0.0
        self.step_seconds: list[float] = []

    # -- one step ------------------------------------------------------------------------------------------------

    def train_step(self, pixels: Any, labels: Any) -> Tensor:
        """One optimizer step on uint8 ``pixels (N, H, W, 3)`` and ``labels (N,)``; the loss, detached."""
        trial, recipe = self.trial, self.trial.recipe
        x, targets = finish(
            pixels,
            labels,
            recipe,
            trial.data.num_classes,
            self.step,
            trial.seed,
            self.device,
            trial.data.mean,
            trial.data.std,
        )
        torch.manual_seed((trial.seed << 32) + self.step)
        set_learning_rate(self.optimizers, learning_rate(recipe, self.step, self.steps_per_epoch))
        self.model.train()
        for module in self.frozen:
            module.eval()  # running statistics and dropped paths too
        parts = self.runtime.accumulation
        total = torch.zeros((), device=self.device)
        for part_x, part_y in zip(x.chunk(parts), targets.chunk(parts), strict=True):
            with self._autocast():
                logits = self.forward(part_x).float()
                if self.class_weights is None:
                    loss = F.cross_entropy(logits, part_y) * (len(part_x) / len(x))
                else:  # summed by hand, as a weighted mean would divide by each part's weights
                    loss = F.cross_entropy(logits, part_y, self.class_weights, reduction="none").sum() / len(x)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if recipe.gradient_clip != "off":
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.gradient_clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.step += 1
        return total

    def _autocast(self) -> Any:
        bf16 = self.trial.recipe.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()

    def evaluate(self) -> Accuracy:
        """Accuracy of the weights as they would be kept now: the averaged ones where the recipe averages."""
        recipe = self.trial.recipe
        tests = TestBatches(self.images.test, recipe, self.trial.data.image_size, TEST_BATCH)
        kept = self.kept()
        batches = (self.prepared_test_batch(pixels, labels) for pixels, labels in tests)
        return accuracy(kept, batches, bf16=recipe.precision == "bf16")

    def kept(self) -> nn.Module:
        """The network whose weights are the result: the averaged one where the recipe averages."""
        return self.model if self.average is None else self.average.module

    def prepared_test_batch(self, pixels: Any, labels: Any) -> tuple[Tensor, Tensor]:
        """uint8 ``pixels (N, H, W, 3)`` to normalized ``(N, 3, H, W)`` images on the device."""
        data = self.trial.data
        recipe, device = self.trial.recipe, self.device
        return finish(pixels, labels, recipe, data.num_classes, 0, 0, device, data.mean, data.std, train=False)

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "fingerprint": self.trial.fingerprint,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": None if self.average is None else self.average.state_dict(),
            "step": self.step,
            "epoch_loss": self.epoch_loss,
            "curve": self.curve,
            "seconds": self.seconds,
            "step_seconds": self.step_seconds[-200:],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step = state["step"]
        self.epoch_loss = state["epoch_loss"]
        self.curve = state["curve"]
        self.seconds = state["seconds"]
        self.step_seconds = state["step_seconds"]


def train(
    trial: Trial,
    images: Images,
    runtime: Runtime,
    folder: Path | None = None,
    progress: Progress | None = None,
    *,
    start: Mapping[str, Tensor] | None = None,
    keep: Callable[[nn.Module, Result], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Result:
    """Run a trial to its end.

    Args:
        folder: holds the checkpoint while the training runs and the log (``log.jsonl``, one line an epoch); a
            checkpoint found there is continued. None keeps nothing.
        progress: called after steps with ``{"step", "total_steps", "loss", "images_per_second"}``, a few times a
            second at most.
        start: weights to begin with, in our names; ``trial.start`` must be their digest. What they lack (a new
            classifier) stays as the seed draws it.
        keep: called at the end with the network of the result, before the checkpoint is removed.
        should_stop: asked after each step; True saves a checkpoint and raises ``TrainingStopped``.

    Raises:
        TrainingStopped: ``should_stop`` said so.
        TrainingDiverged: the loss became NaN or infinite; the last good checkpoint stays.
        OSError: a file could not be written, a full disk for one; the checkpoint before stays whole.
    """
    torch.set_num_threads(runtime.threads)
    run = Training(trial, images, runtime, start)
    checkpoint = None if folder is None else folder / "checkpoint.pt"
    if checkpoint is not None:
        state = load_checkpoint(checkpoint)
        if state is not None and state["fingerprint"] == trial.fingerprint:
            run.load_state(state)
        _restart_log(checkpoint.with_name("log.jsonl"), run.curve)
    epochs = trial.recipe.epochs
    measured = {math.ceil(epochs * (i + 1) / runtime.evaluations) for i in range(runtime.evaluations)} - {epochs}
    saved_at = shown_at = before = time.perf_counter()
    pending: list[Tensor] = []
    final: Accuracy | None = None
    for pixels, labels in run.batches.iterate(run.step, run.total_steps):
        pending.append(run.train_step(pixels, labels))
        end_of_epoch = run.step % run.steps_per_epoch == 0
        if end_of_epoch or len(pending) >= CHECK_EVERY or runtime.device == "cpu":
            run.epoch_loss += _checked(pending, run)
            pending.clear()
        now = time.perf_counter()
        run.step_seconds.append(now - before)
        run.seconds += now - before
        before = now
        if end_of_epoch:
            epoch = run.step // run.steps_per_epoch
            test = run.evaluate() if epoch in measured or epoch == epochs else None
            final = test if epoch == epochs else None
            entry: dict[str, float | int | None] = {
                "epoch": epoch,
                "train_loss": run.epoch_loss / run.steps_per_epoch,
                "learning_rate": learning_rate(trial.recipe, run.step - 1, run.steps_per_epoch),
                "test_top1": None if test is None else test.top1,
            }
            run.curve.append(entry)
            run.epoch_loss = 0.0
            if folder is not None:
                _append_log(folder / "log.jsonl", entry)
            run.seconds += time.perf_counter() - before
        now = time.perf_counter()
        if progress is not None and now - shown_at > 0.3:
            shown_at = now
            progress({"step": run.step, "total_steps": run.total_steps, "images_per_second": _speed(run)})
        if checkpoint is not None and not pending and now - saved_at > runtime.checkpoint_seconds:
            save_checkpoint(checkpoint, run.state())
            saved_at = time.perf_counter()
        if should_stop is not None and should_stop() and run.step < run.total_steps:
            if checkpoint is not None:
                run.epoch_loss += _checked(pending, run) if pending else 0.0
                save_checkpoint(checkpoint, run.state())
            raise TrainingStopped(f"stopped at step {run.step:,} of {run.total_steps:,}")
        before = time.perf_counter()
    final = final or run.evaluate()
    last_loss = run.curve[-1]["train_loss"]
    assert last_loss is not None
    result = Result(
        final.top1, final.top5, final.images, last_loss, round(run.seconds, 2), round(_speed(run), 1), run.curve
    )
    if keep is not None:
        keep(run.kept(), result)
    if checkpoint is not None:
        remove_checkpoint(checkpoint)
    return result


def class_weights(labels: Any, num_classes: int) -> Tensor:
    """``(K,)``: inversely proportional to each class's images, 1 on average over the images ``labels (N,)``."""
    counts = np.bincount(labels, minlength=num_classes)
    present = np.count_nonzero(counts)
    return torch.tensor(len(labels) / (present * np.maximum(counts, 1)), dtype=torch.float32)


def _begin_with(model: nn.Module, start: Mapping[str, Tensor]) -> None:
    """Put weights into a network; only its classifier may be missing among them."""
    missing, unexpected = model.load_state_dict(dict(start), strict=False)
    missing = [name for name in missing if not name.startswith("head.classifier.")]
    if missing or unexpected:
        raise ValueError(f"the weights to start from do not fit the design: {', '.join([*missing, *unexpected][:5])}")


def _checked(losses: list[Tensor], run: Training) -> float:
    stacked = torch.stack(losses)
    total = float(stacked.sum())
    if math.isfinite(total):
        return total
    first = int((~stacked.isfinite()).int().argmax())
    step = run.step - len(losses) + first
    rate = learning_rate(run.trial.recipe, step, run.steps_per_epoch)
    names = [run.images.train.name(int(i)) for i in run.batches.indices(step)]
    raise TrainingDiverged(
        f"the loss is {float(stacked[first])} at step {step + 1} of {run.total_steps} (learning rate {rate:.3g}); "
        f"try a lower learning rate, gradient_clip=1.0 or fp32; the batch was {some(names)}"
    )


def _speed(run: Training) -> float:
    steady = run.step_seconds[WARM_UP_STEPS:] or run.step_seconds
    return run.trial.recipe.batch_size / statistics.median(steady) if steady else 0.0


def _restart_log(path: Path, curve: list[dict[str, float | int | None]]) -> None:
    """The log as the checkpoint knows it: an epoch that is trained again must not stand there twice."""
    if path.exists():
        write_text_atomic(path, "".join(json.dumps(entry) + "\n" for entry in curve))


def _append_log(path: Path, entry: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


PROBE_SECONDS = 3.0
"""A probe takes no further step once it has run this long, the first step aside: that one may build kernels."""


def probe(trial: Trial, images: Images, runtime: Runtime, steps: int = 8) -> dict[str, float]:
    """``step_seconds`` (median), ``test_seconds`` (all evaluations) and ``total_steps``, measured in a few steps and
    one batch of test images; nothing is kept."""
    torch.set_num_threads(runtime.threads)
    run = Training(trial, images, runtime)
    times: list[float] = []
    before = time.perf_counter()
    for pixels, labels in run.batches.iterate(0, min(steps, run.total_steps)):
        float(run.train_step(pixels, labels))
        now = time.perf_counter()
        times.append(now - before)
        before = now
        if sum(times[1:]) > PROBE_SECONDS:
            break
    pixels, labels = next(iter(TestBatches(images.test, trial.recipe, trial.data.image_size, TEST_BATCH)))
    before = time.perf_counter()
    accuracy(run.model, [run.prepared_test_batch(pixels, labels)])
    test_batch_seconds = time.perf_counter() - before
    return {
        "step_seconds": statistics.median(times[2:] or times[1:] or times),
        "test_seconds": test_batch_seconds * runtime.evaluations * math.ceil(len(images.test) / TEST_BATCH),
        "total_steps": run.total_steps,
    }
