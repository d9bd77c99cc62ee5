"""Which rows of a batch one of several processes takes, so that together they train on the batch that one would.

A row keeps its place, and with it everything that is drawn for it. Mixing pairs row i with row B-1-i (``device_side``),
so a process takes whole pairs: a range from the front and its mirror image from the back. Then its own rows, in order,
are paired as they are in the whole batch. The middle row of an odd batch, which mixing leaves alone, stays the last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """Rows of a batch of ``batch`` images, in ascending order."""

    rows: Rows
    batch: int


def share(batch: int, rank: int, count: int) -> Share:
    """The rows of process ``rank`` of ``count``; over all processes each row once.

    Raises:
        ValueError: a process would be left without a pair.
    """
    if batch < 2 * count:
        raise ValueError(
            f"a batch of {batch} images leaves some of {count} processes without a pair of them: "
            f"set batch_size to {2 * count} or more, or start fewer processes"
        )
    pairs = batch // 2
    front = np.arange(rank * pairs // count, (rank + 1) * pairs // count, dtype=np.int64)
    back = 2 * pairs - 1 - front[::-1]
    unpaired = np.arange(2 * pairs, batch if rank == count - 1 else 2 * pairs, dtype=np.int64)
    return Share(np.concatenate([front, back, unpaired]), batch)
