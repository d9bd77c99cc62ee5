"""From the canvas of a dense network back to the pixels of the image: the same for training, evaluate and predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nextify.data.dense.placement import Placement
from nextify.tasks.average_precision import Floats, Rle, encoded

if TYPE_CHECKING:
    from nextify.networks.dense.detection import Found

TOGETHER = 2**26
"""Values of an image's pixels and classes that are held at once; of more, the classes are compared one by one."""


class FoundObjects(NamedTuple):
    """The objects found in one image, the surest first; in pixels of the image."""

    boxes: Floats
    """``(M, 4)`` float32: x1, y1, x2, y2."""
    scores: Floats
    """``(M,)`` float32, 0 to 1."""
    labels: npt.NDArray[np.int64]
    """``(M,)``, from 0."""
    masks: Sequence[Rle] | None
    """M encoded masks; None from a network that finds boxes only."""


def objects_back(found: Found, placement: Placement) -> FoundObjects:
    """Objects of the canvas in pixels of the image, without those beside it. Raises ``DataError`` for masks without
    faster-coco-eval."""
    boxes = placement.boxes_back(found.boxes.float().cpu().numpy())
    there = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    scores, labels = found.scores.float().cpu().numpy(), found.labels.long().cpu().numpy()
    masks: list[Rle] | None = None
    if found.masks is not None:
        kept = (mask for mask, inside in zip(found.masks, there, strict=True) if inside)
        masks = [encoded(placement.back(mask[None].float())[0].cpu().numpy() >= 0.5) for mask in kept]
    return FoundObjects(boxes[there], scores[there], labels[there], masks)


def regions_back(logits: Tensor, placement: Placement) -> Tensor:
    """Class of each pixel of the image, uint8 ``(height, width)``, from logits ``(K, H, W)`` of the canvas."""
    if len(logits) * placement.height * placement.width <= TOGETHER:
        return placement.back(logits.float()).argmax(0).byte()
    (best,) = placement.back(logits[:1].float())
    labels = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for k in range(1, len(logits)):
        (values,) = placement.back(logits[k : k + 1].float())
        labels.masked_fill_(values > best, k)
        best = torch.maximum(best, values)
    return labels
