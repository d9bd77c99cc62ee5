"""From a network's canvas back to the pixels of images."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.roi_heads import paste_masks_in_image

from nextify.data.dense.annotations import mask_api
from nextify.data.dense.placement import fitting
from nextify.networks.dense.detection import Found
from nextify.tasks.average_precision import encoded, encoded_part
from nextify.tasks.restoring import objects_back


def found(boxes: Any, masks: Tensor) -> Found:
    corners = torch.as_tensor(boxes, dtype=torch.float32)
    return Found(corners, torch.ones(len(corners)), torch.zeros(len(corners), dtype=torch.long), masks)


def test_masks_are_those_of_torchvision() -> None:
    """Of boxes that end beside the image too, where the canvas is filled, on images larger and smaller than it."""
    generator = torch.Generator().manual_seed(0)
    for size in [(90, 64), (64, 90), (300, 401), (333, 20), (1, 57), (40, 1), (17, 31)]:
        place = fitting(size, (64, 96))
        inside = torch.tensor([*place.resized[::-1]])
        first = torch.rand(40, 2, generator=generator) * (inside - 0.5)
        second = first + 0.1 + torch.rand(40, 2, generator=generator) ** 3 * (torch.tensor([96, 64]) - first - 0.1)
        first[::4], second[1::4] = 0, torch.tensor([96.0, 64])
        first[2::4] = (inside - 28 + torch.rand(10, 2, generator=generator)).clamp(min=0)  # as many rows as a mask has
        second[2::4] = torch.tensor([96.0, 64])
        told = found(torch.cat([first, second], 1), torch.rand(40, 28, 28, generator=generator))
        back = objects_back(told, place)
        assert back.masks is not None
        assert len(back.masks) == 40
        boxes = torch.from_numpy(place.boxes_back(told.boxes.numpy()))
        assert told.masks is not None
        expected = paste_masks_in_image(told.masks[:, None], boxes, size)[:, 0] > 0.5
        assert np.array_equal(np.stack([mask_api().decode(mask) for mask in back.masks]), expected.numpy())


class Largest(TorchDispatchMode):
    """Notes how many values the largest tensor has that is made within."""

    values = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.values = max(self.values, out.numel())
        return out


def test_a_mask_in_a_large_photo_takes_no_more_memory_than_its_box_there() -> None:
    shapes = torch.ones(2, 28, 28)
    with Largest() as largest:
        back = objects_back(found([[320, 240, 352, 272], [0, 0, 64, 32]], shapes), fitting((3000, 4000), (480, 640)))
    assert back.masks is not None
    assert largest.values < 1.3 * 400 * 200
    with Largest() as largest:  # of a box that ends far beside a panorama
        objects_back(found([[0, 0, 640, 640]] * 2, shapes), fitting((20, 4000), (640, 640)))
    assert largest.values < 200 * 4200


def test_run_lengths_of_a_part_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.5, 0.9, 1.0) * 200:
        whole = np.zeros(rng.integers(1, 8, 2), bool)
        (y1, x1), (y2, x2) = corners = np.sort(rng.integers(0, np.array(whole.shape) + 1, (2, 2)), 0)
        part = rng.random(corners[1] - corners[0]) < share
        whole[y1:y2, x1:x2] = part
        assert encoded_part(part, y1, x1, whole.shape) == encoded(whole)
