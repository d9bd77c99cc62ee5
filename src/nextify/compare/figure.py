"""The figures of a comparison, and the one of cost against resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nextify.compare.figure_accuracy import latency_figure, published_figure
from nextify.compare.figure_parts import COLORS, MARKERS, conditions_line, provenance, ticks
from nextify.compare.findings import Results
from nextify.report.drawing import FAINT, PAPER, SOFT, sheet, tidy, write
from nextify.report.text import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (
    ("macs", "multiply-adds", "an image"),
    ("attention_share", "attention's share", "of the multiply-adds"),
    ("latency_ms_p50", "latency", "ms, batch 1, median"),
    ("batch_ms_per_image", "time in batches", "ms an image"),
    ("training_ms_per_image", "time in training", "ms an image"),
    ("training_mib", "memory in training", "MiB beyond the start"),
)


def growth_figure(results: Results) -> Figure | None:
    """Cost against pixels on logarithmic axes, a panel a quantity; None where only one size was measured."""
    rows = results["rows"]
    panels = [p for p in PANELS if any(r[p[0]] for r in rows)]
    sizes = results["settings"]["sizes"]
    if len(sizes) < 2 or not panels:
        return None
    models = [m["model"] for m in results["models"]]
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    each, tall, left, gap_x, gap_y, top, bottom = (
        3.5,
        2.7,
        0.85,
        1.0,
        1.0,
        1.35,
        1.15 + 0.24 * math.ceil(len(models) / 3),
    )
    width = left + columns * each + (columns - 1) * gap_x + 0.4
    height = top + lines * tall + (lines - 1) * gap_y + bottom
    figure, canvas = sheet(width, height)
    write(canvas, 0.4, height - 0.38, "Cost against resolution", size=16, weight="bold")
    write(canvas, 0.4, height - 0.68, conditions_line(results), size=9.5, color=SOFT)
    exponents = {(g["model"], g["quantity"]): g["exponent"] for g in results["growth"]}
    for index, (key, title, unit) in enumerate(panels):
        x = left + (index % columns) * (each + gap_x)
        y = height - top - tall - (index // columns) * (tall + gap_y)
        axes = figure.add_axes((x / width, y / height, each / width, tall / height))
        values: list[float] = []
        ends: list[tuple[float, float, str, str]] = []
        for i, model in enumerate(models):
            points = [(r["image_size"], r[key]) for r in rows if r["model"] == model and r[key]]
            if not points:
                continue
            color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=5, linewidth=1.4)
            values += [v for _, v in points]
            if (model, key) in exponents:
                ends.append((*points[-1], signed(exponents[model, key]).lstrip("+"), color))
        axes.set_xscale("log")
        axes.set_yscale("log")
        tidy(axes)
        axes.grid(color=FAINT, linewidth=0.5)
        _size_ticks(axes, sizes)
        _cost_ticks(axes, values, key == "attention_share")
        _end_labels(axes, ends)
        write(canvas, x - 0.5, y + tall + 0.2, title, size=11, weight="bold")
        write(canvas, x - 0.5 + 0.088 * len(title) + 0.12, y + tall + 0.2, unit, size=8.5, color=SOFT)
    _model_key(canvas, models, 0.4, bottom - 0.85, width)
    said = "Figures at the right end: the exponent of cost against pixels; 1 is in proportion, 2 is quadratic."
    write(canvas, 0.4, 0.46, said, size=8.5, color=SOFT)
    write(canvas, 0.4, 0.24, provenance(results), size=7.5, color=PAPER)
    return figure


def _size_ticks(axes: Axes, sizes: Sequence[int]) -> None:
    ticks(axes.xaxis, sizes, [f"{s}²" for s in sizes])
    axes.set_xlim(min(sizes) / 1.08, max(sizes) * 1.28)


def _cost_ticks(axes: Axes, values: Sequence[float], share: bool) -> None:
    low, high = min(values), max(values)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps: tuple[float, ...] = (1,)
    if high / low < 8:
        steps = (1, 1.5, 2, 3, 4, 5, 7)
    elif high / low < 300:
        steps = (1, 2, 5)
    places = [m * 10.0**d for d in decades for m in steps]
    places = [p for p in places if low / 1.35 <= p <= high * 1.35]
    ticks(axes.yaxis, places, [_short(p, share) for p in places])
    axes.set_ylim(low / 1.35, high * 1.35)


def _short(value: float, share: bool) -> str:
    if share:
        return f"{100 * value:g} %"
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _end_labels(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """The exponents beside the last points, moved apart where they would overlap."""
    low, high = (math.log(v) for v in axes.get_ylim())
    least = 0.062 * (high - low)
    ends = sorted(ends, key=lambda e: e[1])
    places: list[float] = []
    for _, y, _, _ in ends:
        places.append(max([math.log(y), *(place + least for place in places[-1:])]))
    below = max([0.0, *(place - high for place in places[-1:])])
    for (x, _, words, color), place in zip(ends, places, strict=True):
        axes.text(x * 1.05, math.exp(place - below), words, fontsize=8, color=color, va="center", family="DejaVu Sans")


def _model_key(canvas: Axes, models: Sequence[str], x: float, y: float, width: float) -> None:
    step = (width - 0.8) / 3
    for i, name in enumerate(models):
        left, at = x + (i % 3) * step, y - 0.24 * (i // 3) + 0.24 * (math.ceil(len(models) / 3) - 1)
        canvas.plot([left, left + 0.3], [at, at], color=COLORS[i % len(COLORS)], linewidth=1.6)
        canvas.plot([left + 0.15], [at], color=COLORS[i % len(COLORS)], marker=MARKERS[i % len(MARKERS)], markersize=5)
        write(canvas, left + 0.4, at, name, size=9, color=SOFT)


def figures(results: Results) -> dict[str, tuple[str, Figure]]:
    """``{file name without its ending: (what it shows, figure)}``."""
    found: dict[str, tuple[str, Figure]] = {}
    growth = growth_figure(results)
    if growth is not None:
        found["growth"] = ("Cost of each network against resolution, on logarithmic axes", growth)
    latency = latency_figure(results)
    if latency is not None:
        found["latency-accuracy"] = ("Published accuracy over the latency measured here", latency)
    found["accuracy-flops"] = ("The paper's accuracies over multiply-adds", published_figure(results))
    return found
