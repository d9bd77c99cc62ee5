"""Anchors of the levels of a pyramid: torchvision's, centred on each cell, not rounded, and kept between steps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator


class Anchors(AnchorGenerator):  # type: ignore[misc]
    """``sizes[i]`` pixels on level ``i``, of every ratio of height to width."""

    def __init__(self, strides: Sequence[int], sizes: Sequence[Sequence[float]], ratios: Sequence[float]) -> None:
        super().__init__(tuple(map(tuple, sizes)), (tuple(ratios),) * len(sizes))
        self.strides = tuple(strides)
        roots = torch.tensor(ratios).sqrt()
        self.cell_anchors = []
        for stride, of_level in zip(strides, sizes, strict=True):
            half = torch.tensor(of_level)[None] / 2
            width, height = (half / roots[:, None]).flatten(), (half * roots[:, None]).flatten()
            self.cell_anchors.append(torch.stack([-width, -height, width, height], 1) + stride / 2)
        self._kept: tuple[object, Tensor] = (None, torch.empty(0))

    def of(self, shapes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
        """``(A, 4)`` boxes of all levels, whose maps have these heights and widths."""
        key = (tuple(shapes), device)
        if self._kept[0] != key:
            self.set_cell_anchors(torch.float32, device)
            each = [[torch.tensor(stride, device=device)] * 2 for stride in self.strides]
            self._kept = (key, torch.cat(self.grid_anchors([list(shape) for shape in shapes], each)))
        return self._kept[1]

    def forward(self, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors of every image, as torchvision's region proposal network asks for them."""
        shapes = [(x.shape[-2], x.shape[-1]) for x in feature_maps]
        return [self.of(shapes, feature_maps[0].device)] * len(image_list.image_sizes)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_kept": (None, torch.empty(0))}
