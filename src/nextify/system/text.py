"""Words that every room puts into its messages, tables as CSV, templates of pages, and one value or several."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from jinja2 import Environment

T = TypeVar("T", str, int)
SHOWN = 5
"""Names given in a message; the count says how many there are."""


def several(given: T | Iterable[T]) -> tuple[T, ...]:
    """A tuple of the values given; a bare string or number stands for itself alone, never for its characters."""
    return (given,) if isinstance(given, str | int) else tuple(given)


def plural(number: int, one: str, many: str = "") -> str:
    """``1 seed``, ``2,000 seeds``; ``many`` where it is not ``one`` with an s: ``1 row has``, ``2 rows have``."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def valid_unicode(name: str) -> str:
    """A file's name as valid Unicode: bytes that are not UTF-8 become �."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def printable(name: str) -> str:
    """A name as one line that is safe to print: valid Unicode, control characters escaped (``\\n``, ``\\x1b``)."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], valid_unicode(name))


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(printable(name) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN:,} more"


def shortened(value: object) -> str:
    """A value as a message has it."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested deeply, or a number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}…"


def as_csv(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Rows under a header as CSV (RFC 4180 quoting, ``\\n`` line ends)."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()


def templates(room: str, **more: Any) -> Environment:
    """The Jinja2 templates of a room, such as ``nextify.report``; ``more`` as Jinja2 takes it.

    Every value is escaped where it enters a page, and a name that a template does not get is an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(room),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **more,
    )
