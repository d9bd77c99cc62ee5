"""The paper's table for the user's images: in the terminal (rich) and for the docs (Markdown)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nextify.report import text
from nextify.report.text import Results, Row

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {"higher": "bold green", "lower": "bold red"}


def table(results: Results) -> Table:
    """A row per step; explored ones are dimmed and marked ○, a change is bold where it can be told from chance."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    made = Table(
        title=escape(f"{text.path_title(results)} on {text.data_name(results)}"),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        collapse_padding=True,
        pad_edge=False,
    )
    made.add_column("step")
    made.add_column("top-1 %", justify="right")
    made.add_column("change \\[95 % interval]", justify="right")
    made.add_column("param-\neters", justify="right", no_wrap=True)
    made.add_column("mult-\nadds", justify="right", no_wrap=True)
    made.add_column("train\nimg/s", justify="right", no_wrap=True)
    made.add_column("paper\ntop-1", justify="right", no_wrap=True)
    made.add_column("paper\nchange", justify="right", no_wrap=True)
    path = text.groups(results)
    for i, (_, members) in enumerate(path):
        for j, row in enumerate(members):
            verdict = str(row.get("verdict") or "")
            change = escape(_change(row))
            if verdict in _STYLES:
                change = f"[{_STYLES[verdict]}]{change}[/]"
            made.add_row(
                escape(text.marked(row)),
                text.mean_std(row.get("top1_mean"), row.get("top1_std")) if text.trained(row) else "not trained",
                change,
                text.count(row.get("parameters")).replace(" ", ""),
                text.count(row.get("macs")).replace(" ", ""),
                text.whole(row.get("images_per_second")),
                text.percent(row.get("published_top1")),
                text.signed(row.get("published_change")),
                style="" if text.adopted(row) and text.trained(row) else "dim",
                end_section=j == len(members) - 1 and i < len(path) - 1,
            )
    return made


def legend(results: Results) -> list[str]:
    """The lines beneath the table: n, what the columns mean, what can be concluded and what cannot."""
    return text.notes(results)


def markdown(results: Results) -> str:
    """The table, its notes and where it comes from (command, hardware, versions, date, n), for the docs."""
    lines = [
        "| step | top-1 % | change [95 % interval] | verdict | parameters | multiply-adds | training img/s | "
        "paper top-1 | paper change |",
        "|---|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in text.rows(results):
        cells = (
            text.marked(row),
            text.mean_std(row.get("top1_mean"), row.get("top1_std")),
            _change(row),
            str(row.get("verdict") or text.ABSENT),
            text.count(row.get("parameters")),
            text.count(row.get("macs")),
            text.whole(row.get("images_per_second")),
            text.percent(row.get("published_top1")),
            text.signed(row.get("published_change")),
        )
        lines.append("| " + " | ".join(_cell(c) for c in cells) + " |")
    lines += ["", text.what_was_trained(results).replace("|", "\\|"), ""]
    lines += [f"- {line}" for line in text.notes(results)]
    command = text.study(results).get("command")
    lines += ["", (f"Command: `{command}` · " if command else "") + text.provenance(results), ""]
    return "\n".join(lines)


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


def _change(row: Row) -> str:
    return f"{text.signed(row.get('change'))} {text.interval(row.get('change_low'), row.get('change_high'))}".strip()
