"""Accuracy against cost: over the latency measured here, and over multiply-adds as in the paper's Figure 1.

What the paper printed is named as such.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nextify.compare.budget import candidates
from nextify.compare.entries import family
from nextify.compare.figure_parts import (
    COLORS,
    FAMILY_COLORS,
    MARKERS,
    accuracy_title,
    name_points,
    provenance,
    ticks,
)
from nextify.compare.findings import Results
from nextify.networks.layout import parameters
from nextify.paper.published import MODELS, OTHER_FAMILIES
from nextify.paper.roadmap import roadmap
from nextify.report.drawing import FAINT, INK, PAPER, SOFT, sheet, tidy, write
from nextify.report.text import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def latency_figure(results: Results) -> Figure | None:
    """Accuracy over the latency measured here, and the front of those that nothing beats in both.

    Accuracies are those of this run where it trained or evaluated anything, else the paper's at 224²; None with fewer
    than two points.
    """
    accuracy = results["accuracy"]
    points = [(r, top1) for r, top1 in candidates(results) if r["latency_ms_p50"]]
    if not accuracy:
        points = [(r, top1) for r, top1 in points if r["image_size"] == 224]
    if len(points) < 2:
        return None
    spreads = {r["model"]: r["top1_std"] or 0.0 for r in accuracy["rows"]} if accuracy else {}
    width, height = 7.4, 5.3
    figure, canvas = sheet(width, height)
    axes = figure.add_axes((0.85 / width, 1.05 / height, (width - 1.2) / width, (height - 2.05) / height))
    models = [m["model"] for m in results["models"]]
    best = front([(r["latency_ms_p50"], top1) for r, top1 in points])
    axes.plot(*zip(*best, strict=True), color=FAINT, linewidth=1.6, drawstyle="steps-post", zorder=1)
    for r, y in points:
        i = models.index(r["model"])
        x, color, spread = r["latency_ms_p50"], COLORS[i % len(COLORS)], spreads.get(r["model"], 0.0)
        axes.plot([x, r["latency_ms_p95"]], [y, y], color=color, linewidth=1.2, alpha=0.6)
        axes.plot([x, x], [y - spread, y + spread], color=color, linewidth=1.2, alpha=0.6)
        axes.plot(
            [x], [y], marker=MARKERS[i % len(MARKERS)], markersize=9, markeredgewidth=2, color=color,
            markerfacecolor=color if accuracy else "white", linestyle="none", zorder=3,
        )  # fmt: skip
    low, high = min(y for _, y in points), max(y for _, y in points)
    axes.set_ylim(low - 0.12 * (high - low) - 0.3, high + 0.12 * (high - low) + 0.3)
    axes.set_xlim(0, max(r["latency_ms_p95"] for r, _ in points) * 1.25)
    name_points(axes, [(r["latency_ms_p50"], y, r["model"]) for r, y in points], [6.0] * len(points), 8.5)
    tidy(axes)
    axes.grid(color=FAINT, linewidth=0.5)
    axes.set_xlabel("latency of one image measured here, ms (marker: median; line: to the 95th percentile)", fontsize=9,
                    color=SOFT)  # fmt: skip
    size = points[0][0]["image_size"]
    title = f"Latency and accuracy here, {size}×{size}" if accuracy else f"Latency here, accuracy as published, {size}²"
    source = accuracy_title(accuracy) if accuracy else "top-1 % on ImageNet-1K: the paper's figures, not measured here"
    write(canvas, 0.4, height - 0.38, title, size=14, weight="bold")
    write(canvas, 0.4, height - 0.66, source, size=9.5, color=SOFT)
    said = "Grey: the front, on which no network is beaten in both."
    said += " Bars: ± standard deviation over seeds." if any(spreads.values()) else ""
    write(canvas, 0.4, 0.42, said, size=8, color=SOFT)
    write(canvas, 0.4, 0.22, provenance(results), size=7.5, color=PAPER)
    return figure


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, accuracy) those that no other beats or equals in both, by rising cost."""
    found: list[tuple[float, float]] = []
    for cost, top1 in sorted(points, key=lambda p: (p[0], -p[1])):
        if not found or top1 > found[-1][1]:
            found.append((cost, top1))
    return found


def published_figure(results: Results | None = None) -> Figure:
    """The paper's Figure 1 for ImageNet-1K at 224x224: accuracy over multiply-adds, a bubble's area by parameters.

    Every accuracy there is the paper's. With ``results``, the networks that took part are outlined in black, and what
    was trained or evaluated stands in a panel of its own: other data, its own axes.
    """
    took_part = {m["name"].removeprefix("timm:") for m in results["models"]} if results else set()
    accuracy = results["accuracy"] if results else None
    panel, height = 9.2, 5.9
    width = panel + (6.0 if accuracy else 0.0)
    figure, canvas = sheet(width, height)
    axes = figure.add_axes((0.85 / width, 1.1 / height, (panel - 1.25) / width, (height - 2.25) / height))
    bubbles = list(_published())
    _paper_panel(axes, bubbles, took_part)
    write(canvas, 0.4, height - 0.38, "Accuracy against multiply-adds: published values", size=14, weight="bold")
    said = "top-1 % on ImageNet-1K at 224×224, trained on ImageNet-1K only; the area of a bubble is the parameters"
    write(canvas, 0.4, height - 0.66, said, size=9.5, color=SOFT)
    left = 0.5
    for kind, color in FAMILY_COLORS.items():
        canvas.scatter([left], [height - 0.93], s=60, color=color, alpha=0.5)
        write(canvas, left + 0.13, height - 0.93, kind, size=9, color=SOFT)
        left += 0.5 + 0.075 * len(kind)
    said = "Source: arXiv 2201.03545v2, Tables 1, 2, 8 and 10; ResNet-50 with its original recipe and with the paper's."
    write(canvas, 0.4, 0.36, said, size=7.5, color=PAPER)
    if took_part & {b.name for b in bubbles}:
        said = "Outlined in black: took part in this comparison, which measured what it costs, not this accuracy."
        write(canvas, 0.4, 0.2, said, size=7.5, color=PAPER)
    if results and accuracy:
        own = figure.add_axes(((panel + 0.6) / width, 1.1 / height, 5.0 / width, (height - 2.25) / height))
        _own_panel(own, results)
        write(canvas, panel + 0.2, height - 0.38, "Measured here", size=14, weight="bold")
        write(canvas, panel + 0.2, height - 0.66, accuracy_title(accuracy), size=9.5, color=SOFT)
        said = "Other data and other sizes than the paper's: compare the order, not the height."
        write(canvas, panel + 0.2, 0.36, said, size=7.5, color=PAPER)
        write(canvas, panel + 0.2, 0.2, provenance(results), size=7.5, color=PAPER)
    return figure


def _own_panel(axes: Axes, results: Results) -> None:
    """Top-1 of this run over multiply-adds; the largest bubble is the network with the most parameters."""
    points = candidates(results)
    spreads = {r["model"]: r["top1_std"] or 0.0 for r in results["accuracy"]["rows"]}
    families = {m["model"]: m["family"] for m in results["models"]}
    most = max((r["parameters"] for r, _ in points), default=1)
    areas = [OWN_BUBBLE * r["parameters"] / most for r, _ in points]
    for (r, y), area in sorted(zip(points, areas, strict=True), key=lambda p: -p[1]):
        color = FAMILY_COLORS.get(families[r["model"]], PAPER)
        spread = spreads[r["model"]]
        axes.plot([r["macs"]] * 2, [y - spread, y + spread], color=color, linewidth=1.4, zorder=2)
        axes.scatter([r["macs"]], [y], s=area, color=color, alpha=0.5, linewidths=1.5, edgecolors=color, zorder=3)
    tidy(axes)
    axes.grid(color=FAINT, linewidth=0.5)
    if points:
        macs = [r["macs"] for r, _ in points]
        axes.set_xlim(min(macs) / 1.3, max(macs) * 1.3)
        places = [p for p in axes.get_xticks() if min(macs) / 1.3 <= p <= max(macs) * 1.3]
        ticks(axes.xaxis, places, [count(p) for p in places])
        ends = [y + sign * spreads[r["model"]] for r, y in points for sign in (-1, 1)]
        room = max(0.15 * (max(ends) - min(ends)), 0.5)
        axes.set_ylim(min(ends) - room, max(ends) + 1.5 * room)
        name_points(axes, [(r["macs"], y, r["model"]) for r, y in points], [math.sqrt(a) / 2 for a in areas], 8)
    size = results["accuracy"]["image_size"]
    axes.set_xlabel(f"multiply-adds at {size}×{size}; bars: ± standard deviation over seeds", fontsize=9, color=SOFT)


def _paper_panel(axes: Axes, bubbles: Sequence[_Bubble], took_part: set[str]) -> None:
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
    tidy(axes)
    axes.grid(color=FAINT, linewidth=0.5)
    ticks(axes.xaxis, [4, 8, 16, 32, 64], [f"{g} G" for g in (4, 8, 16, 32, 64)])
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
OWN_BUBBLE = 420
"""Area in square points of the most parameters in a run's own panel."""


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
