"""The figures of a comparison: cost against resolution, and accuracy against latency and multiply-adds.

What the paper printed is named as such. Each network has a colour of Okabe and Ito's and a marker.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from nextify.compare.entries import family
from nextify.compare.records import Row
from nextify.compare.results import Results
from nextify.compare.tables import accuracy_title, conditions_line, provenance
from nextify.networks.layout import parameters
from nextify.paper.published import MODELS, OTHER_FAMILIES
from nextify.paper.roadmap import roadmap
from nextify.report.drawing import FAINT, INK, PAPER, SOFT, canvas, tidy
from nextify.report.text import count, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7a7f8a", "#1b1b1f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
FAMILY_COLORS = {
    "ConvNeXt": "#0072B2",
    "isotropic ConvNeXt": "#56B4E9",
    "Swin": "#D55E00",
    "ViT": "#009E73",
    "ResNet": "#7a7f8a",
}
SIDES = {
    "ConvNeXt": (0, 1, "center"),
    "Swin": (0, -1, "center"),
    "isotropic ConvNeXt": (-1, 0, "right"),
    "ViT": (1, 0, "left"),
    "ResNet": (1, 0, "left"),
}
"""Where a family's names stand beside their bubbles: right, up, and the alignment."""
BUBBLE, OWN_BUBBLE = 4.2, 420
"""Area in square points of a million parameters in the paper's panel, and of the most parameters in a run's own."""
PANELS = (
    ("macs", "multiply-adds an image"),
    ("attention_share", "attention's share of the multiply-adds"),
    ("latency_ms_p50", "latency, ms, batch 1, median"),
    ("batch_ms_per_image", "time in batches, ms an image"),
    ("training_ms_per_image", "time in training, ms an image"),
    ("training_mib", "memory in training, MiB beyond the start"),
)


def figures(results: Results) -> dict[str, tuple[str, Figure]]:
    """``{file name without its ending: (what it shows, figure)}``."""
    made = {
        "growth": ("Cost of each network against resolution, on logarithmic axes", growth_figure(results)),
        "latency-accuracy": ("Accuracy over the latency measured here", latency_figure(results)),
    }
    if results.run.settings.head is None:
        made["accuracy-flops"] = ("The paper's accuracies over multiply-adds", published_figure(results))
    return {name: (label, figure) for name, (label, figure) in made.items() if figure}


def growth_figure(results: Results) -> Figure | None:
    """Cost against pixels on logarithmic axes, one panel per quantity; None where only one size was measured."""
    panels = [panel for panel in PANELS if any(getattr(row, panel[0]) for row in results.rows)]
    sizes = results.run.settings.sizes
    if len(sizes) < 2 or not panels:
        return None
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    said = "In the panels: the exponent of cost against pixels; 1 is in proportion, 2 is quadratic."
    title, width, height = "Cost against resolution", 4.2 * columns + 2.2, 3.2 * lines + 1.2
    figure = _figure(width, height, title, conditions_line(results), f"{said}\n{provenance(results)}")
    for number, (key, title) in enumerate(panels, 1):
        axes = figure.add_subplot(lines, columns, number)
        values: list[float] = []
        for model, style in _styles(results).items():
            points = [(r.image_size, getattr(r, key)) for r in results.rows if r.model == model and getattr(r, key)]
            if points:
                growth = results.growth.get((model, key))
                label = signed(growth.exponent).lstrip("+") if growth else "–"
                axes.plot(*zip(*points, strict=True), **style, markersize=5, linewidth=1.4, label=label)
                values += [value for _, value in points]
        axes.set(xscale="log", yscale="log", xlim=(min(sizes) / 1.08, max(sizes) * 1.08))
        axes.set_title(title, fontsize=10, loc="left")
        _ticks(axes.xaxis, sizes, [f"{size}²" for size in sizes])
        steps = (1, 1.5, 2, 3, 4, 5, 7) if max(values) / min(values) < 8 else (1, 2, 5)
        places = [m * 10.0**d for d in range(-4, 13) for m in steps]
        places = [p for p in places if min(values) / 1.35 <= p <= max(values) * 1.35]
        share = key == "attention_share"
        _ticks(axes.yaxis, places, [f"{100 * p:g} %" if share else _brief(p) for p in places])
        axes.legend(fontsize=7, frameon=False, handlelength=1.2, labelspacing=0.2, labelcolor=INK)
        _quiet(axes)
    _legend(figure, results)
    return figure


def latency_figure(results: Results) -> Figure | None:
    """Accuracy over measured latency, with the Pareto front; None with fewer than two points.

    Accuracies are those of this run where it trained or evaluated anything, else the paper's at 224².
    """
    accuracy = results.accuracy
    points = [
        (row, row.latency_ms_p50, row.latency_ms_p95 or row.latency_ms_p50, value)
        for row, value in results.candidates()
        if row.latency_ms_p50 and (accuracy or row.image_size == 224)
    ]
    if len(points) < 2:
        return None
    spreads = _spreads(results)
    size = _sizes([row for row, *_ in points])
    title = f"Latency and accuracy here, {size}" if accuracy else f"Latency here, accuracy as published, {size}"
    source = accuracy_title(accuracy) if accuracy else "top-1 % on ImageNet-1K: the paper's figures, not measured here"
    said = "Grey: the front, on which no network is beaten in both."
    said += " Bars: ± standard deviation over seeds." if any(spreads.values()) else ""
    figure = _figure(9.2, 5.6, title, source, f"{said}\n{provenance(results)}")
    axes = figure.add_subplot()
    best = front([(latency, value) for _, latency, _, value in points])
    axes.plot(*zip(*best, strict=True), color=FAINT, linewidth=1.6, drawstyle="steps-post", zorder=1)
    for row, latency, slow, value in points:
        style = _styles(results)[row.model]
        spread = spreads.get(row.model, 0.0)
        axes.plot([latency, slow], [value, value], color=style["color"], linewidth=1.2, alpha=0.6)
        axes.plot([latency] * 2, [value - spread, value + spread], color=style["color"], linewidth=1.2, alpha=0.6)
        filled = style["color"] if accuracy else "white"
        axes.plot(latency, value, **style, markersize=9, markeredgewidth=2, markerfacecolor=filled, linestyle="none")
    axes.set_xlim(0, max(slow for _, _, slow, _ in points) * 1.1)
    axes.margins(y=0.15)
    axes.set_xlabel("latency of one image measured here, ms (marker: median; line: to the 95th percentile)", fontsize=9)
    _quiet(axes)
    _legend(figure, results)
    return figure


def _sizes(rows: Sequence[Row]) -> str:
    """``at 32²``, or ``each at its own size (32², 64²)``."""
    sizes = [f"{size}²" for size in sorted({row.image_size for row in rows})]
    return f"at {sizes[0]}" if len(sizes) == 1 else f"each at its own size ({', '.join(sizes)})"


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto front of (cost, accuracy) points, by rising cost."""
    found: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda p: (p[0], -p[1])):
        if not found or value > found[-1][1]:
            found.append((cost, value))
    return found


def published_figure(results: Results) -> Figure:
    """The paper's Figure 1 for ImageNet-1K at 224x224: accuracy over multiply-adds, a bubble's area by parameters.

    Every accuracy there is the paper's. The networks that took part are outlined in black, and what was trained or
    evaluated stands in a panel of its own: other data, its own axes.
    """
    took_part = {model.name.removeprefix("timm:") for model in results.models}
    accuracy = results.accuracy
    said = "Source: arXiv 2201.03545v2, Tables 1, 2, 8 and 10; ResNet-50 with its original recipe and with the paper's."
    if took_part & {bubble.name for bubble in _published()}:
        said += "\nOutlined in black: took part in this comparison, which measured what it costs, not this accuracy."
    figure = _figure(15.0 if accuracy else 9.2, 6.0, "Accuracy against multiply-adds", "", said)
    panels = figure.subplots(1, 2, width_ratios=(3, 2)) if accuracy else [figure.subplots()]
    _paper_panel(panels[0], took_part)
    if accuracy:
        _own_panel(panels[1], results)
        panels[1].set_title(f"measured here: {accuracy_title(accuracy)}", fontsize=10, loc="left")
    return figure


def _own_panel(axes: Axes, results: Results) -> None:
    """Accuracy of this run over multiply-adds; the largest bubble is the network with the most parameters."""
    assert results.accuracy is not None
    points = [(r, r.macs, r.parameters, value) for r, value in results.candidates() if r.macs and r.parameters]
    most = max((parameters for _, _, parameters, _ in points), default=1)
    spreads, styles = _spreads(results), _styles(results)
    for row, macs, millions, value in sorted(points, key=lambda p: -p[2]):
        color, spread = styles[row.model]["color"], spreads[row.model]
        axes.plot([macs] * 2, [value - spread, value + spread], color=color, linewidth=1.4, zorder=2)
        area = OWN_BUBBLE * millions / most
        axes.scatter(macs, value, s=area, color=color, alpha=0.5, edgecolors=color, label=row.model, zorder=3)
    axes.margins(0.2)
    axes.xaxis.set_major_formatter(lambda value, _: count(value))
    size = _sizes([row for row, *_ in points])
    bars = "bars: ± standard deviation over seeds\n" if any(spreads.values()) else ""
    said = "other data and sizes than the paper's: compare the order, not the height"
    axes.set_xlabel(f"multiply-adds, {size}\n{bars}{said}", fontsize=9)
    axes.legend(fontsize=8, frameon=False, markerscale=0.6)
    _quiet(axes)


def _paper_panel(axes: Axes, took_part: set[str]) -> None:
    bubbles = list(_published())
    for kind, color in FAMILY_COLORS.items():
        line = sorted((b.gflops, b.top1) for b in bubbles if b.family == kind)
        axes.plot(*zip(*line, strict=True), color=color, linewidth=int(kind != "ResNet"), alpha=0.6, zorder=1)
        axes.scatter([], [], s=60, color=color, alpha=0.5, label=kind)
    for b in sorted(bubbles, key=lambda b: -b.millions):
        color = FAMILY_COLORS[b.family]
        edge = INK if b.name in took_part else color
        axes.scatter(b.gflops, b.top1, s=BUBBLE * b.millions, color=color, alpha=0.5, linewidths=1.5, edgecolors=edge)
        away = math.sqrt(BUBBLE * b.millions) / 2
        x, y, side = SIDES[b.family]
        _note(axes, b.short, (b.gflops, b.top1), (x * (away + 4), y * (away + 7)), side)
    for i, millions in enumerate((25, 100, 300)):
        at = (26 * 1.45**i, 76.4)
        axes.scatter(*at, s=BUBBLE * millions, facecolors="none", edgecolors=PAPER, linewidths=1)
        _note(axes, f"{millions} M", at, (0, 0) if millions > 100 else (0, 18), "center")
    axes.set(xscale="log", xlim=(3.4, 85), ylim=(75.2, 85.4))
    _ticks(axes.xaxis, [4, 8, 16, 32, 64], [f"{g} G" for g in (4, 8, 16, 32, 64)])
    axes.set_xlabel("multiply-adds at 224×224, as printed; the area of a bubble is the parameters", fontsize=9)
    axes.set_title("published: top-1 % on ImageNet-1K at 224×224, trained on ImageNet-1K only", fontsize=10, loc="left")
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    _quiet(axes)


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
    for row, short in zip(roadmap("resnet50")[:2], ("ResNet-50", "ResNet-50, modern recipe"), strict=True):
        name = "resnet50" if short == "ResNet-50" else row.name
        top1, gflops = row.published.top1, row.published.gflops
        yield _Bubble(name, short, "ResNet", gflops, top1, parameters(row.design) / 1e6)


def _figure(width: float, height: float, title: str, subtitle: str, footer: str) -> Figure:
    """An empty figure, in inches, whose panels are laid out around its titles."""
    figure = canvas(width, height, layout="constrained")
    words = f"{title}\n{subtitle}" if subtitle else title
    figure.suptitle(words, x=0.02, ha="left", fontsize=12, color=INK)
    figure.supxlabel(footer, x=0.02, ha="left", fontsize=7.5, color=SOFT)
    return figure


def _legend(figure: Figure, results: Results) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], **style, label=model) for model, style in _styles(results).items()]
    figure.legend(handles=lines, loc="outside right upper", fontsize=8.5, frameon=False)


class Style(TypedDict):
    """How a network's lines and points are drawn."""

    color: str
    marker: str


def _styles(results: Results) -> dict[str, Style]:
    """Colour and marker of each network."""
    return {
        model.model: {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, model in enumerate(results.models)
    }


def _spreads(results: Results) -> dict[str, float]:
    """Standard deviation of each accuracy over the seeds, in points."""
    return {row.model: row.std or 0.0 for row in results.accuracy.rows} if results.accuracy else {}


def _brief(value: float) -> str:
    """A tick's number: ``5 G``, ``1.5 k``, ``0.2``."""
    size, unit = next(((s, u) for s, u in ((1e9, " G"), (1e6, " M"), (1e3, " k")) if value >= s), (1, ""))
    return f"{value / size:g}{unit}"


def _note(axes: Axes, words: str, at: tuple[float, float], away: tuple[float, float], side: Any) -> None:
    axes.annotate(words, at, away, textcoords="offset points", fontsize=8, color=INK, ha=side, va="center")


def _quiet(axes: Axes) -> None:
    tidy(axes)
    axes.grid(color=FAINT, linewidth=0.5)


def _ticks(axis: Any, places: Sequence[float], words: Sequence[str]) -> None:
    axis.set_ticks(list(places), list(words))
    axis.set_ticks([], minor=True)
