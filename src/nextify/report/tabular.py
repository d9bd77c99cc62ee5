"""``results.csv``: one line per step with the columns of ``COLUMNS``; units in docs/results-schema.md."""

from __future__ import annotations

import csv
import io
from typing import Any

from nextify.report.text import Results, rows

COLUMNS = (
    "step",
    "title",
    "adopted",
    "n",
    "top1_mean",
    "top1_std",
    "change",
    "change_low",
    "change_high",
    "compared_with",
    "p_value",
    "verdict",
    "conclusion",
    "parameters",
    "macs",
    "images_per_second",
    "published_top1",
    "published_std",
    "published_change",
    "published_gflops",
)


def csv_text(results: Results) -> str:
    """The rows as CSV (RFC 4180 quoting, ``\\n`` line ends): unrounded, empty where there is nothing."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(row.get(column)) for column in COLUMNS] for row in rows(results))
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value
