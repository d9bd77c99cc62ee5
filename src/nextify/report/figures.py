"""The paper's Figure 2 for the user's images, and the training curves; matplotlib's object API, no pyplot.

The figure has two panels with the same rows: left the user's results, right the paper's. They never share an axis:
they are different data at a different scale, and what may be compared is the direction of a change. Colours are Okabe
and Ito's, which readers with colour-blindness tell apart; nothing is said by colour alone.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from nextify.report import text
from nextify.report.drawing import BAND, DOWN, FAINT, INK, PAPER, SOFT, TRIAL, UP, sheet, shorten, tidy, write
from nextify.study.results import Epoch, StepResult, StudyResults

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = {
    "ResNet": "#7a7f8a",
    "Macro design": "#E69F00",
    "ResNeXt": "#56B4E9",
    "Inverted bottleneck": "#009E73",
    "Large kernel": "#CC79A7",
    "Micro design": "#0072B2",
}
PAPERS = "The paper: ImageNet-1K", "top-1 accuracy"
"""What its published figures are: the data and the metric, whatever is measured here."""
_HEADINGS = {"ResNet": "ResNet baseline and training", "ResNeXt": "ResNeXt-ify"}

# Inches. Columns from left to right: labels, our bars, our change, our cost, gap, paper's bars, its change, its cost.
_ROW, _HEADING, _TOP, _BOTTOM, _MARGIN = 0.33, 0.37, 1.34, 1.42, 0.32
_LABELS, _BARS, _CHANGE, _COST = 2.9, 4.4, 0.95, 0.95
_GAP, _PAPER_BARS, _PAPER_CHANGE, _PAPER_COST = 0.3, 2.35, 0.8, 0.8
_WIDTH = 2 * _MARGIN + _LABELS + _BARS + _CHANGE + _COST + _GAP + _PAPER_BARS + _PAPER_CHANGE + _PAPER_COST


def roadmap_figure(results: StudyResults) -> Figure:
    """A bar per step in the paper's order and groups, beside it the paper's own figure on an axis of its own."""
    groups = text.groups(results)
    body = sum(_HEADING + _ROW * len(members) for _, members in groups) or _ROW
    height = _TOP + body + _BOTTOM
    figure, canvas = sheet(_WIDTH, height)

    top, places = height - _TOP, []
    for i, (group, members) in enumerate(groups):
        write(canvas, _MARGIN, top - _HEADING * 0.56, _HEADINGS.get(group, group), size=9, color=SOFT, weight="bold")
        places += [(top - _HEADING - _ROW * (n + 0.5), group, row) for n, row in enumerate(members)]
        y = top - _HEADING - _ROW * len(members)
        if i % 2 == 0:
            canvas.fill_between([_MARGIN / 2, _WIDTH - _MARGIN / 2], y, top, color=BAND, linewidth=0, zorder=0)
        top = y
    y = height - _TOP - body

    x_bars = _MARGIN + _LABELS
    x_change = x_bars + _BARS + _CHANGE
    x_cost = x_change + _COST
    x_paper = x_cost + _GAP
    x_paper_change = x_paper + _PAPER_BARS + _PAPER_CHANGE
    x_paper_cost = x_paper_change + _PAPER_COST
    ours = _panel(figure, x_bars, _BARS, height, y, height - _TOP)
    theirs = _panel(figure, x_paper, _PAPER_BARS, height, y, height - _TOP)

    _titles(canvas, results, height)
    head = height - _TOP + 0.12
    name = shorten(results.study.data.name, 44)
    ends = {x_change: "change", x_cost: "mult-adds", x_paper_change: "change", x_paper_cost: "GFLOPs"}
    for x, label in ends.items():
        write(canvas, x, head, label, size=8.5, color=SOFT, ha="right")
    between = x_cost + _GAP / 2
    canvas.plot([between, between], [y, height - _TOP + 0.42], color=FAINT, linewidth=0.8)

    metric = results.metric
    start = _axis(ours, [(r.mean, r.std) for r in results.rows], room=0.62 / _BARS)
    p_start = _axis(theirs, [(r.published_top1, r.published_std) for r in results.rows], room=0.56 / _PAPER_BARS)
    what = f"{metric.title} accuracy" if metric.share_of_images else metric.title
    here, paper = (x_bars, f"Here: {name}", what, INK, start), (x_paper, *PAPERS, SOFT, p_start)
    for x, title, measured, color, begins in (here, paper):
        write(canvas, x, head + 0.17, title, size=10.5, weight="bold", color=color)
        write(canvas, x, head, measured, size=8.5, color=SOFT)
        note = "%, axis from 0" if begins == 0 else f"%, axis starts at {begins:g}, not at 0"
        write(canvas, x, y - 0.42, note, size=8.5, color=SOFT)

    for at, group, row in places:
        color, explored = _COLORS.get(group, PAPER), not row.adopted
        label = shorten(row.name, 36)
        if row.trained and row.n < len(results.study.seeds):
            label = f"{shorten(label, 26)} (n = {row.n})"
        write(canvas, _MARGIN + 0.14, at, label, size=9.5, color=SOFT if explored else INK)
        _our_bar(ours, at, row, start, color)
        _change(canvas, x_change, at, row, metric.higher_is_better)
        write(canvas, x_cost, at, text.count(row.macs), size=9.5, color=SOFT, ha="right")
        _paper_bar(theirs, at, row, p_start)
        change = text.signed(row.published_change)
        write(canvas, x_paper_change, at, change, size=9.5, color=SOFT, ha="right")
        write(canvas, x_paper_cost, at, text.percent(row.published_gflops), size=9.5, color=SOFT, ha="right")
    if not places:
        write(canvas, x_bars + 0.1, y + body / 2, "no steps", size=10, color=SOFT, style="italic")
    _footer(canvas, results, y - 0.66, any(not r.adopted for _, _, r in places))
    return figure


def curves_figure(results: StudyResults) -> Figure | None:
    """Training loss and, where it was measured, the main metric over the epochs; None without any curve.

    Every trial is a thin line; the first and the last adopted step are drawn thick as the mean over their seeds.
    """
    from matplotlib.ticker import MaxNLocator

    curves = [(trial.step, trial.curve) for trial in results.trials]
    panels = [
        (key, label)
        for key, label in (
            ("train_loss", "training loss"),
            ("test", f"test {results.metric.title} {results.metric.unit}"),
        )
        if any(_points(curve, key)[0] for _, curve in curves)
    ]
    if not panels:
        return None
    path = [r for r in results.rows if r.adopted]
    marked = [(path[0], DOWN, "--")] if path else []
    if len(path) > 1:
        marked.append((path[-1], UP, "-"))
    width, height, left, gap, bottom, top = 5.2 * len(panels) + 0.9, 4.6, 0.75, 0.85, 1.2, 0.55
    figure, canvas = sheet(width, height)
    each = (width - left - 0.3 - gap * (len(panels) - 1)) / len(panels)
    for i, (key, label) in enumerate(panels):
        x = left + i * (each + gap)
        axes = figure.add_axes((x / width, bottom / height, each / width, (height - bottom - top) / height))
        for _, curve in curves:
            axes.plot(*_points(curve, key), color=TRIAL, linewidth=0.6, alpha=0.7, zorder=1)
        for row, color, style in marked:
            mean = _mean_curve([c for step, c in curves if step == row.step], key)
            if mean[0]:
                marker = "o" if len(mean[0]) == 1 else None
                axes.plot(*mean, color=color, linewidth=2.2, linestyle=style, marker=marker, zorder=3)
        values = [value for _, curve in curves for value in _points(curve, key)[1]]
        if key == "train_loss" and min(values) > 0 and max(values) > 12 * min(values):
            _log_scale(axes, min(values), max(values))
        tidy(axes)
        axes.grid(axis="y", color=FAINT, linewidth=0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.set_xlabel("epoch", fontsize=9.5, color=SOFT)
        write(canvas, x, height - top + 0.17, label, size=11, weight="bold")
    keys = [(f"{shorten(row.name, 36)} (mean)", color, style, 2.2) for row, color, style in marked]
    x, y = left, 0.48
    for words, color, style, line in [*keys, ("every trial", TRIAL, "-", 1.2)]:
        taken = 0.75 + 0.078 * len(words)
        if x > left and x + taken > width:
            x, y = left, y - 0.25
        canvas.plot([x, x + 0.35], [y, y], color=color, linestyle=style, linewidth=line)
        write(canvas, x + 0.43, y, words, size=9, color=SOFT)
        x += taken
    return figure


def _panel(figure: Figure, x: float, width: float, height: float, bottom: float, top: float) -> Axes:
    """Axes for bars whose y is the sheet's, in inches."""
    axes = figure.add_axes((x / _WIDTH, bottom / height, width / _WIDTH, (top - bottom) / height))
    axes.set_facecolor("none")
    axes.set_ylim(bottom, top)
    axes.set_yticks([])
    tidy(axes)
    axes.spines["left"].set_color(SOFT)
    return axes


def _titles(canvas: Axes, results: StudyResults, height: float) -> None:
    s, d = results.study, results.study.data
    n, size = len(s.seeds), text.pixels(s)
    facts = [
        f"{s.task} with the head {s.head}" if s.head else "",
        f"mean ± standard deviation of {text.n_seeds(results)}" if n > 1 else "one seed: no spread",
        f"scale {s.scale}" if s.scale else "",
        f"{size} pixels" if size else "",
        f"{text.whole(d.train_images)} training and {text.whole(d.test_images)} test images",
    ]
    title = f"{text.path_title(results)} on {shorten(results.study.data.name, 60)}"
    write(canvas, _MARGIN, height - 0.36, title, size=16, weight="bold")
    write(canvas, _MARGIN, height - 0.66, "  ·  ".join(f for f in facts if f), size=10, color=SOFT)


def _footer(canvas: Axes, results: StudyResults, y: float, explored: bool) -> None:
    decided = any(row.verdict in ("higher", "lower") for row in results.rows)
    if text.crossed(results) and not decided:
        said = ["No change here has a verdict for new seeds and images (all rows together at 5 %)."]
    elif text.crossed(results):
        said = ["Bold change with ▲ or ▼: higher or lower for new seeds and images, all rows together at 5 %."]
    elif decided:
        said = ["Bold change with ▲ or ▼: told from chance, sign-flip p < 0.05 for that step alone."]
    else:
        said = ["No single change here is told from chance (sign-flip test at 0.05 over the paired seeds)."]
    if explored:
        said.insert(0, "Hatched: explored only, the next step does not build on it.")
    write(canvas, _MARGIN, y, "  ".join(said), size=8.5, color=SOFT)
    other = "other images at another scale" if results.study.head is None else "classification, at another scale"
    other = f"◆ The paper's published values: {other}. Compare the direction of a change, not heights."
    write(canvas, _MARGIN, y - 0.2, other, size=8.5, color=SOFT)
    for i, line in enumerate(textwrap.wrap(text.provenance(results), 200)[:2]):
        write(canvas, _MARGIN, y - 0.2 * (i + 2), line, size=7.5, color=PAPER)


def _our_bar(axes: Axes, at: float, row: StepResult, start: float, color: str) -> None:
    mean, std = row.mean, row.std
    if mean is None:
        axes.text(
            0.012, at, "no result yet", transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=SOFT,
            style="italic", family="DejaVu Sans",
        )  # fmt: skip
        return
    explored = not row.adopted
    axes.barh(
        at, mean - start, left=start, height=_ROW * 0.68, zorder=2,
        color="white" if explored else color, edgecolor=color, linewidth=0.8, hatch="////" if explored else None,
    )  # fmt: skip
    if std is not None:
        axes.errorbar(mean, at, xerr=std, color=INK, elinewidth=1.1, capsize=2.6, capthick=1.1, zorder=3)
    axes.annotate(
        text.percent(mean), (mean + (std or 0), at), (6, 0), textcoords="offset points", va="center", fontsize=9.5,
        color=SOFT if explored else INK, weight="normal" if explored else "bold", family="DejaVu Sans", zorder=4,
    )  # fmt: skip


def _paper_bar(axes: Axes, at: float, row: StepResult, start: float) -> None:
    top1, std = row.published_top1, row.published_std
    if top1 is None:
        return
    style = (0, (2, 1.5)) if not row.adopted else "-"
    axes.plot([start, top1], [at, at], color=FAINT, linewidth=2.2, linestyle=style, solid_capstyle="butt", zorder=1)
    if std is not None:
        axes.errorbar(top1, at, xerr=std, color=INK, elinewidth=0.9, capsize=2.0, capthick=0.9, zorder=2)
    face = PAPER if row.adopted else "white"
    axes.plot([top1], [at], marker="D", markersize=5.4, markerfacecolor=face, markeredgecolor=PAPER, zorder=3)
    axes.annotate(
        text.percent(top1), (top1 + (std or 0), at), (8, 0), textcoords="offset points", va="center", fontsize=9,
        color=SOFT, family="DejaVu Sans", zorder=4,
    )  # fmt: skip


def _change(canvas: Axes, x: float, at: float, row: StepResult, higher_is_better: bool) -> None:
    words, color, weight = text.signed(row.change), SOFT, "normal"
    if row.verdict in ("higher", "lower"):
        higher = row.verdict == "higher"
        arrow, color, weight = "▲" if higher else "▼", UP if higher == higher_is_better else DOWN, "bold"
        words = f"{arrow} {words}"
    write(canvas, x, at, words, size=9.5, color=color, weight=weight, ha="right")


def _axis(axes: Axes, found: Sequence[tuple[float | None, float | None]], room: float) -> float:
    """Set the range of an axis for accuracies, (mean, std) each, and return where it starts.

    That is zero where it costs little, otherwise a round figure that leaves the lowest bar a fifth of the width.
    ``room``: the share of the width that is kept for figures.
    """
    from matplotlib.ticker import MaxNLocator

    ends = [mean + sign * (std or 0) for mean, std in found if mean is not None for sign in (-1, 1)] or [0.0, 100.0]
    low, high = min(ends), max(ends)
    spread = max(high - low, 0.5)
    start = low - 0.3 * spread
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if s >= spread / 8)
    start = math.floor(start / step) * step
    if start < 0.35 * high:
        start = 0.0
    high = max(high, start + spread)
    end = start + (high - start) / (1 - room)
    axes.set_xlim(start, end)
    ticks = MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(start, min(high + 0.02 * spread, 100.0))
    axes.set_xticks([round(float(t), 6) for t in ticks if start - 1e-9 <= t <= min(end, 100.0) + 1e-9])
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    return start


def _points(curve: Sequence[Epoch], key: str) -> tuple[list[float], list[float]]:
    """The epochs at which ``key`` was measured, and its values."""
    found = [p for p in curve if getattr(p, key) is not None]
    return [p.epoch for p in found], [getattr(p, key) for p in found]


def _log_scale(axes: Axes, low: float, high: float) -> None:
    """A logarithmic y axis labelled 0.2, 0.5, 1, 2… as people write them."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_yscale("log")
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    few = len(decades) <= 4
    ticks = [m * 10.0**d for d in decades for m in ((1, 2, 5) if few else (1,))]
    axes.yaxis.set_major_locator(FixedLocator([t for t in ticks if low * 0.8 <= t <= high * 1.25]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _mean_curve(curves: Sequence[Sequence[Epoch]], key: str) -> tuple[list[float], list[float]]:
    """Mean over the trials of each epoch that all of them reached."""
    some = [dict(zip(*_points(curve, key), strict=True)) for curve in curves]
    some = [values for values in some if values]
    epochs = sorted(set.intersection(*map(set, some))) if some else []
    return epochs, [fmean(values[epoch] for values in some) for epoch in epochs]
