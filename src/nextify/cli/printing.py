"""Plain columns and JSON on stdout, without colours or truncation, so that the output can be piped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nextify.system.processes import FirstFailed


def print_json(value: Any) -> None:
    """Print indented JSON. Raises ``ValueError`` for NaN and infinities, which JSON does not have."""
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def print_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header, the first column flush left and the others flush right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())


@contextmanager
def one_voice(first: bool) -> Iterator[None]:
    """Report an error that every process meets only once: the first process raises it, the others exit quietly."""
    try:
        yield
    except (FirstFailed, OSError, ValueError, KeyError, ImportError):
        if first:
            raise
        raise SystemExit(1) from None
