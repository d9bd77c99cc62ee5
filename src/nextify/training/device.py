"""Where a training runs: which device, with how many threads and workers."""

from __future__ import annotations

from nextify.environment import cores
from nextify.training.request import RequestError
from nextify.training.trial import Runtime


def runtime(device: str = "auto", threads: int | None = None, workers: int | None = None) -> Runtime:
    """Where and how fast: on a CPU all cores and no workers, beside a GPU the cores less one as workers.

    Raises:
        RequestError: a device that cannot be used.
    """
    device = usable_device(device)
    accelerated = device != "cpu"
    for name, value, least in (("--threads", threads, 1), ("--workers", workers, 0)):
        if value is not None and value < least:
            raise RequestError(f"{name} must be {least} or more, got {value}")
    if workers is None:
        workers = max(1, cores() - 1) if accelerated else 0
    return Runtime(device, threads or (1 if accelerated else cores()), workers)


def usable_device(device: str) -> str:
    """``auto`` as ``cuda`` or ``cpu``; another name as it is, once it was tried. Raises ``RequestError``."""
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise RequestError(f"--device {device} cannot be used ({first}); try --device cpu") from error
    return device
