"""The table of a study as CSV, in the terminal (rich) and in Markdown; what it shows is in ``columns.py``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

from nextify.report import text
from nextify.report.columns import COLUMNS, Value, shown
from nextify.study.results import StudyResults

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {"higher": "bold green", "lower": "bold red"}


def csv_text(results: StudyResults) -> str:
    """``results.csv``: one line per step, unrounded, absent values empty (RFC 4180 quoting, ``\\n`` line ends)."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(column.key for column in COLUMNS)
    writer.writerows([_data(column.value(step)) for column in COLUMNS] for step in results.rows)
    return buffer.getvalue()


def terminal(results: StudyResults) -> Table:
    """One row per step: explored ones are dimmed and marked ○, a change is bold where it can be told from chance."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns = shown("terminal")
    made = Table(
        title=Text(text.study_title(results)),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        collapse_padding=True,
        pad_edge=False,
    )
    for column in columns:
        narrow = "\n" in column.narrow
        made.add_column(
            Text(column.narrow or column.heading), justify="right" if column.numeric else "left", no_wrap=narrow
        )
    for _, steps in text.groups(results):
        for step in steps:
            cells = [
                Text(c.text(step), style=_STYLES.get(step.verdict or "", "") if c.key == "change" else "")
                for c in columns
            ]
            made.add_row(*cells, style="" if step.adopted and step.trained else "dim")
        made.add_section()
    return made


def markdown(results: StudyResults) -> str:
    """The table, its notes and its provenance (command, hardware, versions, date, n)."""
    columns = shown("markdown")
    lines = [_line(c.heading for c in columns), "|" + "|".join("--:" if c.numeric else "---" for c in columns) + "|"]
    lines += [_line(c.text(step) for c in columns) for step in results.rows]
    lines += ["", _escaped(text.what_was_trained(results)), ""]
    lines += [f"- {note}" for note in text.notes(results)]
    command = results.study.command
    lines += ["", (f"Command: `{command}` · " if command else "") + text.provenance(results), ""]
    return "\n".join(lines)


def _data(value: Value) -> Value:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ")
