"""The rows of a batch that each of several processes takes, so that together they train on the same batch as one.

A row keeps its place in the whole batch, and so every random draw made for it. Mixing pairs row i with row B-1-i
(``on_device``), so a process takes whole pairs: a range from the front and its mirror image from the back. Its rows, in
ascending order, then pair up as in the whole batch. The unpaired row of an odd batch goes to the last process.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """Some rows, ascending, of a batch of ``batch`` images."""

    rows: Rows
    batch: int


def share(batch: int, rank: int, count: int) -> Share:
    """The rows of process ``rank`` of ``count``; together the processes take each row once. Raises ``ValueError`` where
    a process would get no pair."""
    if batch < 2 * count:
        raise ValueError(
            f"a batch of {batch} images is too small for {count} processes, which need at least two each: set "
            f"batch_size to {2 * count} or more, or start fewer processes"
        )
    pairs = batch // 2
    front = np.arange(rank * pairs // count, (rank + 1) * pairs // count, dtype=np.int64)
    back = 2 * pairs - 1 - front[::-1]
    unpaired = np.arange(2 * pairs, batch if rank == count - 1 else 2 * pairs, dtype=np.int64)
    return Share(np.concatenate([front, back, unpaired]), batch)
