"""The state of one training, and one step of it.

Everything random is a function of (seed, step): the data's order and augmentation, mixing, erasing, and the dropped
paths. So a resumed training equals an undisturbed one bit for bit on the CPU, two designs trained with one seed see the
same images in the same order with the same augmentation (the pairing that a study's statistics rest on), and several
processes can each compute their share of the same batch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nextify import kernels
from nextify.data.share import share
from nextify.networks.dense.design import DenseDesign
from nextify.networks.dense.network import DenseNetwork
from nextify.networks.foreign import Foreign, build
from nextify.networks.masked.design import MaskedDesign
from nextify.networks.masked.network import MaskedAutoencoder
from nextify.networks.network import Trunk
from nextify.paper.design import Design, total_stride
from nextify.system import processes
from nextify.tasks.classification import Classification, fitted_temperature
from nextify.tasks.detection import in_evaluation
from nextify.tasks.multilabel import MultiLabel
from nextify.tasks.multilabel_metrics import UNFITTED, fitted_thresholds
from nextify.tasks.task import M_co, Metrics, Task
from nextify.training import distributed
from nextify.training.captured import CapturedUpdate
from nextify.training.learned import AnyImages, AnySet, balance, batches_to_test, task_of, train_batches
from nextify.training.optimizers import build_optimizers, classifier, set_learning_rate
from nextify.training.records import Entry, State
from nextify.training.schedule import image_side, learning_rate
from nextify.training.trial import Runtime, Trial

KEPT_STEP_SECONDS = 200
"""Step times kept in a checkpoint, from which a resumed training reports its speed."""

Tensors = tuple[Tensor, ...] | list[Tensor]
Start = Mapping[str, Tensor]
"""Weights that a training starts from, by name."""


# -- what a training consists of -----------------------------------------------------------------------------------


def build_network(trial: Trial, start: Start | None = None) -> nn.Module:
    """The trial's network with its initial weights, on the CPU. Raises ``ValueError`` where the recipe asks for what
    only networks of ours have, or ``start`` does not fit the design."""
    recipe = trial.recipe
    torch.manual_seed(trial.seed)
    model: nn.Module
    new: tuple[str, ...] = ("head.classifier.",)
    if isinstance(trial.design, MaskedDesign):
        model = MaskedAutoencoder(trial.design, recipe.stochastic_depth)
        new = "projection.", "mask_token", "decoder.", "prediction."
    elif isinstance(trial.design, DenseDesign):
        assert trial.data.canvas is not None
        _check_network(trial, trial.design.backbone)
        model = DenseNetwork(trial.design, trial.data.num_classes, trial.data.canvas, recipe.stochastic_depth)
        norms = "backbone.norms."  # of maps; the head need not take all that the weights have norms for
        new, own = ("head.", norms), model.state_dict().keys()
        start = start and {name: t for name, t in start.items() if not name.startswith(norms) or name in own}
    else:
        _check_network(trial, trial.design)
        model = build(trial.design, trial.data.num_classes, recipe.stochastic_depth, len(trial.data.mean))
        with torch.no_grad():
            for parameter in list(classifier(model).parameters())[:1]:  # the weight
                parameter.mul_(recipe.head_init_scale)
    if start is not None:
        _begin_with(model, start, new)
    for module in frozen_modules(model, trial.frozen_stages):
        module.requires_grad_(False)
    return model


def _check_network(trial: Trial, design: Design | Foreign) -> None:
    """Raise ``ValueError`` where the trial asks another library's network for what only ours have."""
    if isinstance(design, Foreign):
        if trial.frozen_stages:
            raise ValueError("only Nextify's own networks have stages that can be frozen: leave frozen_stages at 0")
        if trial.recipe.progressive_resizing != "off":
            raise ValueError("progressive_resizing works only for Nextify's own networks: set it to off")
        if processes.count() > 1:
            raise ValueError("networks from other libraries are trained in one process: start it without torchrun")


def _begin_with(model: nn.Module, start: Start, new: tuple[str, ...]) -> None:
    """Load weights into a network; only what begins with one of ``new`` may be missing from them."""
    missing, unexpected = model.load_state_dict(dict(start), strict=False)
    missing = [name for name in missing if not name.startswith(new)]
    if missing or unexpected:
        raise ValueError(f"the weights to start from do not fit the design: {', '.join([*missing, *unexpected][:5])}")


def frozen_modules(model: nn.Module, stages: int) -> list[nn.Module]:
    """The stem and the first ``stages`` stages, or nothing where that is 0."""
    trunk = model.trunk if isinstance(model, DenseNetwork) else model
    return [trunk.stem, *list(trunk.stages)[:stages]] if stages and isinstance(trunk, Trunk) else []


def build_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of parameters and floating-point buffers; other buffers are copied.

    torch's own averages integers too and truncates them, which spoils tables of indices and counters.
    """
    average_floats = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def update(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:  # tensors of one dtype
        if averaged[0].is_floating_point():
            average_floats(averaged, current, count)
        else:
            torch._foreach_copy_(averaged, current)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    average.eval()
    return average


def parts_of_a_batch(model: nn.Module, trial: Trial, runtime: Runtime) -> int:
    """Parts into which each batch is cut: the trial's where batch norm or a dense task's losses, which are means over a
    part's objects or pixels, make them matter, else the runtime's. Raises ``ValueError`` where the parts matter, and
    the runtime's are not the trial's."""
    dense = isinstance(model, DenseNetwork)
    if not dense and not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return runtime.accumulation
    if runtime.accumulation not in (1, trial.accumulation):
        what = "boxes and masks" if dense else "batch norm"
        raise ValueError(
            f"with {what} the parts of a batch change the result: set the trial's accumulation, not the runtime's, to "
            f"{runtime.accumulation}"
        )
    return trial.accumulation


@torch.no_grad()
def measured(task: Task[M_co], model: nn.Module, batches: Iterable[tuple[Tensor, Any]]) -> M_co:
    """Metrics of ``model`` in evaluation mode over batches of inputs and targets on its device.

    With several processes, each passes its own batches and gets the metrics over all of them; every process must call
    this.
    """
    return task.metrics(observed(task.observe, model, batches))


def observed(observe: Callable[[nn.Module, Tensor, Any], Any], model: nn.Module, batches: Iterable[Any]) -> list[Any]:
    """What ``observe`` finds in each batch of all processes, with ``model`` in evaluation mode."""
    with in_evaluation(model):
        own = [observe(model, inputs, targets) for inputs, targets in batches]
    return [observation for part in processes.gathered(own) for observation in part]


class Trainer:
    """One training: its network, optimizers and average, its batches, and its progress."""

    def __init__(
        self,
        trial: Trial,
        images: AnyImages,
        runtime: Runtime,
        start: Start | None = None,
        together: bool = True,
        task: Task[Any] | None = None,
    ) -> None:
        """``start``: weights to begin with; what they lack (a new classifier) stays as the seed draws it.
        ``together=False`` computes this process's share without waiting for the others, which measures but does not
        train. ``task``: what is learned; None is the trial's own."""
        self.trial, self.images, self.runtime = trial, images, runtime
        recipe, several = trial.recipe, processes.count() > 1
        self.device = torch.device(runtime.device)
        self.together = several and together
        model = build_network(trial, start)
        balance(model, trial, images)
        kernels.install(model, runtime.kernels)
        self.parts = parts_of_a_batch(model, trial, runtime)
        if self.together:
            distributed.synchronized(model, self.device)
        self.model: nn.Module = model.to(self.device)
        self.frozen = frozen_modules(self.model, trial.frozen_stages)
        self.average = None if recipe.ema == "off" else build_average(self.model, recipe.ema)
        self.forward = self._distributed_forward()
        self.optimizers = build_optimizers(self.model, recipe)
        self.update: Callable[[Tensor, Any], Tensor] = self._update
        if runtime.capture:
            self._check_capture()
            self.update = CapturedUpdate(self._update, self.optimizers)
        self.stride = total_stride(trial.design) if isinstance(trial.design, Design) else 1
        self.task: Task[Any] = task_of(trial, images, self.device) if task is None else task
        self.share = share(recipe.batch_size, processes.rank(), processes.count()) if several else None
        self.rows = torch.arange(recipe.batch_size) if self.share is None else torch.from_numpy(self.share.rows)
        self.batches = train_batches(trial, images, runtime, self.share)
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = recipe.epochs * self.steps_per_epoch
        self.step = 0
        self.epoch_loss = 0.0  # summed over the epoch's steps so far
        self.curve: list[Entry] = []
        self.seconds = 0.0
        self.step_seconds: list[float] = []

    def _distributed_forward(self) -> Callable[..., Any]:
        forward: nn.Module = self.model
        if self.runtime.compile and isinstance(self.model, DenseNetwork | MaskedAutoencoder):
            raise ValueError("--compile works only for classifiers: leave it out")
        if self.runtime.distributed == "fsdp" and isinstance(self.model, DenseNetwork | MaskedAutoencoder):
            what = "pre-training" if isinstance(self.model, MaskedAutoencoder) else self.model.design.task
            raise ValueError(f"{what} keeps the whole network in each process: leave --distributed fsdp out")
        if self.together and self.runtime.distributed == "fsdp":
            for network in (self.model, *([] if self.average is None else [self.average.module])):
                distributed.cut_in_parts(network, self.device)
        elif self.together:
            forward = nn.parallel.DistributedDataParallel(self.model, gradient_as_bucket_view=True)
        return torch.compile(forward) if self.runtime.compile else forward

    def _check_capture(self) -> None:
        """Raise ValueError where a step is not the same work on the same shapes each time."""
        unfit = {
            "boxes, masks and pre-training": isinstance(self.model, DenseNetwork | MaskedAutoencoder),
            f"the {self.device.type}": self.device.type != "cuda",
            "several processes": processes.count() > 1,
            "a batch in parts": self.parts > 1,
            "progressive resizing": self.trial.recipe.progressive_resizing != "off",
        }
        if found := [what for what, is_so in unfit.items() if is_so]:
            raise ValueError(
                f"--capture works only for classifiers on one CUDA device, not for {found[0]}: leave it out"
            )

    # -- one step ------------------------------------------------------------------------------------------------

    def train_step(self, pixels: Tensor, targets: Any) -> Tensor:
        """Take one optimizer step on uint8 ``pixels (N, H, W, 3)`` and their targets, this process's rows of a batch.

        Returns their part of the batch's mean loss, detached: the sum over the processes is the loss.
        """
        x, targets = self._training_inputs(pixels, targets)
        set_learning_rate(self.optimizers, self.rate())
        self.model.train()
        for module in self.frozen:
            module.eval()  # running statistics and dropped paths too
        self._seed()
        total = self.update(x, targets)
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.step += 1
        return total

    def _seed(self) -> None:
        """Seed the draws of dropped paths."""
        torch.manual_seed((self.trial.seed << 32) + self.step)

    def _update(self, x: Tensor, targets: Any) -> Tensor:
        """Forward, backward and the optimizers' step; returns this process's part of the loss."""
        recipe, whole = self.trial.recipe, self.trial.recipe.batch_size
        total = torch.zeros((), device=self.device)
        split = (x.tensor_split(self.parts), self.rows.tensor_split(self.parts))
        end = 0
        for number, (part_x, rows) in enumerate(zip(*split, strict=True)):
            first, end = end, end + len(part_x)
            if number:  # each part, as each process, draws the dropped paths of the whole batch, and so the same
                self._seed()
            if len(rows) < whole:
                distributed.drops_for(self.model, rows.to(self.device), whole)
            with distributed.gradients_wait(self.forward, last=number == self.parts - 1):
                with self._autocast():
                    outputs = self._outputs(part_x, targets[first:end])
                    loss = self.task.loss(outputs, targets[first:end], whole)
                # Times the processes, as the gradients are averaged over them.
                (loss * processes.count()).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if recipe.gradient_clip != "off":
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.gradient_clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return total

    def rate(self) -> float:
        """The learning rate of the step to be taken."""
        return learning_rate(self.trial.recipe, self.step, self.steps_per_epoch)

    def _outputs(self, x: Tensor, targets: Any) -> Any:
        """What the task's loss is of. A dense network takes the targets too, as its head samples by them, and a masked
        autoencoder takes the masks."""
        takes_both = isinstance(self.model, DenseNetwork | MaskedAutoencoder)
        return self.forward(x, targets) if takes_both else self.forward(x)

    def _training_inputs(self, pixels: Tensor, targets: Any) -> tuple[Tensor, Any]:
        """The task's inputs and targets of the batch, the inputs at this step's size."""
        x, targets = self.task.training_batch(pixels, targets, self.step, self.share)
        if self.trial.recipe.progressive_resizing == "off":
            return x, targets
        size = self.trial.data.image_size
        side = image_side(self.trial.recipe, self.step, self.total_steps, size, self.stride)
        if side != x.shape[-1]:
            x = F.interpolate(x, size=side, mode="bilinear", antialias=True)
            x = x.contiguous(memory_format=torch.channels_last)
        return x, targets

    def _autocast(self) -> AbstractContextManager[Any]:
        bf16 = self.trial.recipe.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()

    # -- tests ---------------------------------------------------------------------------------------------------

    def evaluate(self, between: Callable[[], None] = lambda: None) -> Metrics:
        """Metrics of the weights as they would be kept now: the averaged ones where the recipe averages. ``between`` is
        called before each batch, and what it raises ends the measurement."""

        def batches() -> Iterator[tuple[Tensor, Any]]:
            for batch in self._test_batches(self.images.test):
                between()
                yield batch

        found: Metrics = measured(self.task, self.kept(), batches())
        return found

    def _test_batches(self, images: AnySet) -> Iterator[tuple[Tensor, Any]]:
        tests = batches_to_test(self.trial, images, processes.rank(), processes.count())
        return (self.task.test_batch(*batch) for batch in tests)

    @torch.no_grad()
    def temperature(self) -> float:
        """The temperature fitted on the images that the recipe holds out; 1 where it holds out none.

        Every process must call this.
        """
        task = self.task
        if self.trial.recipe.calibration == "off" or isinstance(task, MultiLabel):
            return 1.0
        if not isinstance(task, Classification):
            raise ValueError("only classifiers have a temperature: leave the recipe's calibration off")

        def observe(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return task.logits(model, inputs)[labels >= 0].cpu(), labels[labels >= 0].cpu()

        held_out = self.images.train.selected(self.batches.held_out)
        logits, labels = zip(*observed(observe, self.kept(), self._test_batches(held_out)), strict=True)
        return fitted_temperature(torch.cat(logits), torch.cat(labels))

    @torch.no_grad()
    def thresholds(self) -> tuple[float, ...]:
        """Of a multi-label network, for each class the probability from which its label is given: fitted on the images
        that the recipe holds out, 0.5 where it holds out none. Empty for other tasks. Every process must call this.
        """
        if not isinstance(self.task, MultiLabel):
            return ()
        if self.trial.recipe.calibration == "off":
            return (UNFITTED,) * self.task.num_classes
        held_out = self.images.train.selected(self.batches.held_out)
        seen = observed(self.task.observe, self.kept(), self._test_batches(held_out))
        return fitted_thresholds(*map(np.concatenate, zip(*seen, strict=True)))

    def kept(self) -> nn.Module:
        """The network whose weights are the result: the averaged one where the recipe averages."""
        return self.model if self.average is None else self.average.module

    def kept_weights(self) -> dict[str, Tensor]:
        """The weights of the result, whole; every process must call this."""
        return distributed.whole(self.kept().state_dict())  # type: ignore[no-any-return]

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Everything needed to resume, on any number of processes; every process must call this."""
        return {
            "fingerprint": self.trial.fingerprint,
            "threads": self.runtime.threads,
            "model": distributed.whole(self.model.state_dict()),
            "optimizers": [distributed.whole(optimizer.state_dict()) for optimizer in self.optimizers],
            "average": None if self.average is None else distributed.whole(self.average.state_dict()),
            "step": self.step,
            "epoch_loss": self.epoch_loss,
            "curve": self.curve,
            "seconds": self.seconds,
            "step_seconds": self.step_seconds[-KEPT_STEP_SECONDS:],
        }

    def load_state(self, state: State) -> None:
        """Resume from what ``state`` returned."""
        distributed.load_into(self.model, state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            distributed.load_optimizer(optimizer, saved)
        if self.average is not None and state["average"] is not None:
            distributed.load_into(self.average, state["average"])
        self.step, self.epoch_loss, self.curve = state["step"], state["epoch_loss"], state["curve"]
        self.seconds, self.step_seconds = state["seconds"], state["step_seconds"]
