"""The processes of a distributed job: this process's place among them, and communication.

``torchrun`` starts them on one or more machines and describes them in the environment (``RANK``, ``WORLD_SIZE``,
``LOCAL_RANK``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR``, ``MASTER_PORT``). A process started alone
is the first of one, for which every function here returns its own values. Importing this file does not import torch.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import context
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long processes wait for one that prepares data. torchrun notices a dead process long before."""


class FirstFailed(RuntimeError):
    """Raised in the other processes if the first one failed; the first reports its own error."""


class OneFailed(ValueError):
    """Raised in every process if one other than the first failed; the first reports it."""


class LostOthers(ConnectionError):
    """Another process of the job is gone."""


class LaunchError(ValueError):
    """The environment names a launcher's processes but not where they meet; the message names the remedy."""


def worker_context(*modules: str) -> Any:
    """How to start worker processes on this machine, as ``multiprocessing`` has it.

    On Linux they are forked from a server process that has imported ``modules`` once, so that each starts in a moment.
    Elsewhere a process that has loaded torch is not safe to fork, or cannot: each imports them anew. They do not run
    the user's script again, so that it needs no ``if __name__ == "__main__"``; what it defines cannot be sent to them.
    """
    if sys.platform != "linux":
        return _Spawning()
    workers = _ForkServer()
    workers.set_forkserver_preload(list(modules))
    return workers


class _WithoutScript:
    """A process that does not import the script that started it."""

    _starting = threading.Lock()

    def start(self) -> None:
        script = vars(sys.modules["__main__"])
        with self._starting:  # multiprocessing reads these to tell the new process what to import
            known = {name: value for name, value in script.items() if name in ("__file__", "__spec__")}
            script["__spec__"] = script["__file__"] = None
            try:
                super().start()  # type: ignore[misc]
            finally:
                del script["__file__"]
                script |= known


class _Forked(_WithoutScript, context.ForkServerProcess):
    pass


class _Spawned(_WithoutScript, context.SpawnProcess):
    pass


class _ForkServer(context.ForkServerContext):
    Process = _Forked


class _Spawning(context.SpawnContext):
    Process = _Spawned


def launched() -> int:
    """Number of processes started together, including this one."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys() else 1


def on_this_machine() -> tuple[int, int]:
    """Index of this process among those on its machine, and their number."""
    if launched() == 1:
        return 0, 1
    return int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Connect the processes started together for the duration of the block: NCCL between GPUs, otherwise gloo. Raises
    ``LaunchError`` where the environment does not say where they meet, and ``LostOthers`` where another process ended
    within the block."""
    if launched() == 1 or count() > 1:
        yield
        return
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise LaunchError(
            f"WORLD_SIZE, RANK and LOCAL_RANK are set but not {' and '.join(missing)}: start with torchrun, or unset "
            f"WORLD_SIZE to train in one process"
        )
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
        yield
    except RuntimeError as error:
        if not lost(error):
            raise
        raise LostOthers(f"process {number()} lost contact with the others; one of them failed") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def number() -> int:
    """Index of this process among those started together, from 0; valid before they have joined, too."""
    return int(os.environ["RANK"]) if launched() > 1 else 0


def lost(error: RuntimeError) -> bool:
    """Whether the error only means that another process is gone."""
    text, words = str(error).lower(), ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
    return launched() > 1 and any(word in text for word in words)


def count() -> int:
    """Number of processes that have joined; 1 for a process alone."""
    dist = sys.modules.get("torch.distributed")
    return dist.get_world_size() if dist is not None and dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process among those that have joined, from 0."""
    return sys.modules["torch.distributed"].get_rank() if count() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank() == 0


def summed(values: Tensor) -> Tensor:
    """Sum the processes' tensors, which share shape and dtype; every process must call this."""
    if count() == 1:
        return values
    import torch.distributed as dist

    total = values.clone()
    dist.all_reduce(total)
    return total


def gathered(value: T) -> list[T]:
    """Every process's value, in rank order, in every process; each must call this."""
    if count() == 1:
        return [value]
    import torch.distributed as dist

    found: list[T | None] = [None] * count()
    dist.all_gather_object(found, value)
    return found  # type: ignore[return-value]


def largest(values: Sequence[float]) -> list[float]:
    """The elementwise maximum over all processes; every process must call this."""
    if count() == 1:
        return list(values)
    import torch
    import torch.distributed as dist

    found = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return [float(value) for value in found]


def from_first(function: Callable[[], T]) -> T:
    """Run ``function`` in the first process and return its result in all; every process must call this. Raises
    ``FirstFailed`` in the others, if it raised in the first."""
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
    """Run ``function`` in the first process, then in the others, which find its files; every process must call this.
    Raises ``OneFailed`` in all processes, if it raised in one other than the first, and ``FirstFailed`` in the others,
    if it raised in the first."""
    if count() == 1:
        return function()
    found: list[T] = []
    failure = None
    from_first(lambda: found.append(function()))
    if not is_first():
        try:
            found.append(function())
        except Exception as error:
            failure = f"process {rank()}: {error}"
    for told in gathered(failure):
        if told is not None:
            raise OneFailed(told)
    return found[0]
