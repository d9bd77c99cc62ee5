"""A search written out: JSON, CSV and Markdown of all designs, a figure, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from nextify.compare.budget import QUANTITIES, limits
from nextify.compare.designs import UNFIT, Candidate, exhausted
from nextify.compare.figures import front
from nextify.compare.search_results import WORDS, Final, Found, Tried
from nextify.report import text
from nextify.report.columns import PAGES, TABLES, Column, shown
from nextify.report.drawing import DOWN, FAINT, INK, PAPER, SOFT, TRIAL, UP, canvas, save, shorten, tidy
from nextify.report.tables import csv_of, markdown_of, table_of, terminal_of
from nextify.system.files import write_json_atomic, write_text_atomic
from nextify.system.text import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table as RichTable

FILES = ("search.json", "search.csv", "search.md", "search.svg", "search.png")
COLORS = {"search": UP, "random": PAPER, "family": DOWN}
LISTED = 12
"""Designs in the table of those that got furthest."""


def _change(final: Final) -> str:
    found = final.statistics.comparison
    if found is None:
        return "winner is a member" if final.member else text.ABSENT
    ends = found.crossed.interval() if found.crossed else (found.low, found.high)
    return f"{text.signed(found.change)} {text.interval(*ends)}".strip()


def _p(final: Final) -> str:
    found = final.statistics.comparison
    p = found and (found.p_holm if found.p_crossed_holm is None else found.p_crossed_holm)
    return text.ABSENT if p is None else f"{p:.2g}"


def _ms(value: float | None) -> str:
    return text.ABSENT if value is None else text.three_digits(value)


def _dashed(stages: Sequence[int]) -> str:
    """``1-2-3-1``: one number per stage."""
    return "-".join(map(str, stages))


FINALS: list[Column[Final]] = [
    Column("", "design", "", lambda f: f"{WORDS[f.arm]}: {f.candidate.name}", TABLES, css="text"),
    Column("", "made from", "", lambda f: f.candidate.origin, PAGES, css="text"),
    Column("", "depths", "", lambda f: _dashed(f.candidate.design.depths), PAGES, css="text"),
    Column("", "widths", "", lambda f: _dashed(f.candidate.design.widths), PAGES, css="text"),
    Column("", "latency", "ms", lambda f: text.three_digits(median(f.latency_ms)), TABLES),
    Column("", "multiply-adds", "", lambda f: text.count(f.candidate.row.macs), TABLES, narrow="mult-\nadds"),
    Column("", "parameters", "", lambda f: text.count(f.candidate.row.parameters), TABLES, narrow="param-\neters"),
    Column("", "n", "", lambda f: str(f.statistics.summary.n), TABLES),
    Column("", "top-1", "%", lambda f: text.mean_std(f.statistics.summary.mean, f.statistics.summary.std), TABLES),
    Column("", "winner over it [95 %]", "points", _change, TABLES, narrow="winner over it [95 %]"),
    Column("", "p (Holm)", "", _p, TABLES),
    Column("", "search took", "", lambda f: text.duration(f.seconds), TABLES, narrow="took"),
]
TRIED: list[Column[Tried]] = [
    Column("arm", "arm", shown=PAGES, css="text"),
    Column("name", "design", shown=PAGES, css="text", getter=lambda t: t.candidate.name),
    Column("origin", "made from", shown=PAGES, css="text", getter=lambda t: t.candidate.origin),
    Column("depths", "depths", shown=PAGES, css="text", getter=lambda t: _dashed(t.candidate.design.depths)),
    Column("widths", "widths", shown=PAGES, css="text", getter=lambda t: _dashed(t.candidate.design.widths)),
    Column("used", "share of the budget", "%", lambda t: f"{100 * t.candidate.used:.0f}", PAGES,
           lambda t: t.candidate.used),
    Column("latency_ms_p50", "latency", "ms", lambda t: _ms(t.candidate.row.latency_ms_p50), PAGES,
           lambda t: t.candidate.row.latency_ms_p50),
    Column("macs", "multiply-adds", "", lambda t: text.count(t.candidate.row.macs), PAGES,
           lambda t: t.candidate.row.macs),
    Column("parameters", getter=lambda t: t.candidate.row.parameters),
    Column("epochs", "epochs", shown=PAGES),
    Column("validation_accuracy", "validation accuracy", "%", lambda t: text.percent(t.accuracy), PAGES,
           lambda t: t.accuracy),
    Column("seconds", getter=lambda t: t.seconds),
    Column("error"),
]  # fmt: skip


def write(found: Found, out: Path) -> list[Path]:
    """Write the files into ``out``, each as a whole or not at all, and return their paths."""
    write_json_atomic(out / FILES[0], found.to_dict())
    write_text_atomic(out / FILES[1], csv_of(TRIED, found.tried))
    write_text_atomic(out / FILES[2], markdown(found))
    save(figure(found), out, "search")
    return [out / name for name in FILES]


def terminal(found: Found) -> RichTable:
    """One row per winner."""
    title = f"The best design within {found.settings.budget} on {found.data.name}"
    return terminal_of(title, shown(FINALS, "terminal"), [("", found.finals)])


def markdown(found: Found) -> str:
    """The winners, what was found in words, and the designs that got furthest."""
    furthest = sorted(found.tried, key=lambda t: (-t.epochs, -(t.accuracy or 0)))[:LISTED]
    parts = [
        f"# The best design within {found.settings.budget} on {found.data.name}",
        markdown_of(table_of("", shown(FINALS, "markdown"), [("", found.finals)])),
        "\n".join(f"- {line}" for line in notes(found)),
        "## The designs that got furthest",
        markdown_of(table_of("", shown(TRIED, "markdown"), [("", furthest)])),
        f"The winner: `{found.winner.design}`",
        f"Command: `{found.command or 'nextify.search'}` · {text.versions(found.environment)} · {found.finished}",
    ]
    return "\n\n".join(parts) + "\n"


def notes(found: Found) -> list[str]:
    """What was found, in words, and what the figures mean."""
    given, place = found.settings, found.environment
    said = [f.statistics.comparison.conclusion for f in found.finals if f.statistics.comparison]
    said += [_same(f, found.winner) for f in found.finals if f.member]
    trained = {arm: [t for t in found.tried if t.arm == arm and t.epochs] for arm in WORDS}
    over = sum(t.candidate.used > 1 for t in found.tried)
    said.append(
        f"The search trained {plural(len(trained['search']), 'design')} {_rungs(found.rungs)}. Of all designs, {over} "
        f"were over the budget and not trained."
    )
    ended = [arm for arm in ("search", "random") if exhausted([t.candidate for t in found.tried if t.arm == arm])]
    if "search" in ended:
        said.append(f"The search ended before its time, as the last {UNFIT} designs that it drew were over the budget.")
    if not given.alone:
        total = "until its last designs were over the budget" if "random" in ended else "for at least as long in total"
        said.append(
            f"Random search trained {plural(len(trained['random']), 'design')} for {plural(found.rungs[-1], 'epoch')}, "
            f"{total}."
            if trained["random"]
            else "No design that random search drew keeps the budget."
        )
        said.append(
            f"{plural(len(trained['family']), 'member', 'members')} of the families "
            f"{'was' if len(trained['family']) == 1 else 'were'} halved as in the search."
            if found.members
            else "No member of the families keeps the budget."
        )
    if left := found.left_out:
        said.append(
            f"There was no time to train {len(left)} of the {plural(len(found.members), 'family member')} within the "
            f"budget: more --minutes trains more of them."
        )
    said += [
        f"Designs were judged on {found.validation_images:,} validation images held out of the training images. The "
        f"winners were then trained on all training images and measured on the {found.data.test_images:,} test images.",
        f"Latency: the median of single images of {found.image_size}×{found.image_size}, warm, on "
        f"{place.get('device')} ({place.get('gpu') or place.get('cpu')}) with "
        f"{plural(found.latency_threads, 'thread')}; for the winners the median of {len(found.finals[0].latency_ms)} "
        f"rounds in turn.",
    ]
    late = [f for f in found.finals if any(limit.name == "latency" and median(f.latency_ms) > limit.value
                                           for limit in limits(given.budget))]  # fmt: skip
    if late:
        names = text.listing([WORDS[f.arm] for f in late])
        said.append(f"Measured again in turn, {names} took longer than the budget: other work is slowing this machine.")
    return said


def _rungs(rungs: Sequence[int]) -> str:
    """``for 1 epoch``, or that the best went on to longer ones."""
    if len(rungs) == 1:
        return f"for {plural(rungs[0], 'epoch')}"
    return f"in rungs of {' → '.join(map(str, rungs))} epochs, the best third of them going on each time"


def _same(family: Final, winner: Candidate) -> str:
    """That the winner is a member of the families, in place of a difference to them."""
    others = "" if family.candidate.design == winner.design else "; the table shows the best of the other members"
    return f"The winner is the family member {family.member}, so it is not compared with the families{others}."


def figure(found: Found) -> Figure:
    """Left: every design that was trained, by what it costs and its validation accuracy; right: the winners' test
    accuracies."""
    limit = limits(found.settings.budget)[0]
    quantity = QUANTITIES[limit.name]
    made = canvas(11.0, 5.2)
    left, right = made.add_axes((0.07, 0.13, 0.56, 0.66)), made.add_axes((0.72, 0.13, 0.26, 0.66))
    trained = [
        (t, float(getattr(t.candidate.row, quantity.key)), t.accuracy) for t in found.tried if t.accuracy is not None
    ]
    last = found.rungs[-1]
    for t, cost, value in sorted(trained, key=lambda each: each[0].epochs):
        whole = t.epochs == last
        size, faint = (34, 0.9) if whole else (10 + 12 * found.rungs.index(t.epochs), 0.45)
        left.scatter(cost, value, s=size, color=COLORS[t.arm], alpha=faint, linewidths=0, zorder=3 if whole else 2)
    best = front([(cost, value) for t, cost, value in trained if t.epochs == last])
    left.plot(*zip(*best, strict=True), color=FAINT, linewidth=1.6, drawstyle="steps-post", zorder=1)
    for t, cost, value in trained:
        if t.candidate == found.winner and t.arm == "search":
            left.scatter(cost, value, s=190, facecolors="none", edgecolors=INK, linewidths=1.4, zorder=4)
            left.annotate("winner", (cost, value), (-10, 0), textcoords="offset points", ha="right",
                          va="center", fontsize=9, color=INK)  # fmt: skip
    left.axvline(limit.value, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    left.annotate(limit.said, (limit.value, 1), (-4, -4), xycoords=("data", "axes fraction"), ha="right", va="top",
                  textcoords="offset points", fontsize=8.5, color=INK)  # fmt: skip
    left.set_xlim(right=max([limit.value, *(cost for _, cost, _ in trained)]) * 1.04)
    if not quantity.unit:
        left.xaxis.set_major_formatter(lambda value, _: text.count(value))
    unit = f",{quantity.unit}" if quantity.unit else ""
    _words(left, "All designs, on validation images", f"{quantity.words} of an image{unit}", f"{found.metric}, %")
    _finals(right, found.finals)
    _words(right, f"Winners, on test images ({plural(found.settings.seeds, 'seed')})", "", f"{found.metric}, %")
    words = {"search": "search", "random": "random search", "family": "families"}
    for i, arm in enumerate(arm for arm in words if any(t.arm == arm for t, _, _ in trained)):
        made.text(0.07 + 0.13 * i, 0.885, f"● {words[arm]}", fontsize=9, color=COLORS[arm], va="center")
    larger = f"larger: more epochs ({' → '.join(map(str, found.rungs))}); " if len(found.rungs) > 1 else ""
    made.text(0.46, 0.885, f"{larger}grey line: the front", fontsize=8.5, color=SOFT, va="center")
    title = f"The best design within {found.settings.budget} on {shorten(found.data.name, 40)}"
    made.text(0.02, 0.95, title, fontsize=12.5, weight="bold", color=INK, va="center", parse_math=False)
    return made


def _finals(axes: Axes, finals: Sequence[Final]) -> None:
    for x, final in enumerate(finals):
        values = [value for value in final.accuracies if value is not None]
        axes.scatter([x] * len(values), values, s=18, color=TRIAL, zorder=2, linewidths=0)
        if (mean := final.statistics.summary.mean) is not None:
            axes.plot([x - 0.22, x + 0.22], [mean, mean], color=COLORS[final.arm], linewidth=2.4, zorder=3)
            axes.annotate(f"{mean:.2f}", (x + 0.26, mean), fontsize=8.5, color=INK, va="center")
    axes.set_xlim(-0.5, len(finals) - 0.2)
    axes.margins(y=0.2)
    axes.set_xticks(range(len(finals)), [{"random": "random\nsearch"}.get(f.arm, f.arm) for f in finals])


def _words(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=10.5, loc="left", color=INK, weight="bold")
    axes.set_xlabel(across, fontsize=8.5, color=SOFT)
    axes.set_ylabel(up, fontsize=8.5, color=SOFT)
    tidy(axes)
