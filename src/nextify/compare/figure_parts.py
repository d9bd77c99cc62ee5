"""What the figures of a comparison share. Colours are Okabe and Ito's, one a network, with a marker each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nextify.compare.findings import Results, Row
from nextify.report.drawing import INK, drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7a7f8a", "#1b1b1f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

FAMILY_COLORS = {
    "ConvNeXt": "#0072B2",
    "isotropic ConvNeXt": "#56B4E9",
    "Swin": "#D55E00",
    "ViT": "#009E73",
    "ResNet": "#7a7f8a",
}


def conditions_line(results: Results) -> str:
    """``cpu, fp32, channels last, 2 threads, 5 to 9 rounds in turn``."""
    s = results["settings"]
    rounds = f"{number_of_rounds(results)} {'in turn' if s['interleaved'] else 'one network after the other'}"
    parts = [
        s["device"],
        s["precision"],
        s["layout"].replace("_", " "),
        f"{s['threads']} thread{'s' if s['threads'] > 1 else ''}",
    ]
    parts += [rounds if s["rounds"] else "counted only"]
    parts += [] if s["complete"] or not s["rounds"] else ["stopped before the end"]
    return "  ·  ".join(parts)


def number_of_rounds(results: Results) -> str:
    """``7 rounds``, or ``5 to 9 rounds`` where sizes differ."""
    found = {speed["n"] for row in results["rows"] for speed in row["throughput"]} or {results["settings"]["rounds"]}
    fewest, most = min(found), max(found)
    return f"{fewest} round{'s' if fewest != 1 else ''}" if fewest == most else f"{fewest} to {most} rounds"


def accuracy_title(accuracy: Row) -> str:
    """``top-1 on cifar10, 10 epochs of the convnext recipe, 3 seeds``."""
    data, epochs, seeds = accuracy["data"]["name"], accuracy["recipe"]["epochs"], len(accuracy["seeds"])
    if all(row["how"] != "trained" for row in accuracy["rows"]):
        return f"top-1 on {data}"
    of = f"{epochs} epoch{'s' if epochs > 1 else ''} of the {accuracy['recipe_name']} recipe"
    return f"top-1 on {data}, {of}, {seeds} seed{'s' if seeds > 1 else ''}"


def provenance(results: Results) -> str:
    e = results["environment"]
    machine = e.get("gpu") if results["settings"]["device"].startswith("cuda") else e.get("cpu")
    parts = [machine, *(f"{k} {e[k]}" for k in ("torch", "timm", "nextify") if e.get(k)), e.get("date")]
    return "  ·  ".join(str(p) for p in parts if p)


def ticks(axis: Any, places: Sequence[float], words: Sequence[str]) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(list(places)))
    axis.set_major_formatter(FixedFormatter(list(words)))
    axis.set_minor_locator(NullLocator())


def name_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    for x, y, name in points:
        axes.annotate(
            drawable(name), (x, y), (0, 10), textcoords="offset points", fontsize=8.5, color=INK, ha="center",
            family="DejaVu Sans",
        )  # fmt: skip
