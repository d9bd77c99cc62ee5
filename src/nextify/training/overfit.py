"""Learning one batch by heart, which shows in a minute whether data, network and settings can learn at all."""

import math
from dataclasses import dataclass, replace

import torch

from nextify.networks.dense.design import DenseDesign
from nextify.paper.recipe import PLAIN
from nextify.system import native, processes
from nextify.tasks.metric_specs import MetricSpec
from nextify.training.prepare import Prepared
from nextify.training.request import RequestError
from nextify.training.trainer import Trainer
from nextify.training.trial import Runtime

OVERFIT_STEPS = 100
OVERFIT_LEAST = 95.0
"""The main metric, percent, that a working pipeline reaches on one batch after ``OVERFIT_STEPS``."""
DENSE_LEAST = 50.0
"""Likewise AP50 or mIoU of boxes and masks, which are further from 100 by then."""


@dataclass(frozen=True)
class Overfit:
    """The outcome of learning one batch by heart."""

    images: int
    steps: int
    first_loss: float
    last_loss: float
    metric: MetricSpec
    """The task's main one; of a detector AP50."""
    value: float
    """Of that metric, on the batch at the end."""
    least: float = OVERFIT_LEAST

    @property
    def works(self) -> bool:
        return self.value >= self.least


def overfit_batch(prepared: Prepared, runtime: Runtime, steps: int = OVERFIT_STEPS) -> Overfit:
    """Learn one batch by heart, without augmentation and regularization; what fails here cannot learn more."""
    if processes.launched() > 1:
        raise RequestError("--overfit-batch runs in one process: start it without torchrun")
    images, recipe = prepared.images, prepared.trial.recipe
    per_epoch = len(images.train) // recipe.batch_size
    bare = recipe.with_(
        epochs=max(1, math.ceil(steps / per_epoch)),
        warmup_epochs=0.0,
        schedule="cosine",
        crop="none",
        horizontal_flip=0.0,
        color_jitter="off",
        light="off",
        stochastic_depth=0.0,
        weight_decay=0.0,
        ema="off",
        calibration="off",
        **PLAIN,
    )
    torch.set_num_threads(runtime.threads)
    with native.use_image_kernels(runtime.kernels):
        trainer = Trainer(replace(prepared.trial, recipe=bare), images, runtime, prepared.start)
        pixels, labels = trainer.batches.batch(0)
        losses = [float(trainer.train_step(pixels, labels)) for _ in range(steps)]
    with torch.no_grad():
        # In training mode, as batch norm's running statistics need more steps than these to follow.
        seen = trainer.task.observe(trainer.model, *trainer.task.test_batch(pixels, labels))
    specs = {spec.key: spec for spec in trainer.task.metric_specs}
    metric = specs.get("ap50", trainer.task.metric_specs[0])
    least = DENSE_LEAST if isinstance(prepared.trial.design, DenseDesign) else OVERFIT_LEAST
    value = trainer.task.metrics([seen]).values()[metric.key]
    return Overfit(len(pixels), steps, losses[0], losses[-1], metric, value, least)
