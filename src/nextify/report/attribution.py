"""An attribution written out: JSON, CSV (one line per decision), two figures, a table for the terminal, and a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nextify.report import text
from nextify.report.columns import PAGE, PAGES, TABLES, Column, shown
from nextify.report.drawing import BAND, DOWN, FAINT, INK, PAPER, SOFT, UP, canvas, save, shorten, svg, tidy
from nextify.report.tables import csv_of, table_of, terminal_of
from nextify.report.template import Line, Table, render
from nextify.study.attribution import Attribution, Estimate, Interaction, Worth
from nextify.study.results import Json, StudyData, finite
from nextify.study.statistics import seeds_needed, smallest_possible_p
from nextify.system.files import write_json_atomic, write_text_atomic
from nextify.system.text import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table as RichTable

FILES = ("attribution.json", "attribution.csv", "attribution.svg", "attribution.png", "report.html")
FEW_MET = (
    " Where a few kinds of networks fail to train, those of tens of pairs are too narrow, as some kinds are not met; "
    "--every-subset meets all."
)
"""Of intervals from pairs of orders."""
SHOWN = 6
"""Pairs of decisions that are named at most."""
FIGURE_OF_INTERACTIONS = ("interactions.svg", "interactions.png")


@dataclass(frozen=True)
class Results:
    """An attribution and how it came about, as ``attribution.json`` has it."""

    attribution: Attribution
    regime: str
    data: StudyData
    scale: str
    image_size: int
    metric: str
    unit: str
    trainings: int
    training_seconds: float
    """Of all trainings together."""
    command: str
    started: str
    finished: str
    """ISO 8601; ``started`` is when the last sitting began."""
    environment: Mapping[str, str | int | float | None]

    def to_dict(self) -> Json:
        return {"schema": 1, **finite(self)}


def _estimate(part: str) -> tuple[Column[Worth], ...]:
    def of(end: str) -> Column[Worth]:
        return Column(f"{part}_{end}", getter=lambda w: getattr(getattr(w, part), end))

    return tuple(of(end) for end in ("mean", "low", "high", "n"))


def _shown(estimate: Estimate | Interaction) -> str:
    return f"{text.signed(estimate.mean)} {text.interval(estimate.low, estimate.high)}".strip()


COLUMNS: list[Column[Worth]] = [
    Column("decision"),
    Column("title", "decision", shown=TABLES, css="text"),
    Column("", "Shapley value [95 %]", "points", lambda w: _shown(w.shapley), TABLES, narrow="Shapley value [95 %]"),
    *_estimate("shapley"),
    Column(
        "", "in the paper’s order, here [95 %]", "points", lambda w: _shown(w.in_papers_order), TABLES,
        narrow="paper's order, here",
    ),
    *_estimate("in_papers_order"),
    Column(
        "papers_place", "orders in which it adds less", "%",
        lambda w: text.ABSENT if w.papers_place is None else f"{100 * w.papers_place:.0f}", PAGES,
    ),
    Column("", "alone [95 %]", "points", lambda w: _shown(w.alone), PAGE),
    *_estimate("alone"),
    Column("", "last [95 %]", "points", lambda w: _shown(w.last), PAGE),
    *_estimate("last"),
    Column("published", "paper’s change", "points", lambda w: text.signed(w.published), TABLES, css="paper",
           narrow="paper,\nImageNet"),
]  # fmt: skip


def write(results: Results, out: Path) -> list[Path]:
    """Write the files into ``out``, each as a whole or not at all, and return their paths."""
    write_json_atomic(out / FILES[0], results.to_dict())
    write_text_atomic(out / FILES[1], csv_of(COLUMNS, results.attribution.worths))
    drawing = save(figure(results), out, "attribution")
    pairs = interactions_figure(results)
    matrix = save(pairs, out, "interactions") if pairs else None
    write_text_atomic(out / FILES[4], page(results, drawing, matrix))
    return [out / name for name in (*FILES, *(FIGURE_OF_INTERACTIONS if matrix else ()))]


def terminal(results: Results) -> RichTable:
    """One row per decision; a value that can be told from nothing is bold."""
    title = f"What each decision is worth on {results.data.name}, in points of {results.metric}"

    def style(worth: Worth, key: str) -> str:
        return "bold" if key == "-" and _certain(worth.shapley) else ""

    return terminal_of(title, shown(COLUMNS, "terminal"), [("", results.attribution.worths)], style)


def notes(results: Results) -> list[str]:
    """What was found, in words, and what the figures mean."""
    found, unit = results.attribution, "points"
    said = [
        f"{found.basis.capitalize()}, {results.trainings:,} runs. All together: "
        f"{_shown(found.whole)} {unit}; the values add up to it to within {abs(found.gap or 0):.1g}.",
        f"Intervals are 95 %, for {'' if found.subsets else 'new orders and '}new seeds on these test images, for each "
        f"decision by itself.{'' if found.subsets else FEW_MET}",
        "In every order “depthwise” comes before “inverted bottleneck”, “move up” and the 7×7 kernel, whose dense "
        "convolutions would take up to 60 times the multiply-adds; and “training technique” before “fewer norms” and "
        "“BN → LN”, since on the digits most networks with these did not train well with the original recipe.",
        *_against_the_paper(found),
    ]
    if found.left_out:
        said.append(
            f"{plural(found.left_out, 'run')} failed and count nowhere."
            if found.subsets
            else f"{plural(found.left_out, 'pair')} of orders left out, since a run failed in each."
        )
    if strong := [i for i in found.interactions if i.certain]:
        titles = {w.decision: w.title for w in found.worths}
        said.append(
            f"{len(strong)} of {len(found.interactions)} pairs of decisions change each other's worth"
            f"{', most of all' if len(strong) > SHOWN else ''}: "
            + "; ".join(f"{titles[i.first]} and {titles[i.second]} {_shown(i)}" for i in strong[:SHOWN])
            + "."
        )
    elif found.interactions:
        said.append("No two decisions can be said to change each other's worth.")
    return said


def _certain(estimate: Estimate) -> bool:
    """Whether a value can be told from nothing: with too few pairs of orders, none can."""
    if estimate.n < seeds_needed() or estimate.low is None or estimate.high is None:
        return False
    return estimate.low > 0 or estimate.high < 0


def _against_the_paper(found: Attribution) -> list[str]:
    """Which of the paper's bars have another sign or another rank here; or how many pairs it takes to say so."""
    worths, needed = found.worths, seeds_needed()
    if not found.subsets and found.pairs < needed:
        return [
            f"It is too early to rank the decisions or to compare them with the paper's: with "
            f"{plural(found.pairs, 'pair')} of orders, a two-sided sign-flip test cannot go below "
            f"p = {smallest_possible_p(found.pairs):.2g}; {needed} pairs would do."
        ]
    turned = [
        worth.title
        for worth in worths
        if worth.published and _certain(worth.shapley) and (worth.shapley.mean or 0) * worth.published < 0
    ]
    ours = sorted(worths, key=lambda w: -(w.shapley.mean or 0))
    paper = sorted(worths, key=lambda w: -(w.published or 0))
    moved = [
        f"{w.title} ({paper.index(w) + 1} → {ours.index(w) + 1})"
        for w in ours
        if abs(paper.index(w) - ours.index(w)) >= 4
    ]
    said = "Opposite sign to the paper's: " + (", ".join(turned) if turned else "none for certain") + "."
    return [said, "Four or more ranks away from the paper's: " + (", ".join(moved) if moved else "none") + "."]


def figure(results: Results) -> Figure:
    """Left: the values with their intervals, over the spread of all orders; right: the paper's changes."""
    worths = results.attribution.worths
    height = 0.36 * len(worths) + 1.9
    made = canvas(10.4, height)
    top, bottom = 1 - 1.05 / height, 0.85 / height
    ours = made.add_axes((0.23, bottom, 0.5, top - bottom))
    theirs = made.add_axes((0.77, bottom, 0.2, top - bottom))
    for y, worth in enumerate(worths):
        if y % 2 == 0:
            for axes in (ours, theirs):
                axes.axhspan(y - 0.5, y + 0.5, color=BAND, linewidth=0, zorder=0)
        _worth(ours, y, worth)
        change = worth.published or 0.0
        theirs.barh(y, change, height=0.5, color=PAPER, zorder=2)
        theirs.text(
            change, y, f" {text.signed(change)} ", ha="left" if change >= 0 else "right", va="center", fontsize=8,
            color=SOFT,
        )  # fmt: skip
    for axes, title in ((ours, f"Here: {shorten(results.data.name, 40)}"), (theirs, "The paper: ImageNet-1K")):
        axes.axvline(0, color=SOFT, linewidth=0.8, zorder=1)
        axes.set_ylim(len(worths) - 0.5, -0.5)
        axes.set_title(title, fontsize=10.5, loc="left", color=INK if axes is ours else SOFT, weight="bold")
        tidy(axes)
        axes.set_xlabel(f"points of {results.metric}", fontsize=8.5, color=SOFT)
    theirs.margins(x=0.3)
    ours.set_yticks(range(len(worths)), [shorten(worth.title, 28) for worth in worths], fontsize=9.5, color=INK)
    ours.tick_params(axis="y", length=0)
    theirs.set_yticks([])
    drawn = {"●": "Shapley value, 95 % interval"}
    if any(worth.in_papers_order.mean is not None for worth in worths):
        drawn |= {"◆": "in the paper’s order", "▷": "alone", "◁": "last"}
    legend = "   ".join(f"{mark} {words}" for mark, words in drawn.items()) + "   grey: 5 to 95 % of the orders"
    made.text(0.23, 1 - 0.5 / height, legend, fontsize=8.5, color=SOFT, va="center")
    title = f"What each decision is worth in any order ({results.attribution.basis})"
    made.text(0.02, 1 - 0.24 / height, title, fontsize=12.5, weight="bold", color=INK, va="center")
    return made


def _worth(axes: Axes, y: int, worth: Worth) -> None:
    if worth.quantiles:
        low, first, _, third, high = worth.quantiles
        axes.plot([low, high], [y, y], color=FAINT, linewidth=2, zorder=1, solid_capstyle="butt")
        axes.plot([first, third], [y, y], color=FAINT, linewidth=7, zorder=1, solid_capstyle="butt")
    value = worth.shapley
    if value.mean is not None:
        color = INK if not _certain(value) else UP if value.mean > 0 else DOWN
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [y, y], color=color, linewidth=1.6, zorder=3)
        axes.plot([value.mean], [y], "o", color=color, markersize=5.5, zorder=4)
    marks = ((worth.in_papers_order, "D"), (worth.alone, ">"), (worth.last, "<"))
    for estimate, marker in marks:
        if estimate.mean is not None:
            inside = SOFT if marker == "D" else "white"
            (drawn,) = axes.plot([estimate.mean], [y], marker, color=SOFT, markersize=4.2, zorder=2.5)
            drawn.set(markerfacecolor=inside, markeredgewidth=0.9)


def interactions_figure(results: Results) -> Figure | None:
    """A matrix of how much more two decisions bring together; None with too few pairs of orders."""
    import numpy as np

    found, worths = results.attribution.interactions, results.attribution.worths
    if not found:
        return None
    place = {worth.decision: i for i, worth in enumerate(worths)}
    values = np.full((len(worths), len(worths)), np.nan)
    for each in found:
        i, j = place[each.first], place[each.second]
        values[max(i, j), min(i, j)] = each.mean
    side = 0.5 * len(worths)
    made = canvas(side + 2.9, side + 2.3)
    width, height = side + 2.9, side + 2.3
    axes = made.add_axes((2.2 / width, 1.75 / height, side / width, (side - 0.3) / height))
    bound = float(np.nanmax(np.abs(values)))
    axes.imshow(values, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
    for each in found:
        i, j = place[each.first], place[each.second]
        words = text.signed(each.mean, 1)
        dark = abs(each.mean) > 0.6 * bound
        axes.text(
            min(i, j), max(i, j), words, ha="center", va="center", fontsize=8,
            weight="bold" if each.certain else "normal",
            color="white" if dark else INK if each.certain else SOFT,
        )  # fmt: skip
    names = [shorten(worth.title, 24) for worth in worths]
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8.5, color=INK)
    axes.set_yticks(range(len(names)), names, fontsize=8.5, color=INK)
    tidy(axes)
    title = "What two decisions bring together beyond each by itself"
    made.text(0.02, 1 - 0.25 / height, title, fontsize=12, weight="bold", color=INK, va="center")
    under = f"points of {results.metric}; bold: certain with all pairs considered; blank: always in this order"
    made.text(0.02, 1 - 0.5 / height, under, fontsize=8.5, color=SOFT, va="center")
    return made


def page(results: Results, drawing: str | None = None, matrix: str | None = None) -> str:
    """The report as one HTML document; the figures as SVG where they have been drawn already."""
    found = results.attribution
    if matrix is None and (pairs := interactions_figure(results)):
        matrix = svg(pairs)
    return render(
        "attribution.html.jinja",
        title=f"What each decision is worth on {results.data.name}",
        results=results,
        whole=_shown(found.whole),
        drawing=drawing or svg(figure(results)),
        matrix=matrix,
        table=table_of("What each decision is worth", shown(COLUMNS, "html"), [("", results.attribution.worths)]),
        interactions=_interactions(results),
        notes=notes(results),
        conditions=_conditions(results),
        paper=text.PAPER,
    )


def _interactions(results: Results) -> Table:
    titles = {worth.decision: worth.title for worth in results.attribution.worths}
    lines = [
        Line((titles[i.first], titles[i.second], _shown(i), "yes" if i.certain else "no"))
        for i in results.attribution.interactions
    ]
    head = (("decision", ""), ("and", "text"), ("together, points [95 %]", ""), ("certain with all considered", "text"))
    return Table("Pairs of decisions", head, [("", lines)])


def _conditions(results: Results) -> list[tuple[str, str | None]]:
    environment = results.environment
    return [
        ("command", results.command),
        ("data", results.data.name),
        ("test images", text.whole(results.data.test_images)),
        ("scale", results.scale),
        ("image size", f"{results.image_size}×{results.image_size} pixels"),
        ("trainings", f"{results.trainings:,}, {text.duration(results.training_seconds)} of training in all"),
        ("hardware", str(environment.get("gpu") or environment.get("cpu") or text.ABSENT)),
        ("versions", text.versions(environment)),
        ("finished", results.finished),
    ]
