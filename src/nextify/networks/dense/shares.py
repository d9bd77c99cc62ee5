"""What dense networks need to know of a batch that several processes share, so that they train as one: counts over
the whole batch, and what is drawn for all of its images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Head(nn.Module):
    """A head whose losses are means over what all images of a batch hold together: positive cells, regions, pixels."""

    over_processes: Callable[[Tensor], Tensor] | None = None
    """Sums a tensor over the processes that share each batch; None for one process."""
    part: tuple[Tensor, int] | None = None
    """If the images are some rows of a larger batch: those rows, and the size of that batch."""

    def averaged(self, counts: Tensor, images: int) -> Tensor:
        """What ``counts``, sums over this process's ``images``, would be if all images of the batch were alike; at
        least one in the whole batch. A mean over it is a process's part of the whole batch's mean.
        """
        if self.over_processes is None:
            return counts.clamp(min=1)
        of_images = counts.new_full((1,), images)
        total = self.over_processes(torch.cat([counts.reshape(-1), of_images]))
        return (total[:-1].clamp(min=1) * (images / total[-1])).view(counts.shape)


class DropChannels(nn.Dropout2d):
    """torch's, which draws for the whole batch where its images are some rows of one."""

    part: tuple[Tensor, int] | None = None
    """As a ``Head``'s."""

    def forward(self, x: Tensor) -> Tensor:
        if self.part is None or not self.training:
            return super().forward(x)
        rows, batch = self.part
        kept = x.new_empty((batch, x.shape[1], 1, 1)).bernoulli_(1 - self.p).div_(1 - self.p)
        return x * kept[rows]
