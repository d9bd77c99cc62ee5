"""Image classification: cross entropy, and top-1 and top-5 accuracy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextify.data.on_device import PerChannel, finish
from nextify.data.share import Share
from nextify.paper.recipe import Recipe
from nextify.tasks.metric_specs import ACCURACY


class Inference(NamedTuple):
    """How a trained network computes its logits, as the recipe of its training says."""

    bf16: bool = False
    """In autocast; otherwise in the type of the weights."""
    mirror: bool = False
    """Average the logits of an image and its mirror image, at twice the cost."""
    temperature: float = 1.0
    """Divide the logits by this, which changes the probabilities and not their order."""

    @classmethod
    def of(cls, recipe: Recipe | None, temperature: float = 1.0) -> Self:
        """The recipe's rule; the plain one where the recipe is unknown."""
        if recipe is None:
            return cls(temperature=temperature)
        return cls(recipe.precision == "bf16", recipe.test_mirror == "on", temperature)

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures has to know."""
        return ["logits are the mean of each image's and its mirror image's (test_mirror)"] if self.mirror else []

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """float32 ``(N, K)`` of normalized images ``(N, C, H, W)``."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            logits: Tensor = model(images).float()
            if self.mirror:
                logits = (logits + model(images.flip(-1)).float()) / 2
        return logits if self.temperature == 1 else logits / self.temperature


TEMPERATURES = (0.01, 100.0)
"""Least and most that a temperature can be."""


class Hits(NamedTuple):
    """Counts of one batch."""

    top1: int
    top5: int
    images: int
    right: bytes = b""
    """Of each image, 1 if its class has the highest score, else 0."""

    @classmethod
    def of(cls, scores: Tensor, labels: Tensor) -> Self:
        """Count ``scores (N, K)``, logits or probabilities, against ``labels (N,)``; a label below 0 is not counted.

        Of equal scores, which bfloat16 has now and then, the first counts as the higher. An image whose scores have a
        NaN is wrong.
        """
        if len(scores) != len(labels):
            raise ValueError(f"each image needs one label: got scores {tuple(scores.shape)} and {len(labels)} labels")
        best = scores.argsort(dim=-1, descending=True, stable=True)[:, :5]  # (N, 5)
        hit = (best == labels[:, None]) & ~scores.isnan().any(1, keepdim=True)
        counted = labels >= 0
        right = hit[counted, 0].cpu().numpy().astype(np.uint8)
        return cls(int(right.sum()), int(hit.any(1).sum()), int(counted.sum()), right.tobytes())


@dataclass(frozen=True)
class Labelled:
    """The batches of a task whose images have labels, by a recipe: its mixing and smoothing."""

    recipe: Recipe
    num_classes: int
    mean: PerChannel
    std: PerChannel
    seed: int
    device: torch.device

    def training_batch(self, pixels: Tensor, targets: Tensor, step: int, share: Share | None) -> tuple[Tensor, Tensor]:
        """Inputs after erasing and mixing, and class indices ``(B,)`` or soft targets ``(B, K)``; see ``finish``."""
        return finish(
            *(pixels, targets, self.recipe, self.num_classes, step, self.seed, self.device, self.mean, self.std),
            share=share,
        )

    def test_batch(self, pixels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        settings = (self.recipe, self.num_classes, 0, 0, self.device, self.mean, self.std)
        return finish(pixels, targets, *settings, train=False)

    def logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """``(B, K)`` as the recipe computes them."""
        return Inference.of(self.recipe).logits(model, inputs)


@dataclass(frozen=True)
class Accuracy:
    top1: float
    """Percent of the images whose class has the highest logit."""
    top5: float
    """Percent of the images whose class is among the five highest logits (all classes where there are fewer)."""
    images: int
    right: bytes = b""
    """Of each image in the order of the test batches, 1 if its class has the highest logit; empty if unknown."""

    def values(self) -> dict[str, float]:
        return {"top1": self.top1, "top5": self.top5}


@dataclass(frozen=True)
class Classification(Labelled):
    """Classification by a recipe: one class per image, class weights, and the recipe's inference."""

    class_weights: Tensor | None = None
    """``(K,)`` on the device; None weighs all images alike."""

    metric_specs: ClassVar = ACCURACY

    def loss(self, outputs: Tensor, targets: Tensor, batch: int) -> Tensor:
        """Cross entropy of ``outputs (N, K)``; smoothing is in the targets already. Class weights multiply each image's
        whole loss, and that of a mixed one in its images' shares."""
        logits = outputs.float()
        if self.class_weights is None:
            return F.cross_entropy(logits, targets) * (len(logits) / batch)
        # Summed by hand, as a weighted mean would divide by each part's weights.
        if targets.ndim == 1:
            return F.cross_entropy(logits, targets, self.class_weights, reduction="none").sum() / batch
        # Not by cross_entropy's own weights, which multiply what smoothing gives to the other classes by theirs: images
        # of a class that is 20 times as large as another of two would best be taken for the smaller one.
        each = self.recipe.label_smoothing / targets.shape[1]
        shares = (targets - each) * self.class_weights  # (N, K), times 1 - smoothing
        weighted = shares + each * shares.sum(1, keepdim=True) / (1 - self.recipe.label_smoothing)
        return F.cross_entropy(logits, weighted, reduction="sum") / batch

    def observe(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Hits:
        return Hits.of(self.logits(model, inputs), targets)

    @staticmethod
    def metrics(observations: Sequence[Hits]) -> Accuracy:
        """Raises ValueError where no image was counted."""
        images = sum(hits.images for hits in observations)
        if not images:
            raise ValueError("no images to measure accuracy on")
        top1, top5 = (100 * sum(counts) / images for counts in zip(*(hits[:2] for hits in observations), strict=True))
        return Accuracy(top1, top5, images, b"".join(hits.right for hits in observations))


def fitted_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature at which ``logits (N, K)`` have the least cross entropy on ``labels (N,)`` (arXiv 1706.04599).

    The labels are smoothed by 1 / (N + 2), as in Platt's scaling (1999): otherwise images that are all right would have
    a temperature of zero, and be believed without any doubt.
    """
    from scipy.optimize import minimize_scalar

    scores, smoothing = logits.double(), 1 / (len(labels) + 2)

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(scores / math.exp(log_temperature), labels, label_smoothing=smoothing))

    least, most = map(math.log, TEMPERATURES)
    return math.exp(float(minimize_scalar(loss, bounds=(least, most), method="bounded").x))


def class_weights(labels: Any, num_classes: int) -> Tensor:
    """``(K,)``: inversely proportional to each class's images, 1 on average over the images ``labels (N,)``."""
    counts = np.bincount(labels, minlength=num_classes)
    present = np.count_nonzero(counts)
    return torch.tensor(len(labels) / (present * np.maximum(counts, 1)), dtype=torch.float32)
