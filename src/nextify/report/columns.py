"""The columns of tables. A column is named once, and drives the CSV, Markdown, the terminal and the HTML page.

``COLUMNS`` alone decides what ``results.csv``, ``results.json`` and the tables of a study show of each step: a new
column is one more line. ``{key}``, ``{title}`` and ``{unit}`` stand for those of the task's main metric.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from nextify.report import text
from nextify.study.results import StepResult
from nextify.tasks.metric_specs import MetricSpec

T = TypeVar("T")
Place = Literal["csv", "terminal", "markdown", "html"]
Value = str | int | float | bool | None

TABLES: frozenset[Place] = frozenset(("terminal", "markdown", "html"))
PAGES: frozenset[Place] = frozenset(("markdown", "html"))
PAGE: frozenset[Place] = frozenset(("html",))


@dataclass(frozen=True)
class Column(Generic[T]):
    """One figure of a record, as data and as text."""

    key: str
    """Its name in JSON and CSV; empty for one that stands in tables only."""
    title: str = ""
    unit: str = ""
    format: Callable[[T], str] | None = None
    """The text in tables; None writes the value by its type."""
    shown: frozenset[Place] = frozenset()
    """The tables it stands in, besides the CSV, which holds every column with a key."""
    getter: Callable[[T], Value] | None = None
    """The value, where it is not the attribute ``key`` of the record."""
    narrow: str = ""
    """Heading in the terminal, where that has less room; ``\\n`` breaks the line."""
    css: str = ""
    """CSS class in HTML; see :class:`nextify.report.template.Table`."""

    @property
    def heading(self) -> str:
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def value(self, record: T) -> Value:
        """The figure as data, unrounded."""
        return self.getter(record) if self.getter else getattr(record, self.key)

    def text(self, record: T) -> str:
        """The figure as text."""
        return self.format(record) if self.format else text.cell(self.value(record))


def shown(columns: Sequence[Column[T]], place: Place) -> list[Column[T]]:
    """The columns of one kind of table."""
    return [column for column in columns if place in column.shown]


def of_metric(columns: Sequence[Column[T]], metric: MetricSpec) -> list[Column[T]]:
    """The columns with the metric's names in the place of ``{key}``, ``{title}`` and ``{unit}``."""
    names = {"key": metric.key, "title": metric.title, "unit": metric.unit}
    return [
        replace(c, **{f: getattr(c, f).format(**names) for f in ("key", "title", "unit", "narrow")}) for c in columns
    ]


COLUMNS: list[Column[StepResult]] = [
    Column("step", "step", format=text.marked, shown=TABLES, css="text"),
    Column("title", "title"),
    Column("adopted", "adopted"),
    Column("n", "n", shown=PAGE),
    Column(
        "{key}_mean", "{title} (mean ± std)", "{unit}", text.accuracy, TABLES, lambda s: s.mean, narrow="{title} {unit}"
    ),
    Column("{key}_std", "standard deviation of {title}", "points", getter=lambda s: s.std),
    Column("change", "change [95 % interval]", "points", text.change, TABLES, narrow="change [95 % interval]"),
    Column("change_low", "lower end of the change", "points"),
    Column("change_high", "upper end of the change", "points"),
    Column("interval_low", "lower end of the change for new seeds and images", "points"),
    Column("interval_high", "upper end of the change for new seeds and images", "points"),
    Column("compared_with", "compared with"),
    Column("p_value", "sign-flip p"),
    Column("p_crossed", "p for new seeds and images"),
    Column("p_crossed_holm", "p for all steps together"),
    Column("verdict", "verdict", shown=PAGES, css="verdict"),
    Column("conclusion", "conclusion"),
    Column("parameters", "parameters", "", lambda s: text.count(s.parameters), TABLES, narrow="param-\neters"),
    Column("macs", "multiply-adds", "", lambda s: text.count(s.macs), TABLES, narrow="mult-\nadds"),
    Column(
        "images_per_second", "training", "images/s", lambda s: text.whole(s.images_per_second), TABLES,
        narrow="train\nimg/s",
    ),
    Column("published_top1", "paper’s top-1", "%", shown=TABLES, narrow="paper\ntop-1", css="paper"),
    Column("published_std", "paper’s std", "points", shown=PAGE),
    Column(
        "published_change", "paper’s change", "points", lambda s: text.signed(s.published_change), TABLES,
        narrow="paper\nchange",
    ),
    Column("published_gflops", "paper’s cost", "GFLOPs", shown=PAGE),
]  # fmt: skip
