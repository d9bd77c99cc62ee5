"""What a training will take here: a few steps timed, and the part of a batch that fits the memory found by trying."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from nextify.data import Images
from nextify.system import processes
from nextify.training.prepare import Prepared, prepare
from nextify.training.request import Request, RequestError
from nextify.training.trial import Runtime


class OutOfMemory(RequestError):
    """Not even one image at a time fits."""


@dataclass(frozen=True)
class Estimate:
    """From a few measured steps."""

    seconds: float
    step_seconds: float
    images_per_second: float
    memory_mib: int
    """Most memory that a process held while measuring: the device's, or on a CPU all of its own."""
    accumulation: int
    """Parts into which each batch has to be cut so that it fits the memory."""


def measure(prepared: Prepared, runtime: Runtime) -> Estimate:
    """Time a few steps; where a batch does not fit the memory, cut it in two until it does.

    Raises:
        OutOfMemory: a part of one image does not fit either.
    """
    import torch

    from nextify.training.loop import is_out_of_memory, probe

    recipe = prepared.trial.recipe
    most = max(1, recipe.batch_size // processes.count())
    parts = runtime.accumulation
    if parts > most:
        raise RequestError(f"--accumulation {parts} cuts a batch of {recipe.batch_size} into less than images: {most}")
    while True:
        try:
            found = probe(prepared.trial, prepared.images, replace(runtime, accumulation=parts), steps=6)
            break
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if runtime.distributed == "fsdp" and processes.count() > 1:
            raise OutOfMemory(
                f"a batch in {parts} parts does not fit the memory: try --accumulation {2 * parts}, or more processes"
            )
        if parts >= most:
            raise OutOfMemory("one image at a time does not fit the memory: take a smaller --image-size or model")
        parts = min(2 * parts, most)
        if runtime.device.startswith("cuda"):
            torch.cuda.empty_cache()
    slowest = [found["step_seconds"], found["test_seconds"], parts, _peak_memory_mib(runtime.device)]
    step, tests, parts_of_all, memory = processes.largest(slowest)
    seconds = step * found["total_steps"] + tests
    return Estimate(seconds, step, recipe.batch_size / step, int(memory), int(parts_of_all))


def _peak_memory_mib(device: str) -> int:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) // 2**20
    from nextify.evaluation.profiling import resident_bytes

    try:
        return resident_bytes()[1] // 2**20
    except ImportError:  # Windows
        return 0


def epochs_for(request: Request, images: Images, runtime: Runtime) -> int:
    """Epochs that fill ``request.minutes`` here. The batch that the fit chooses depends on the epochs, so twice.

    Raises:
        RequestError: not one epoch fits.
    """
    assert request.minutes is not None
    epochs = 10
    for _ in range(2):
        prepared = prepare(request, images, epochs)
        found = measure(prepared, runtime)
        per_epoch = found.step_seconds * (len(images.train) // prepared.trial.recipe.batch_size)
        tests = max(0.0, found.seconds - per_epoch * epochs)
        exact = (60 * request.minutes * 0.97 - tests) / per_epoch
        if exact < 1:
            raise RequestError(
                f"one epoch takes about {(per_epoch + tests) / 60:.1f} minutes here, more than --minutes "
                f"{request.minutes:g}: give more minutes, a smaller --scale or a smaller --image-size"
            )
        epochs = math.floor(exact)
    return epochs
