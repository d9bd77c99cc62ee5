"""The processes that work on one job together: which of them this is, and what they agree on.

``torchrun`` starts them, on one machine or on many, and names them in the environment (``RANK``, ``WORLD_SIZE``,
``LOCAL_RANK``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR``, ``MASTER_PORT``). A process that was started alone is the first
of one, and every function here gives it back what it has. Importing this file does not import torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long the processes wait for one that prepares data. A dead one is noticed by torchrun long before."""


class FirstFailed(RuntimeError):
    """The first process met an error and tells of it; the others end with this."""


class OneFailed(ValueError):
    """A process other than the first met an error; the first tells of it."""


def launched() -> int:
    """Processes that were started together, this one included."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys() else 1


def on_this_machine() -> tuple[int, int]:
    """Number of this process among those on its machine, and how many these are."""
    if launched() == 1:
        return 0, 1
    return int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Within: the processes that were started together speak to each other, over nccl between GPUs, else over gloo."""
    if launched() == 1 or count() > 1:
        yield
        return
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def number() -> int:
    """Number of this process among those that were started together, from 0, also before they have joined."""
    return int(os.environ["RANK"]) if launched() > 1 else 0


def lost(error: RuntimeError) -> bool:
    """Whether the error only says that another process is gone."""
    text = str(error).lower()
    return count() > 1 and any(word in text for word in ("gloo", "nccl", "connection closed", "connection reset"))


def count() -> int:
    """How many processes have joined; 1 where this one is alone."""
    dist = sys.modules.get("torch.distributed")
    return dist.get_world_size() if dist is not None and dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return sys.modules["torch.distributed"].get_rank() if count() > 1 else 0


def is_first() -> bool:
    """Whether this process speaks and writes for all."""
    return rank() == 0


def summed(values: Tensor) -> Tensor:
    """The sum of all processes' tensors, which are of one shape and kind; every process must call this."""
    if count() == 1:
        return values
    import torch.distributed as dist

    total = values.clone()
    dist.all_reduce(total)
    return total


def gathered(value: T) -> list[T]:
    """What each process gives, in their order, to all; every process must call this."""
    if count() == 1:
        return [value]
    import torch.distributed as dist

    found: list[T | None] = [None] * count()
    dist.all_gather_object(found, value)
    return found  # type: ignore[return-value]


def largest(values: Sequence[float]) -> list[float]:
    """Of each number the largest that any process gave; every process must call this."""
    if count() == 1:
        return list(values)
    import torch
    import torch.distributed as dist

    found = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return [float(value) for value in found]


def from_first(function: Callable[[], T]) -> T:
    """What ``function`` gives in the first process, to all; every process must call this.

    Raises:
        FirstFailed: in the others, where it raised in the first.
    """
    if count() == 1:
        return function()
    outcome: list[tuple[bool, T | None]] = [(False, None)]
    if not is_first():
        _broadcast(outcome)
        good, value = outcome[0]
        if not good:
            raise FirstFailed("the first process failed; its message says why")
        return value  # type: ignore[return-value]
    try:
        outcome = [(True, function())]
    finally:
        _broadcast(outcome)
    return outcome[0][1]  # type: ignore[return-value]


def _broadcast(outcome: list[tuple[bool, T | None]]) -> None:
    import torch
    import torch.distributed as dist

    dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))


def first_alone(function: Callable[[], T]) -> T:
    """``function`` in every process: in the first, then in all others, which find its files; each must call this.

    Raises:
        OneFailed: it raised in a process other than the first; in all of them.
        FirstFailed: in the others, where it raised in the first.
    """
    if count() == 1:
        return function()
    import torch.distributed as dist

    found: list[T] = []
    failures: list[str | None] = [None] * count()
    failure = None
    from_first(lambda: found.append(function()))
    if not is_first():
        try:
            found.append(function())
        except Exception as error:
            failure = f"process {rank()}: {error}"
    dist.all_gather_object(failures, failure)
    for told in failures:
        if told is not None:
            raise OneFailed(told)
    return found[0]
