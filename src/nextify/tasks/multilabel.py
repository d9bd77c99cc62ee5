"""Multi-label classification: each label is decided by itself, by binary cross entropy; average precision and F1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextify.data.images import Labels
from nextify.tasks.classification import Labelled
from nextify.tasks.metric_specs import LABELS
from nextify.tasks.multilabel_metrics import UNFITTED, Flags, Floats, MultiLabelMetrics


class Scores(NamedTuple):
    """What the metrics need of one batch."""

    logits: Floats
    """``(B, K)``."""
    truth: Flags


@dataclass(frozen=True)
class MultiLabel(Labelled):
    """Any number of labels per image, by a recipe: its class balance and its inference."""

    positive_weights: Tensor | None = None
    """``(K,)`` on the device: how much more an image of the class weighs in its decision; None weighs all alike."""

    metric_specs: ClassVar = LABELS

    def loss(self, outputs: Tensor, targets: Tensor, batch: int) -> Tensor:
        """Binary cross entropy of ``outputs (N, K)``, the mean over the labels; smoothing is in the targets already.
        Weights multiply the whole loss of an image with the label, and of a mixed one in its images' shares."""
        logits, targets, smoothing = outputs.float(), targets.float(), self.recipe.label_smoothing
        if self.positive_weights is None or not smoothing:
            loss = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=self.positive_weights)
            return loss * (len(logits) / batch)
        # Not by pos_weight, which multiplies what smoothing gives to a label that an image has not: of a rare label,
        # that would be more than the rest.
        have = (targets - smoothing / 2) / (1 - smoothing)  # (N, K): the shares of images that have the label
        weights = have * self.positive_weights
        wanted = weights * (1 - smoothing / 2) + (1 - have) * (smoothing / 2)
        weights = weights + 1 - have
        loss = F.binary_cross_entropy_with_logits(logits, wanted / weights, weights)
        return loss * (len(logits) / batch)

    def observe(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Scores:
        logits = self.logits(model, inputs)
        counted = targets[:, 0] >= 0  # the others stand in for images that another process has
        return Scores(logits[counted].cpu().numpy(), targets[counted].cpu().numpy() > 0)

    @staticmethod
    def metrics(observations: Sequence[Scores]) -> MultiLabelMetrics:
        """At thresholds of 0.5."""
        logits, truth = (np.concatenate(parts) for parts in zip(*observations, strict=True))
        return MultiLabelMetrics(logits, truth, (UNFITTED,) * truth.shape[1])


def positive_weights(labels: Labels) -> Tensor:
    """``(K,)``: images without each label over those with it, at most ``MOST_WEIGHT``; so both weigh the same."""
    positives = labels.sum(0)
    ratios = (len(labels) - positives) / np.maximum(positives, 1)
    return torch.tensor(np.clip(ratios, 1 / MOST_WEIGHT, MOST_WEIGHT), dtype=torch.float32)


MOST_WEIGHT = 100.0
"""Limit of ``positive_weights``: an image that weighs more makes single steps of a training."""
