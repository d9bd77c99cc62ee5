"""Plain columns and JSON on stdout; no colours and no truncation, so that the output can be piped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def one_voice(first: bool) -> Iterator[None]:
    """Around what every one of several processes does alike: the first one tells of an error, the others just end."""
    from nextify.system.processes import FirstFailed

    try:
        yield
    except (FirstFailed, OSError, ValueError, KeyError, ImportError):
        if first:
            raise
        raise SystemExit(1) from None
