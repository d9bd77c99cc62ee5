"""Several networks that answer as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nextify.networks.network import ConvNet


class Ensemble(nn.Module):
    """Networks of one design, and the mean of their logits."""

    def __init__(self, members: Sequence[ConvNet]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.smallest_image = members[0].smallest_image
        """Shortest side of an image in pixels."""

    def forward(self, images: Tensor) -> Tensor:
        """``(N, K)`` logits of ``images (N, C, H, W)``."""
        return torch.stack([member(images) for member in self.members]).mean(0)


Classifier = ConvNet | Ensemble
