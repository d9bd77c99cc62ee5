"""Plain columns and JSON on stdout; no colours and no truncation, so that the output can be piped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def print_json(value: Any) -> None:
    """Indented JSON; NaN is an error, as in the standard."""
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under a header; the first column is flush left, all others flush right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())
