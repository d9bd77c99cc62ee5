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


NAME_SIDES = (
    (0, 1, "center", "bottom"),
    (0, -1, "center", "top"),
    (1, 0, "left", "center"),
    (-1, 0, "right", "center"),
)
"""Where a name may stand beside its point, the first first: right, up, and its alignment."""


def name_points(axes: Axes, points: Sequence[tuple[float, float, str]], radii: Sequence[float], size: float) -> None:
    """Names beside their markers (of these radii, in typographic points as ``size``), each where it covers no other
    name and no marker, as far as there is such a side. The axes' limits must be set already."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    figure = axes.get_figure(root=True)
    assert figure is not None
    renderer: Any = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    dots = figure.dpi / 72
    taken = [
        Bbox([[x - r * dots, y - r * dots], [x + r * dots, y + r * dots]])
        for (x, y), r in zip(axes.transData.transform([(x, y) for x, y, _ in points]), radii, strict=True)
    ]
    frame = axes.get_window_extent(renderer)
    for (x, y, name), radius in zip(points, radii, strict=True):
        found: list[tuple[int, int, Any, Any]] = []
        away = radius + 3
        for right, up, horizontal, vertical in NAME_SIDES:
            text = axes.annotate(
                drawable(name), (x, y), (right * away, up * away), textcoords="offset points", fontsize=size,
                color=INK, ha=horizontal, va=vertical, family="DejaVu Sans",
            )  # fmt: skip
            box = text.get_window_extent(renderer)
            outside = box.x0 < frame.x0 or box.x1 > frame.x1
            found.append((sum(box.overlaps(other) for other in taken) + 2 * outside, len(found), text, box))
        found.sort(key=lambda f: f[:2])
        taken.append(found[0][3])
        for _, _, text, _ in found[1:]:
            text.remove()
