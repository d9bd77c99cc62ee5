"""Devices: which one can be used, what it is called, and how much memory was taken."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from nextify.system import processes
from nextify.system.environment import resident_bytes


class DeviceError(ValueError):
    """A device that cannot be used; the message names the remedy."""


def usable_device(device: str) -> str:
    """Resolve ``auto`` to ``cuda`` or ``cpu``; return any other name as it is, once it was tried.

    With several processes on a machine, each takes the GPU of its number. Raises ``DeviceError`` where torch cannot use
    the device, or there are too few GPUs for the processes."""
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu" or processes.launched() == 1:
            return device
    if processes.launched() > 1:
        number, here = processes.on_this_machine()
        if device == f"cuda:{number}":  # found before
            return device
        if device != "cuda":
            raise DeviceError(
                f"--device {device} does not work with {here} processes: leave it out, or give cpu or cuda"
            )
        if here > torch.cuda.device_count():
            raise DeviceError(
                f"{here} processes on a machine with {torch.cuda.device_count()} GPUs: start one for each GPU with "
                f"--nproc-per-node, or give --device cpu"
            )
        device = f"cuda:{number}"
    try:
        torch.zeros(1, device=device).cpu()  # a device of torch's such as meta holds nothing that could be read
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise DeviceError(f"--device {device} cannot be used ({first}); try --device cpu") from error
    return device


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Set torch's CPU threads, and restore them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Compute as in a fresh process, whatever the caller has set in torch: with gradients, in full precision, with new
    tensors in float32 on the CPU. Threads are left as they were. Decorates the functions of the Python API."""
    import torch

    dtype, number = torch.get_default_dtype(), torch.get_num_threads()
    with ExitStack() as entered:
        if torch.is_inference_mode_enabled():
            entered.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            entered.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                entered.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            entered.enter_context(torch.device("cpu"))
        if dtype != torch.float32:
            entered.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            if torch.get_num_threads() != number:
                torch.set_num_threads(number)


_SEEDING = threading.RLock()


@contextmanager
def seeding() -> Iterator[None]:
    """As ``torch_defaults``, for functions that seed torch's generators: these are left as they were. Several threads
    take turns, since they share the generators."""
    import torch

    with _SEEDING, torch_defaults():
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        generator = torch.get_rng_state()
        try:
            yield
        finally:
            torch.set_rng_state(generator)
            for gpu, state in enumerate(gpus):
                torch.cuda.set_rng_state(state, gpu)


def gpu_name(device: str) -> str | None:
    """Name of a CUDA device, or None for the CPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.get_device_name(torch.device(device))


def peak_memory_mib() -> int | None:
    """Most memory that this process has held on the CPU, MiB, or None on systems that do not say."""
    with suppress(ImportError):  # of resource, on Windows
        return resident_bytes()[1] // 2**20
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine ran out of memory; torch has no class for the latter."""
    words = ("not enough memory", "can't allocate memory", "out of memory")
    told = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    return told or isinstance(error, MemoryError)
