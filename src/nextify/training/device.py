"""Where a training runs: which device, with how many threads and workers."""

from __future__ import annotations

from typing import cast

from nextify.system import processes
from nextify.system.environment import cores
from nextify.training.request import RequestError
from nextify.training.trial import Distributed, Runtime


def runtime(
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    accumulation: int | None = None,
    distributed: str = "auto",
) -> Runtime:
    """Where and how fast: on a CPU all cores and no workers, beside a GPU the cores less one as workers.

    Several processes on a machine share its cores, and each takes the GPU of its number.

    Raises:
        RequestError: a device that cannot be used.
    """
    device = usable_device(device)
    accelerated = device != "cpu"
    for name, value, least in (
        ("--threads", threads, 1),
        ("--workers", workers, 0),
        ("--accumulation", accumulation, 1),
    ):
        if value is not None and value < least:
            raise RequestError(f"{name} must be {least} or more, got {value}")
    if distributed not in ("auto", "ddp", "fsdp"):
        raise RequestError(f"--distributed is ddp or fsdp, got {distributed!r}")
    if distributed == "fsdp" and processes.launched() == 1:
        raise RequestError("--distributed fsdp needs several processes: start it by torchrun --nproc-per-node N")
    own_cores = max(1, cores() // processes.on_this_machine()[1])
    if workers is None:
        workers = max(1, own_cores - 1) if accelerated else 0
    return Runtime(
        device,
        threads or (1 if accelerated else own_cores),
        workers,
        accumulation=accumulation or 1,
        processes=processes.launched(),
        distributed=cast("Distributed", "ddp" if distributed == "auto" else distributed),
    )


def usable_device(device: str) -> str:
    """``auto`` as ``cuda`` or ``cpu``; another name as it is, once it was tried. Of several processes on a machine
    each takes the GPU of its number. Raises ``RequestError``."""
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu" or processes.launched() == 1:
            return device
    if processes.launched() > 1:
        number, here = processes.on_this_machine()
        if device != "cuda":
            raise RequestError(f"--device {device} for {here} processes: leave it out, or take cpu or cuda")
        if here > torch.cuda.device_count():
            raise RequestError(
                f"{here} processes on a machine of {torch.cuda.device_count()} GPUs: start one for each GPU by "
                f"--nproc-per-node, or take --device cpu"
            )
        device = f"cuda:{number}"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise RequestError(f"--device {device} cannot be used ({first}); try --device cpu") from error
    return device
