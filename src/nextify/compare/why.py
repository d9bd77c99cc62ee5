"""``--why``: what layout, precision and each kind of operator cost each network here.

Every network runs in inference in each memory layout and precision, the variants in turn (A B C D, A B C D, …), and
is profiled once in each.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nextify.compare.measure import Cell, Comparison, built, repeated, threads
from nextify.compare.memory import out_of_memory
from nextify.evaluation import profiling
from nextify.evaluation.profiling import Conditions, MemoryLayout, Precision, median

ROUNDS = 5
LAYOUTS: tuple[MemoryLayout, ...] = ("channels_last", "contiguous")
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
ON_GPU: tuple[Precision, ...] = ("fp32", "tf32", "bf16")

_KINDS = (
    ("depthwise convolutions", ("nextify::depthwise",)),
    ("attention", ("scaled_dot_product", "flash_attention", "softmax")),
    ("convolutions", ("conv",)),
    ("norms", ("norm",)),
    ("activations", ("gelu", "relu", "clamp_min", "silu")),
    ("batched products", ("bmm",)),
    ("matrix products", ("addmm", "::mm", "::linear", "matmul")),
    ("copies and casts", ("copy", "contiguous", "clone", "::cat", "::roll", "index", "::fill_", "::zero_")),
)
"""Kinds of operators and what their names contain; the first that fits counts. All else is "other"."""


@dataclass
class Variant:
    """One network in one layout and precision."""

    layout: MemoryLayout
    precision: Precision
    rounds_ms: list[float]
    """Milliseconds of one image, one figure a round."""
    shares: dict[str, float]
    """``{kind of operator: share of the time}``, 0 to 1."""


@dataclass
class Why:
    """What was found of one network."""

    cell: Cell
    batch_size: int
    variants: list[Variant]


def measure(comparison: Comparison, progress: Callable[[str], object]) -> list[Why]:
    """Measures each network at the smallest size at which it was; one that does not fit memory is left out."""
    settings = comparison.settings
    found = []
    for name in dict.fromkeys(cell.entry.name for cell in comparison.cells):
        cells = [cell for cell in comparison.cells if cell.entry.name == name and cell.latency]
        if not cells:
            continue
        progress(f"why: {cells[0].entry.label}")
        try:
            with threads(settings.threads):
                found.append(_of_one(cells[0], comparison))
        except Exception as error:
            if not out_of_memory(error):
                raise
        gc.collect()
    return found


def _of_one(cell: Cell, comparison: Comparison) -> Why:
    settings = comparison.settings
    batch = max(settings.batch_sizes)
    device = settings.conditions.device
    steps: list[tuple[Variant, Callable[[], None]]] = []
    for layout in LAYOUTS:
        model = None
        for precision in ON_GPU if device.startswith("cuda") else PRECISIONS:
            given = Conditions(device, precision, layout)
            model = profiling.place(built(cell, settings), given) if model is None else model
            images = profiling.random_images(batch, cell.image_size, given)
            step = _under(given, profiling.inference(model, images, given))
            step()
            steps.append((Variant(layout, precision, [], {}), step))
    for _ in range(ROUNDS):
        for variant, step in steps:
            step()  # the first after another variant's finds caches full of that one
            variant.rounds_ms.append(1e3 * repeated(step, device) / batch)
    for variant, step in steps:
        variant.shares = shares(step, device)
    return Why(cell, batch, [variant for variant, _ in steps])


def _under(given: Conditions, step: Callable[[], None]) -> Callable[[], None]:
    """The step with what is global set for it alone, since variants take turns."""

    def run() -> None:
        with profiling.conditions(given):
            step()

    return run


def shares(step: Callable[[], None], device: str) -> dict[str, float]:
    """``{kind of operator: share of the time}`` of one call, from torch's profiler; the largest first."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.startswith("cuda")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with _quiet_stderr(), profile(activities=activities, record_shapes=True) as profiler:
        step()
        profiling.synchronize(device)
    spent: dict[str, float] = {}
    for event in profiler.key_averages(group_by_input_shape=True):
        if event.device_type.name != "CPU":  # a kernel, whose time the operator that launched it has too
            continue
        time = event.self_device_time_total if cuda else event.self_cpu_time_total
        if time > 0 and "::" in event.key:
            kind = kind_of(event.key, event.input_shapes)
            spent[kind] = spent.get(kind, 0.0) + time
    total = sum(spent.values()) or 1.0
    return {kind: time / total for kind, time in sorted(spent.items(), key=lambda s: -s[1])}


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """The profiler's library writes what it starts, and what it does not find, to the process's stderr itself."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def kind_of(operator: str, shapes: Any) -> str:
    """The kind of an operator by its name; a convolution whose filters see one channel each is depthwise."""
    kind = next((kind for kind, parts in _KINDS if any(part in operator for part in parts)), "other")
    if kind == "convolutions" and len(shapes) > 1 and len(shapes[1]) == 4 and shapes[1][0] > 1 == shapes[1][1]:
        return "depthwise convolutions"
    return kind


def results(found: list[Why]) -> list[dict[str, Any]]:
    """The part ``why`` of results.json."""
    return [
        {
            "model": why.cell.entry.label,
            "image_size": why.cell.image_size,
            "batch_size": why.batch_size,
            "variants": [
                {
                    "layout": v.layout,
                    "precision": v.precision,
                    "ms_per_image": median(v.rounds_ms),
                    "rounds_ms": v.rounds_ms,
                    "shares": v.shares,
                }
                for v in why.variants
            ],
        }
        for why in found
    ]
