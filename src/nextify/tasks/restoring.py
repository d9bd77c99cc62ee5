"""From the canvas of a dense network back to the pixels of the image: the same for training, evaluate and predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nextify.data.dense.placement import Placement
from nextify.tasks.average_precision import Floats, Rle, encoded_part

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
    whole = placement.boxes_back(found.boxes.float().cpu().numpy())
    boxes = whole.clip(0, np.array([placement.width, placement.height] * 2, np.float32))
    there = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    scores, labels = found.scores.float().cpu().numpy(), found.labels.long().cpu().numpy()
    masks: list[Rle] | None = None
    if found.masks is not None:
        size = placement.height, placement.width
        masks = [*pasted(found.masks.float().cpu()[there], torch.from_numpy(whole[there]), size)]
    return FoundObjects(boxes[there], scores[there], labels[there], masks)


def pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Iterator[Rle]:
    """Masks ``(M, side, side)`` of boxes ``(M, 4)`` in an image of ``size`` (height, width): torchvision's
    ``paste_masks_in_image``, but each by itself and only where its box and the image overlap."""
    from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

    height, width = size
    padded, scale = expand_masks(masks[:, None], 1)
    side = padded.shape[-1]
    for mask, box in zip(padded, expand_boxes(boxes, scale).long(), strict=True):
        left, top, right, bottom = box.tolist()  # both ends are inside
        rows, columns = min(bottom + 1, height) - top, min(right + 1, width) - left
        # Unlike interpolate's, its scales do not depend on how much is asked for; but of ``side`` it takes a copy.
        asked = [rows + (rows == side), columns + (columns == side)]
        scales = (bottom + 1 - top) / side, (right + 1 - left) / side
        values = torch.ops.aten.upsample_bilinear2d(mask[None], asked, False, *scales)
        inside = values[0, 0, max(0, -top) : rows, max(0, -left) : columns] > 0.5
        yield encoded_part(inside.numpy(), max(0, top), max(0, left), size)


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
