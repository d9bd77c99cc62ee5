"""Peak memory of one network in a process of its own.

On a CPU every network has a fresh process, on Linux forked from a server that has imported the libraries. It first
trains a small network for a step, so that everything loaded on first use is there, and notes its size. Then it builds
the network, runs inference, notes the peak, trains two steps and notes the peak again. Each figure is sent at once,
so that a process which the system ends for want of memory has told how far it came.

On a CUDA device the allocator's peak can be reset, so one process measures all networks. On a CPU nothing is compiled
here, even where the comparison compiles: the peak would be that of the compiler.
"""

import functools
import gc
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Self

import torch

from nextify.compare.entries import build, find
from nextify.compare.records import Model
from nextify.compare.settings import Settings
from nextify.evaluation import profiling
from nextify.evaluation.profiling import Conditions
from nextify.system.device import out_of_memory
from nextify.system.environment import resident_bytes
from nextify.system.processes import worker_context

MIB = 2**20
Figures = Mapping[str, float | str | None]
"""What a process reports: ``start``, ``inference`` and ``training`` in bytes, ``doing``, and ``problem``."""


@dataclass(frozen=True)
class Memory:
    """In MiB; None where it was not reached, and ``problem`` says why."""

    start: float | None = None
    """The process with its libraries, before the network is built; on CUDA what its allocator holds by then."""
    inference: float | None = None
    """Peak of a forward pass, beyond ``start``: weights and activations."""
    training: float | None = None
    """Peak of two training steps, beyond ``start``: also gradients and optimizer state."""
    problem: str | None = None

    @classmethod
    def of(cls, found: Figures, failure: str | None = None) -> Self:
        """From what a process reported; ``failure`` says how it ended, None for well."""
        mib = {k: v / MIB for k, v in found.items() if isinstance(v, int | float)}
        start = mib.get("start", 0.0)
        beyond = {k: mib[k] - start if k in mib else None for k in ("inference", "training")}
        problem = found.get("problem") or failure
        if problem is not None:
            problem = f"{found.get('doing', 'starting')}: {problem}"
        return cls(mib.get("start"), **beyond, problem=problem)


class Processes:
    """Start the processes; a context manager that leaves none running."""

    def __init__(self) -> None:
        self._context = worker_context("nextify.compare.memory", "timm")
        self._worker: tuple[BaseProcess, Connection] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker is not None:
            process, connection = self._worker
            process.kill()
            process.join()
            connection.close()
            self._worker = None

    def measure(self, entry: Model, image_size: int, settings: Settings, timeout: float = 600.0) -> Memory:
        """Peak memory of one network at one size; never raises for a network that fails. ``timeout``: seconds."""
        if self._worker is None:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._worker = process, ours
        process, connection = self._worker
        found: dict[str, float | str | None] = {}
        failure, deadline = None, time.monotonic() + timeout
        try:
            connection.send((entry.name, image_size, settings))
            while connection.poll(max(0.0, deadline - time.monotonic())):
                reported = connection.recv()
                if reported is None:
                    break
                found |= reported
            else:
                failure = f"took longer than {timeout:.0f} s"
        except (EOFError, OSError):
            process.join()
            failure = f"exit code {process.exitcode}"
            if process.exitcode == -signal.SIGKILL:
                failure = "does not fit memory (the system ended the process)"
        if failure or not settings.conditions.on_gpu:
            self.__exit__()
        return Memory.of(found, failure)


def _work(connection: Connection) -> None:
    """Measure what is asked for until the process is ended."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with suppress(OSError):  # where memory runs out, the system should end this process and not the comparison
        Path("/proc/self/oom_score_adj").write_text("1000")
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            name, image_size, settings = connection.recv()
            measure_here(name, image_size, settings, connection.send)
            connection.send(None)


def measure_here(name: str, image_size: int, settings: Settings, report: Callable[[Figures], object]) -> None:
    """Measure one network in this process; each figure, or an error, is reported as soon as it is known."""
    try:
        _measure(name, image_size, settings, report)
    except Exception as error:
        report({"problem": describe_failure(error)})
    _free(settings.conditions)


def _measure(name: str, image_size: int, settings: Settings, report: Callable[[Figures], object]) -> None:
    given = settings.conditions if settings.conditions.on_gpu else replace(settings.conditions, compile=False)
    torch.set_num_threads(settings.threads)

    def used(peak: bool) -> int:
        if given.on_gpu:
            held = torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated
            return held(given.device)
        return resident_bytes()[int(peak)]

    def peak_of(step: Callable[[], None], uncounted: bool) -> int:
        """On a GPU what its libraries need once belongs to the uncounted call that precedes the counted one."""
        if uncounted:
            step()
        if uncounted and given.on_gpu:
            profiling.synchronize(given.device)
            torch.cuda.reset_peak_memory_stats(given.device)
        step()
        profiling.synchronize(given.device)
        return used(peak=True)

    entry = find(name)
    _train_small("timm:test_vit" if name.startswith("timm:") else "convnextv2_atto", given)
    _free(given)
    report({"start": used(peak=False), "doing": "building"})
    with profiling.conditions(given):
        with torch.device(given.device):
            model = build(entry, image_size, settings.num_classes, settings.fitted_to, settings.head)
        model = profiling.place(model, given)
        report({"doing": "inference"})
        images = profiling.random_images(max(settings.batch_sizes), image_size, given)
        inference = peak_of(profiling.inference(model, images, given), uncounted=given.on_gpu)
        report({"inference": inference, "doing": "training"})
        images = profiling.random_images(settings.training_batch_size, image_size, given)
        report({"training": peak_of(profiling.training(model, images, given), uncounted=True)})


@functools.cache
def _train_small(name: str, given: Conditions) -> None:
    """One training step of a small network, so that what torch loads on first use is not taken for the network's."""
    model = profiling.place(build(find(name), 64), given)
    profiling.training(model, profiling.random_images(1, 64, given), given)()


def _free(given: Conditions) -> None:
    """Return a GPU's memory to it, where other processes need it."""
    gc.collect()
    if given.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(given.device)


def of_one_network(error: BaseException) -> bool:
    """Whether an error concerns one network, so that the others can go on: no memory, or a failed compilation."""
    from torch._dynamo.exc import TorchDynamoException

    return out_of_memory(error) or isinstance(error, TorchDynamoException)


def describe_failure(error: BaseException) -> str:
    """An error in one line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return "does not fit memory" if out_of_memory(error) else f"{type(error).__name__}: {first}"[:300]
