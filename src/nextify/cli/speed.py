"""The part of ``nextify doctor`` that needs torch: devices, kernels, and what the kernels gain here."""

import time
from collections.abc import Iterator
from statistics import median

import torch

from nextify import kernels as ours
from nextify.cli.options import Machine
from nextify.cli.printing import Finding
from nextify.data import affine, jpeg  # noqa: F401  # like the kernels, they declare their libraries
from nextify.evaluation import profiling
from nextify.evaluation.profiling import Conditions
from nextify.kernels import gpu
from nextify.networks.zoo import create_model
from nextify.system import native
from nextify.system.device import gpu_name, usable_device
from nextify.system.native import Mode

NETWORK, SIDE, IMAGES = "convnext_atto", 64, 8
"""The network of the speed check, and its batches."""
SECONDS = 4.0
"""The time for each of two comparisons; warming up takes about a second more."""


def devices() -> Iterator[Finding]:
    yield Finding("cpu", f"{torch.get_num_threads()} threads", torch.backends.cpu.get_cpu_capability())
    if not torch.cuda.is_available():
        built = "no GPU that torch can use" if torch.version.cuda else "this torch is built for the CPU alone"
        yield Finding("cuda", None, built)
    for number in range(torch.cuda.device_count()):
        name = f"cuda:{number}"
        memory = torch.cuda.get_device_properties(number).total_memory
        yield Finding(name, gpu_name(name), f"{memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")


def kernels() -> Iterator[Finding]:
    """Every library of ours; those that are neither prebuilt nor compiled yet are compiled now."""
    for name, library in sorted(native.declared.items()):
        build = library.build()
        yield Finding(name, "ours" if build.usable else None, build.note)
    if torch.cuda.is_available():
        yield Finding("gpu", "ours" if gpu.ready() else None, gpu.describe())


def check(machine: Machine) -> Iterator[Finding]:
    """Plain torch against the kernels on a small network, in turn: medians, and what the layers ran on."""
    device = usable_device(machine.device)
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    modes: tuple[Mode, Mode] = ("off", machine.kernels)
    for work in (profiling.inference, profiling.training):
        models, steps = [], []
        for mode in modes:
            given = Conditions(device, kernels=mode)
            torch.manual_seed(0)
            models.append(profiling.place(create_model(NETWORK, 10), given))
            steps.append(work(models[-1], profiling.random_images(IMAGES, SIDE, given), given))
            steps[-1]()
        times: list[list[float]] = [[], []]
        end = time.monotonic() + SECONDS
        while time.monotonic() < end or not times[0]:
            for step, measured in zip(steps, times, strict=True):
                measured.append(profiling.seconds(step, device))
        plain, fast = (1e3 * median(measured) for measured in times)
        yield Finding(
            work.__name__,
            f"{plain / fast:.2f} times",
            f"{plain:.1f} → {fast:.1f} ms per batch, {NETWORK}, {IMAGES} × {SIDE} × {SIDE}, "
            f"{device}, {torch.get_num_threads()} threads, n = {len(times[0])}",
        )
        for group in ours.installed(models[1]):
            if group.kernel == "undecided":  # part of what another ran in one call
                continue
            yield Finding(group.module, group.kernel, f"{len(group.layers)} layers: {group.reason}")
