"""Records as tables, by their columns: CSV, Markdown, the terminal (rich) and HTML; and those of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from nextify.report import text
from nextify.report.columns import COLUMNS, Column, Place, of_metric, shown
from nextify.report.template import Line, Table
from nextify.study.results import StepResult, StudyResults
from nextify.system.text import as_csv

if TYPE_CHECKING:
    from rich.table import Table as RichTable

T = TypeVar("T")
Groups = Iterable[tuple[str, Sequence[T]]]
"""(heading or ``""``, records) of each group of a table."""
_NUMERIC = ("", "paper")
"""CSS classes of the columns that are flush right."""
_STYLES = {"higher": "bold green", "lower": "bold red"}


def csv_of(columns: Sequence[Column[T]], records: Iterable[T]) -> str:
    """One line per record, unrounded, absent values empty (RFC 4180 quoting, ``\\n`` line ends)."""
    named = [column for column in columns if column.key]
    rows = ([column.value(record) for column in named] for record in records)
    words = ([str(value).lower() if isinstance(value, bool) else value for value in row] for row in rows)
    return as_csv([column.key for column in named], words)


def table_of(
    caption: str, columns: Sequence[Column[T]], groups: Groups[T], css: Callable[[T], str] = lambda record: ""
) -> Table:
    """The table for Markdown and HTML; a column that is empty in every line is left out. ``css``: class of a line."""
    kept = [(name, list(records)) for name, records in groups]
    everything = [record for _, records in kept for record in records]
    used = [c for c in columns if not everything or any(map(c.text, everything))]
    lines = [(name, [Line([c.text(r) for c in used], css(r)) for r in records]) for name, records in kept]
    return Table(caption, [(c.heading, c.css) for c in used], lines)


def markdown_of(table: Table) -> str:
    """The table in Markdown, numbers flush right."""
    rule = "|".join("--:" if css in _NUMERIC else "---" for _, css in table.head)
    lines = [line.cells for _, group in table.groups for line in group]
    return "\n".join([_line(label for label, _ in table.head), f"|{rule}|", *map(_line, lines)])


def terminal_of(
    title: str, columns: Sequence[Column[T]], groups: Groups[T], style: Callable[[T, str], str] = lambda record, key: ""
) -> RichTable:
    """The table for the terminal. ``style``: of a record's column by its key; that of the whole line for ``""``."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=Text(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), collapse_padding=True, pad_edge=False)
    for column in columns:
        heading, numeric = Text(column.narrow or column.heading), column.css in _NUMERIC
        made.add_column(heading, justify="right" if numeric else "left", no_wrap="\n" in column.narrow)
    for name, records in groups:
        if name:
            made.add_row(Text(name, style="dim"))
        for r in records:
            made.add_row(*(Text(c.text(r), style=style(r, c.key or "-")) for c in columns), style=style(r, ""))
        made.add_section()
    return made


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ")


# A study


def _shown(results: StudyResults, place: Place) -> list[Column[StepResult]]:
    return shown(of_metric(COLUMNS, results.metric), place)


def csv_text(results: StudyResults) -> str:
    """``results.csv``: one line per step."""
    return csv_of(of_metric(COLUMNS, results.metric), results.rows)


def terminal(results: StudyResults) -> RichTable:
    """One row per step: explored ones are dimmed and marked ○, a change is bold where it can be told from chance."""

    def style(step: StepResult, key: str) -> str:
        if key:
            return _STYLES.get(step.verdict or "", "") if key == "change" else ""
        return "" if step.adopted and step.trained else "dim"

    groups = (("", steps) for _, steps in text.groups(results))
    return terminal_of(text.study_title(results), _shown(results, "terminal"), groups, style)


def steps_table(results: StudyResults) -> Table:
    """One row per step for the HTML page, in the sections of the paper's Figure 2."""
    caption = f"{text.sentence(results.metric.noun)} after each step"
    return table_of(caption, _shown(results, "html"), text.groups(results), text.css)


def markdown(results: StudyResults) -> str:
    """The table, its notes and its provenance (command, hardware, versions, date, n)."""
    table = table_of("", _shown(results, "markdown"), [("", results.rows)])
    command = results.study.command
    lines = [markdown_of(table), "", _escaped(text.what_was_trained(results)), ""]
    if verdicts := text.verdicts(results):
        lines += [*(f"- {_escaped(verdict)}" for verdict in verdicts), ""]
    lines += [f"- {note}" for note in text.notes(results)]
    return "\n".join([*lines, "", (f"Command: `{command}` · " if command else "") + text.provenance(results), ""])
