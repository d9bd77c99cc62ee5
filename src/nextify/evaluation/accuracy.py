"""Top-1 and top-5 accuracy over a set of images, each counted once, by one process or several."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nextify.evaluation.inference import PLAIN, Inference
from nextify.system import processes


@dataclass(frozen=True)
class Accuracy:
    top1: float
    """Percent of the images whose class has the highest logit."""
    top5: float
    """Percent of the images whose class is among the five highest logits (all classes where there are fewer)."""
    images: int


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], inference: Inference = PLAIN) -> Accuracy:
    """Accuracy of ``model`` in evaluation mode over ``(images (N, C, H, W), labels (N,))`` batches on its device.

    Of several processes each gives its own batches, and all get the accuracy over all of them; every process must call
    this. An image with a label below 0 is not counted.
    """
    was_training = model.training
    model.eval()
    hits1 = hits5 = images = 0
    for inputs, labels in batches:
        logits = inference.logits(model, inputs)
        # Of equal logits, which bfloat16 has now and then, the first counts as the higher, as in `metrics.top_k`.
        best = logits.argsort(dim=-1, descending=True, stable=True)[:, :5]  # (N, 5)
        hit = best == labels[:, None]
        hits1 += int(hit[:, 0].sum())
        hits5 += int(hit.any(1).sum())
        images += int((labels >= 0).sum())
    model.train(was_training)
    counts = torch.tensor([hits1, hits5, images], device=next(model.parameters()).device)
    hits1, hits5, images = processes.summed(counts).tolist()
    if not images:
        raise ValueError("no images to measure accuracy on")
    return Accuracy(100 * hits1 / images, 100 * hits5 / images, images)
