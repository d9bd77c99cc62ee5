"""The figures of a comparison: cost against resolution, latency against accuracy, and the paper's Figure 1.

Colours are Okabe and Ito's, one a network, with a marker each. What the paper printed is named as such.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nextify.compare.entries import family
from nextify.compare.results import Results
from nextify.layout import parameters
from nextify.published import MODELS, OTHER_FAMILIES
from nextify.report.figure import FAINT, INK, PAPER, SOFT, _drawable, _sheet, _tidy, _write
from nextify.report.text import signed
from nextify.roadmap import roadmap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7a7f8a", "#1b1b1f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

PANELS = (
    ("macs", "multiply-adds", "an image"),
    ("attention_share", "attention's share", "of the multiply-adds"),
    ("latency_ms_p50", "latency", "ms, batch 1, median"),
    ("batch_ms_per_image", "time in batches", "ms an image"),
    ("training_ms_per_image", "time in training", "ms an image"),
    ("training_mib", "memory in training", "MiB beyond the start"),
)
FAMILY_COLORS = {
    "ConvNeXt": "#0072B2",
    "isotropic ConvNeXt": "#56B4E9",
    "Swin": "#D55E00",
    "ViT": "#009E73",
    "ResNet": "#7a7f8a",
}


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
    figure, canvas = _sheet(width, height)
    _write(canvas, 0.4, height - 0.38, "Cost against resolution", size=16, weight="bold")
    _write(canvas, 0.4, height - 0.68, conditions_line(results), size=9.5, color=SOFT)
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
        _tidy(axes)
        axes.grid(color=FAINT, linewidth=0.5)
        _size_ticks(axes, sizes)
        _cost_ticks(axes, values, key == "attention_share")
        _end_labels(axes, ends)
        _write(canvas, x - 0.5, y + tall + 0.2, title, size=11, weight="bold")
        _write(canvas, x - 0.5 + 0.088 * len(title) + 0.12, y + tall + 0.2, unit, size=8.5, color=SOFT)
    _model_key(canvas, models, 0.4, bottom - 0.85, width)
    said = "Figures at the right end: the exponent of cost against pixels; 1 is in proportion, 2 is quadratic."
    _write(canvas, 0.4, 0.46, said, size=8.5, color=SOFT)
    _write(canvas, 0.4, 0.24, provenance(results), size=7.5, color=PAPER)
    return figure


def latency_figure(results: Results) -> Figure | None:
    """Published ImageNet-1K top-1 over the latency measured here at 224x224 (or the smallest size); None without
    both."""
    published = {m["model"]: m["published"]["top1"] for m in results["models"] if m["published"]}
    timed = [r for r in results["rows"] if r["latency_ms_p50"]]
    sizes = {r["image_size"] for r in timed}
    size = 224 if 224 in sizes else None
    points = [r for r in timed if r["image_size"] == size and published.get(r["model"]) is not None]
    if len(points) < 2:
        return None
    width, height = 7.4, 5.3
    figure, canvas = _sheet(width, height)
    axes = figure.add_axes((0.85 / width, 1.05 / height, (width - 1.2) / width, (height - 2.05) / height))
    models = [m["model"] for m in results["models"]]
    for r in points:
        i = models.index(r["model"])
        x, y = r["latency_ms_p50"], published[r["model"]]
        axes.plot([x, r["latency_ms_p95"]], [y, y], color=COLORS[i % len(COLORS)], linewidth=1.2, alpha=0.6)
        axes.plot(
            [x], [y], marker=MARKERS[i % len(MARKERS)], markersize=9, markerfacecolor="white", markeredgewidth=2,
            color=COLORS[i % len(COLORS)], linestyle="none", zorder=3,
        )  # fmt: skip
    spans = [(r["latency_ms_p50"], published[r["model"]], r["model"]) for r in points]
    _name_points(axes, spans)
    low, high = min(s[1] for s in spans), max(s[1] for s in spans)
    axes.set_ylim(low - 0.12 * (high - low) - 0.3, high + 0.12 * (high - low) + 0.3)
    axes.set_xlim(0, max(r["latency_ms_p95"] for r in points) * 1.25)
    _tidy(axes)
    axes.grid(color=FAINT, linewidth=0.5)
    axes.set_xlabel("latency of one image measured here, ms (marker: median; line: to the 95th percentile)", fontsize=9,
                    color=SOFT)  # fmt: skip
    _write(canvas, 0.4, height - 0.38, f"Latency here, accuracy as published, {size}×{size}", size=14, weight="bold")
    _write(canvas, 0.4, height - 0.66, "top-1 % on ImageNet-1K: the paper's figures, not measured here", size=9.5,
           color=SOFT)  # fmt: skip
    _write(canvas, 0.4, 0.22, provenance(results), size=7.5, color=PAPER)
    return figure


def published_figure(results: Results | None = None) -> Figure:
    """The paper's Figure 1 for ImageNet-1K at 224x224: accuracy over multiply-adds, a bubble's area by parameters.

    Every accuracy is the paper's. With ``results``, the networks that took part are outlined in black.
    """
    took_part = {m["name"].removeprefix("timm:") for m in results["models"]} if results else set()
    width, height = 9.2, 5.9
    figure, canvas = _sheet(width, height)
    axes = figure.add_axes((0.85 / width, 1.1 / height, (width - 1.25) / width, (height - 2.25) / height))
    bubbles = list(_published())
    for b in sorted(bubbles, key=lambda b: -b.millions):
        edge = INK if b.name in took_part else FAMILY_COLORS[b.family]
        axes.scatter(
            [b.gflops], [b.top1], s=BUBBLE * b.millions, color=FAMILY_COLORS[b.family], alpha=0.5, linewidths=1.5,
            edgecolors=edge,
        )  # fmt: skip
        away = math.sqrt(BUBBLE * b.millions) / 2
        x, y, side = SIDES[b.family]
        axes.annotate(
            b.short, (b.gflops, b.top1), (x * (away + 4), y * (away + 7)), textcoords="offset points", fontsize=8,
            color=INK, ha=side, va="center", family="DejaVu Sans",
        )  # fmt: skip
    for kind, color in FAMILY_COLORS.items():
        line = sorted((b.gflops, b.top1) for b in bubbles if b.family == kind)
        if len(line) > 1 and kind != "ResNet":
            axes.plot(*zip(*line, strict=True), color=color, linewidth=1, alpha=0.6, zorder=1)
    axes.set_xscale("log")
    _tidy(axes)
    axes.grid(color=FAINT, linewidth=0.5)
    _ticks(axes.xaxis, [4, 8, 16, 32, 64], [f"{g} G" for g in (4, 8, 16, 32, 64)])
    axes.set_xlim(3.4, 85)
    axes.set_ylim(75.2, 85.4)
    axes.set_xlabel("multiply-adds at 224×224, as printed", fontsize=9, color=SOFT)
    for i, millions in enumerate((25, 100, 300)):
        at = (26 * 1.45**i, 76.4)
        axes.scatter(*at, s=BUBBLE * millions, facecolors="none", edgecolors=PAPER, linewidths=1)
        axes.annotate(
            f"{millions} M", at, (0, 0) if millions > 100 else (0, 18), textcoords="offset points", fontsize=7.5,
            color=SOFT, ha="center", va="center", family="DejaVu Sans",
        )  # fmt: skip
    _write(canvas, 0.4, height - 0.38, "Accuracy against multiply-adds: published values", size=14, weight="bold")
    said = "top-1 % on ImageNet-1K at 224×224, trained on ImageNet-1K only; the area of a bubble is the parameters"
    _write(canvas, 0.4, height - 0.66, said, size=9.5, color=SOFT)
    left = 0.5
    for kind, color in FAMILY_COLORS.items():
        canvas.scatter([left], [height - 0.93], s=60, color=color, alpha=0.5)
        _write(canvas, left + 0.13, height - 0.93, kind, size=9, color=SOFT)
        left += 0.5 + 0.075 * len(kind)
    said = "Source: arXiv 2201.03545v2, Tables 1, 2, 8 and 10; ResNet-50 with its original recipe and with the paper's."
    _write(canvas, 0.4, 0.36, said, size=7.5, color=PAPER)
    if took_part & {b.name for b in bubbles}:
        said = "Outlined in black: took part in this comparison, which measured what it costs, not its accuracy."
        _write(canvas, 0.4, 0.2, said, size=7.5, color=PAPER)
    return figure


SIDES = {
    "ConvNeXt": (0, 1, "center"),
    "Swin": (0, -1, "center"),
    "isotropic ConvNeXt": (-1, 0, "right"),
    "ViT": (1, 0, "left"),
    "ResNet": (1, 0, "left"),
}
"""Where a family's names stand beside their bubbles."""
BUBBLE = 4.2
"""Area in square points of a million parameters."""


@dataclass(frozen=True)
class _Bubble:
    name: str
    short: str
    family: str
    gflops: float
    top1: float
    millions: float


def _published() -> Iterator[_Bubble]:
    shorts = {"tiny": "T", "small": "S", "base": "B", "large": "L", "xlarge": "XL"}
    for name, model in {**MODELS, **OTHER_FAMILIES}.items():
        # ViT-S and -B with Table 2's recipe are DeiT-S and -B: the same networks and figures under two names.
        if model.top1 is None or model.gflops is None or name in ("vit_small_patch16_224", "vit_base_patch16_224"):
            continue
        kind = {"convnext": "ConvNeXt", "swin": "Swin", "deit": "DeiT", "vit": "ViT"}[name.partition("_")[0]]
        kind = "iso" if "isotropic" in name else kind
        size = next(shorts[part] for part in name.split("_") if part in shorts)
        millions = model.parameters_millions or 0.0
        yield _Bubble(name, f"{kind}-{size}", family(name), model.gflops, model.top1, millions)
    for row, short in zip(list(roadmap("resnet50"))[:2], ("ResNet-50", "ResNet-50, modern recipe"), strict=True):
        name = "resnet50" if short == "ResNet-50" else row.name
        top1, gflops = row.published.top1, row.published.gflops
        yield _Bubble(name, short, "ResNet", gflops, top1, parameters(row.design) / 1e6)


def conditions_line(results: Results) -> str:
    """``cpu, fp32, channels last, 2 threads, 7 rounds in turn``."""
    s = results["settings"]
    rounds = f"{s['rounds']} rounds {'in turn' if s['interleaved'] else 'one network after the other'}"
    parts = [
        s["device"],
        s["precision"],
        s["layout"].replace("_", " "),
        f"{s['threads']} thread{'s' if s['threads'] > 1 else ''}",
    ]
    parts += [rounds if s["rounds"] else "counted only"]
    parts += [] if s["complete"] or not s["rounds"] else ["stopped before the end"]
    return "  ·  ".join(parts)


def provenance(results: Results) -> str:
    e = results["environment"]
    machine = e.get("gpu") if results["settings"]["device"].startswith("cuda") else e.get("cpu")
    parts = [machine, *(f"{k} {e[k]}" for k in ("torch", "timm", "nextify") if e.get(k)), e.get("date")]
    return "  ·  ".join(str(p) for p in parts if p)


def _size_ticks(axes: Axes, sizes: Sequence[int]) -> None:
    _ticks(axes.xaxis, sizes, [f"{s}²" for s in sizes])
    axes.set_xlim(min(sizes) / 1.08, max(sizes) * 1.28)


def _cost_ticks(axes: Axes, values: Sequence[float], share: bool) -> None:
    low, high = min(values), max(values)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps: tuple[float, ...] = (1,)
    if high / low < 8:
        steps = (1, 1.5, 2, 3, 4, 5, 7)
    elif high / low < 300:
        steps = (1, 2, 5)
    ticks = [m * 10.0**d for d in decades for m in steps]
    ticks = [t for t in ticks if low / 1.35 <= t <= high * 1.35]
    _ticks(axes.yaxis, ticks, [_short(t, share) for t in ticks])
    axes.set_ylim(low / 1.35, high * 1.35)


def _short(value: float, share: bool) -> str:
    if share:
        return f"{100 * value:g} %"
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _ticks(axis: Any, places: Sequence[float], words: Sequence[str]) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(list(places)))
    axis.set_major_formatter(FixedFormatter(list(words)))
    axis.set_minor_locator(NullLocator())


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


def _name_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    for x, y, name in points:
        axes.annotate(
            _drawable(name), (x, y), (0, 10), textcoords="offset points", fontsize=8.5, color=INK, ha="center",
            family="DejaVu Sans",
        )  # fmt: skip


def _model_key(canvas: Axes, models: Sequence[str], x: float, y: float, width: float) -> None:
    step = (width - 0.8) / 3
    for i, name in enumerate(models):
        left, at = x + (i % 3) * step, y - 0.24 * (i // 3) + 0.24 * (math.ceil(len(models) / 3) - 1)
        canvas.plot([left, left + 0.3], [at, at], color=COLORS[i % len(COLORS)], linewidth=1.6)
        canvas.plot([left + 0.15], [at], color=COLORS[i % len(COLORS)], marker=MARKERS[i % len(MARKERS)], markersize=5)
        _write(canvas, left + 0.4, at, name, size=9, color=SOFT)


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
