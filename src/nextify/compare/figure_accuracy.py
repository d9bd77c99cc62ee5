"""Accuracy against cost: over the latency measured here, and over multiply-adds as in the paper's Figure 1.

What the paper printed is named as such.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nextify.compare.entries import family
from nextify.compare.figure_parts import COLORS, FAMILY_COLORS, MARKERS, name_points, provenance, ticks
from nextify.compare.findings import Results
from nextify.layout import parameters
from nextify.published import MODELS, OTHER_FAMILIES
from nextify.report.drawing import FAINT, INK, PAPER, SOFT, sheet, tidy, write
from nextify.roadmap import roadmap

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    figure, canvas = sheet(width, height)
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
    name_points(axes, spans)
    low, high = min(s[1] for s in spans), max(s[1] for s in spans)
    axes.set_ylim(low - 0.12 * (high - low) - 0.3, high + 0.12 * (high - low) + 0.3)
    axes.set_xlim(0, max(r["latency_ms_p95"] for r in points) * 1.25)
    tidy(axes)
    axes.grid(color=FAINT, linewidth=0.5)
    axes.set_xlabel("latency of one image measured here, ms (marker: median; line: to the 95th percentile)", fontsize=9,
                    color=SOFT)  # fmt: skip
    write(canvas, 0.4, height - 0.38, f"Latency here, accuracy as published, {size}×{size}", size=14, weight="bold")
    write(canvas, 0.4, height - 0.66, "top-1 % on ImageNet-1K: the paper's figures, not measured here", size=9.5,
           color=SOFT)  # fmt: skip
    write(canvas, 0.4, 0.22, provenance(results), size=7.5, color=PAPER)
    return figure


def published_figure(results: Results | None = None) -> Figure:
    """The paper's Figure 1 for ImageNet-1K at 224x224: accuracy over multiply-adds, a bubble's area by parameters.

    Every accuracy is the paper's. With ``results``, the networks that took part are outlined in black.
    """
    took_part = {m["name"].removeprefix("timm:") for m in results["models"]} if results else set()
    width, height = 9.2, 5.9
    figure, canvas = sheet(width, height)
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
        said = "Outlined in black: took part in this comparison, which measured what it costs, not its accuracy."
        write(canvas, 0.4, 0.2, said, size=7.5, color=PAPER)
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
