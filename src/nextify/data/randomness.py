"""Random draws as a function of (seed, step) alone.

timm's and torchvision's augmentations draw from the global generators of ``random``, NumPy and torch. These are seeded
for one call and restored after it, so that the draws of the model and of the data do not affect each other.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

ORDER, AUGMENTATION, DEVICE, LIGHT, MASK, MASK_OF_TESTS = 0, 1, 2, 3, 4, 5
"""Streams of draws: the order of an epoch, the transforms of a step, a step's draws on the device, its light, and what
is masked."""


def words(seed: int, at: int, stream: int) -> npt.NDArray[np.uint32]:
    """A seed of eight well-mixed words for the epoch or step ``at``."""
    return np.random.SeedSequence([seed & (2**64 - 1), at, stream]).generate_state(8).astype(np.uint32)


def order(images: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of an epoch: a permutation of ``range(images)``."""
    # RandomState, since NumPy guarantees its numbers across versions, unlike Generator's.
    return np.random.RandomState(words(seed, epoch, ORDER)).permutation(images).astype(np.int64)


def words_of_rows(seed: int, step: int, stream: int, rows: int) -> npt.NDArray[np.uint32]:
    """A seed of four words for each row of a step's batch: ``(rows, 4)``."""
    state = np.random.SeedSequence([seed & (2**64 - 1), step, stream]).generate_state(4 * rows)
    return state.astype(np.uint32).reshape(rows, 4)


def reseed(state: npt.NDArray[np.uint32]) -> None:
    """Seed the global CPU generators with four words; for use within :func:`seeded`, which restores them."""
    import torch

    random.seed(int.from_bytes(state.tobytes(), "little"))
    np.random.seed(int(state[0]))  # noqa: NPY002
    torch.default_generator.manual_seed(int(state[1]) << 31 | int(state[2]) >> 1)


@contextmanager
def seeded(seed: int, step: int, stream: int) -> Iterator[int]:
    """Seed the global CPU generators inside the block and restore them after it; yields a seed for other generators."""
    import torch

    state = words(seed, step, stream)
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    further = int(state[0]) << 31 | int(state[1]) >> 1
    random.seed(state.tobytes())
    np.random.seed(state)  # noqa: NPY002
    torch.default_generator.manual_seed(further)
    try:
        yield further
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.default_generator.set_state(before[2])
