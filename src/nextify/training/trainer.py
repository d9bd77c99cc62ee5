"""The state of one training, and one step of it.

Everything random is a function of (seed, step): the data's order and augmentation, mixing, erasing, and the dropped
paths. So a resumed training equals an undisturbed one bit for bit on the CPU, two designs trained with one seed see the
same images in the same order with the same augmentation (the pairing that a study's statistics rest on), and several
processes can each compute their share of the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nextify.data import Images, TestBatches, TrainBatches, finish
from nextify.data.share import share
from nextify.evaluation.accuracy import Accuracy, accuracy
from nextify.evaluation.inference import Inference
from nextify.networks.foreign import build, classifier
from nextify.networks.network import ConvNet
from nextify.paper.design import Design, total_stride
from nextify.system import processes
from nextify.training import distributed
from nextify.training.optimizers import build_optimizers, set_learning_rate
from nextify.training.schedule import image_side, learning_rate
from nextify.training.trial import Runtime, Trial

TEST_BATCH = 256


class Training:
    """The state of one training: model, optimizer, averages, position."""

    def __init__(
        self,
        trial: Trial,
        images: Images,
        runtime: Runtime,
        start: Mapping[str, Tensor] | None = None,
        together: bool = True,
    ) -> None:
        """
        Args:
            start: weights to begin with.
            together: False computes this process's share without waiting for the others, which measures but does not
                train.
        """
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
        if recipe.progressive_resizing != "off" and not isinstance(trial.design, Design):
            raise ValueError("progressive_resizing is known for networks of ours only: set it to off")
        self.stride = total_stride(trial.design) if isinstance(trial.design, Design) else 1
        several = processes.count() > 1
        if several and not isinstance(model, ConvNet):
            raise ValueError("networks of other libraries are trained by one process: start it without torchrun")
        self.together = several and together
        if self.together:
            distributed.synchronized(model, self.device)
        self.model: nn.Module = model.to(self.device)
        self.average: AveragedModel | None = None
        if recipe.ema != "off":
            averaging = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.model, multi_avg_fn=averaging, use_buffers=True)
        forward: nn.Module = self.model
        if self.together and runtime.distributed == "fsdp":
            for network in (self.model, *([] if self.average is None else [self.average.module])):
                distributed.cut_in_parts(network, self.device)
        elif self.together:
            forward = distributed.data_parallel(self.model)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(forward) if runtime.compile else forward
        self.optimizers = build_optimizers(self.model, recipe)
        self.share = share(recipe.batch_size, processes.rank(), processes.count()) if several else None
        self.rows = torch.arange(recipe.batch_size) if self.share is None else torch.from_numpy(self.share.rows)
        self.batches = TrainBatches(
            images.train, recipe, trial.data.image_size, trial.seed, workers=runtime.workers, share=self.share
        )
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = recipe.epochs * self.steps_per_epoch
        self.step = 0
        self.epoch_loss = 0.0  # summed over the epoch's steps so far
        self.curve: list[dict[str, float | int | None]] = []
        self.seconds = 0.0
        self.step_seconds: list[float] = []

    # -- one step ------------------------------------------------------------------------------------------------

    def train_step(self, pixels: Any, labels: Any) -> Tensor:
        """One optimizer step on uint8 ``pixels (N, H, W, 3)`` and ``labels (N,)``, this process's rows of the batch.

        Gives their part of the batch's mean loss, detached: the sum over the processes is the loss.
        """
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
            share=self.share,
        )
        side = image_side(recipe, self.step, self.total_steps, trial.data.image_size, self.stride)
        if side != x.shape[-1]:
            x = F.interpolate(x, size=side, mode="bilinear", antialias=True)
            x = x.contiguous(memory_format=torch.channels_last)
        set_learning_rate(self.optimizers, learning_rate(recipe, self.step, self.steps_per_epoch))
        self.model.train()
        for module in self.frozen:
            module.eval()  # running statistics and dropped paths too
        parts, whole = self.runtime.accumulation, recipe.batch_size
        total = torch.zeros((), device=self.device)
        split = (x.tensor_split(parts), targets.tensor_split(parts), self.rows.tensor_split(parts))
        for number, (part_x, part_y, rows) in enumerate(zip(*split, strict=True)):
            # Each part and each process draws the dropped paths of the whole batch, and so the same.
            torch.manual_seed((trial.seed << 32) + self.step)
            if len(rows) < whole:
                distributed.drops_for(self.model, rows.to(self.device), whole)
            with distributed.gradients_wait(self.forward, last=number == parts - 1):
                with self._autocast():
                    logits = self.forward(part_x).float()
                    if self.class_weights is None:
                        loss = F.cross_entropy(logits, part_y) * (len(part_x) / whole)
                    else:  # summed by hand, as a weighted mean would divide by each part's weights
                        loss = F.cross_entropy(logits, part_y, self.class_weights, reduction="none").sum() / whole
                # Times the processes, as the gradients are averaged over them.
                (loss * processes.count()).backward()  # type: ignore[no-untyped-call]
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
        place = processes.rank(), processes.count()
        tests = TestBatches(self.images.test, recipe, self.trial.data.image_size, TEST_BATCH, *place)
        kept = self.kept()
        batches = (self.prepared_test_batch(pixels, labels) for pixels, labels in tests)
        return accuracy(kept, batches, Inference.of(recipe))

    def kept(self) -> nn.Module:
        """The network whose weights are the result: the averaged one where the recipe averages."""
        return self.model if self.average is None else self.average.module

    def kept_weights(self) -> dict[str, Tensor]:
        """The weights of the result, whole; every process must call this."""
        return distributed.whole(self.kept().state_dict())  # type: ignore[no-any-return]

    def prepared_test_batch(self, pixels: Any, labels: Any) -> tuple[Tensor, Tensor]:
        """uint8 ``pixels (N, H, W, 3)`` to normalized ``(N, 3, H, W)`` images on the device."""
        data = self.trial.data
        recipe, device = self.trial.recipe, self.device
        return finish(pixels, labels, recipe, data.num_classes, 0, 0, device, data.mean, data.std, train=False)

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs, whole however many processes there are; every process must call this."""
        return {
            "fingerprint": self.trial.fingerprint,
            "model": distributed.whole(self.model.state_dict()),
            "optimizers": [distributed.whole(optimizer.state_dict()) for optimizer in self.optimizers],
            "average": None if self.average is None else distributed.whole(self.average.state_dict()),
            "step": self.step,
            "epoch_loss": self.epoch_loss,
            "curve": self.curve,
            "seconds": self.seconds,
            "step_seconds": self.step_seconds[-200:],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        distributed.load_into(self.model, state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            distributed.load_optimizer(optimizer, saved)
        if self.average is not None:
            distributed.load_into(self.average, state["average"])
        self.step = state["step"]
        self.epoch_loss = state["epoch_loss"]
        self.curve = state["curve"]
        self.seconds = state["seconds"]
        self.step_seconds = state["step_seconds"]


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
