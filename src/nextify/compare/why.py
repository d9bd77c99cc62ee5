"""``--why``: what layout, precision and each kind of operator cost each network here.

Every network runs in inference in each memory layout and precision, the variants in turn (A B C D, A B C D, …), and
is profiled once in each.
"""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from torch.profiler import ProfilerActivity, profile

from nextify.compare.measure import Cell, Comparison, built, repeated
from nextify.compare.memory import of_one_network
from nextify.compare.records import Variant, Why
from nextify.compare.settings import Settings
from nextify.evaluation import profiling
from nextify.evaluation.profiling import Conditions, MemoryLayout, Precision
from nextify.system.device import threads

ROUNDS = 5
LAYOUTS: tuple[MemoryLayout, ...] = ("channels_last", "contiguous")
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
ON_GPU: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
WORTH_SAYING = 0.05
"""Share of the time from which an operator is named."""

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


def measure(comparison: Comparison, progress: Callable[[str], object]) -> list[Why]:
    """Measure each network at the smallest size at which it was measured; one that does not fit memory is left out."""
    settings, found = comparison.settings, []
    first = {cell.entry.name: cell for cell in reversed(comparison.cells) if cell.latency}
    for cell in reversed(first.values()):
        progress(f"why: {cell.entry.model}")
        try:
            with threads(settings.threads):
                found.append(_why(cell, settings))
        except Exception as error:
            if not of_one_network(error):
                raise
        gc.collect()
    return found


def _why(cell: Cell, settings: Settings) -> Why:
    batch, device = max(settings.batch_sizes), settings.conditions.device
    steps: dict[Conditions, Callable[[], None]] = {}
    for layout in LAYOUTS:
        model = profiling.place(built(cell, settings), Conditions(device, "fp32", layout))
        for precision in ON_GPU if settings.conditions.on_gpu else PRECISIONS:
            given = Conditions(device, precision, layout)
            images = profiling.random_images(batch, cell.image_size, given)
            # Variants take turns, so each sets for itself what is global.
            steps[given] = profiling.conditions(given)(profiling.inference(model, images, given))
            steps[given]()
    rounds: dict[Conditions, list[float]] = {given: [] for given in steps}
    for _ in range(ROUNDS):
        for given, step in steps.items():
            step()  # the first after another variant's finds caches full of that one
            rounds[given].append(1e3 * repeated(step, device) / batch)
    variants = (
        Variant(given.layout, given.precision, median(times), tuple(times), shares(steps[given], given))
        for given, times in rounds.items()
    )
    return Why(cell.entry.model, cell.image_size, batch, tuple(variants))


def shares(step: Callable[[], None], given: Conditions) -> dict[str, float]:
    """``{kind of operator: share of the time}`` of one call, from torch's profiler; the largest first."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if given.on_gpu else [])]
    with _quiet_stderr(), profile(activities=activities, record_shapes=True) as profiler:
        step()
        profiling.synchronize(given.device)
    spent: dict[str, float] = {}
    for event in profiler.key_averages(group_by_input_shape=True):
        if event.device_type.name != "CPU":  # a kernel, whose time the operator that launched it has too
            continue
        time = event.self_device_time_total if given.on_gpu else event.self_cpu_time_total
        if time > 0 and "::" in event.key:
            kind = kind_of(event.key, event.input_shapes)
            spent[kind] = spent.get(kind, 0.0) + time
    total = sum(spent.values()) or 1.0
    return {kind: time / total for kind, time in sorted(spent.items(), key=lambda s: -s[1])}


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Keep the profiler's library, which writes to the process's stderr, quiet."""
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


def findings(why: Why, family: str) -> Iterator[str]:
    """Sentences about layout, precision and operators, from the figures of one network."""
    variants = {(v.layout, v.precision): v for v in why.variants}
    precisions = list(dict.fromkeys(v.precision for v in why.variants))
    place = f"{why.model} at {why.image_size}² in batches of {why.batch_size}"
    if family not in ("ViT", "Swin"):
        for precision in precisions:
            pair = variants["contiguous", precision], variants["channels_last", precision]
            yield _costs(f"{place}, {precision}", "NCHW (contiguous)", "channels-last", *pair)
    for precision in precisions[1:]:
        pair = variants["channels_last", precision], variants["channels_last", precisions[0]]
        yield _costs(place, precision, precisions[0], *pair)
    for precision in precisions:
        named = variants["channels_last", precision].shares.items()
        said = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in named if share >= WORTH_SAYING)
        yield f"{place}, {precision}, channels-last: {said} of the time (one profiled call)."
    depthwise = {key: v.shares.get("depthwise convolutions", 0.0) for key, v in variants.items()}
    if max(depthwise.values()) >= WORTH_SAYING:
        names = {"contiguous": "NCHW", "channels_last": "NHWC"}
        said = ", ".join(f"{100 * share:.0f} % in {names[layout]} {p}" for (layout, p), share in depthwise.items())
        yield f"{place}: depthwise convolutions take {said} of the time."


def _costs(place: str, name: str, other: str, ours: Variant, theirs: Variant) -> str:
    changes = [100 * (a / b - 1) for a, b in zip(ours.rounds_ms, theirs.rounds_ms, strict=True)]
    low, middle, high = min(changes), median(changes), max(changes)
    spread = f"n = {len(changes)} rounds, {low:+.0f} to {high:+.0f} %".replace("-", "−")
    if low <= 0 <= high:
        return f"{place}: {name} and {other} cannot be told apart in time ({spread})."
    return f"{place}: {name} takes {abs(middle):.0f} % {'more' if middle > 0 else 'less'} time than {other} ({spread})."
