"""How the commands speak: plain columns and JSON that can be piped, notes, and one voice of several processes."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nextify.system.processes import FirstFailed
from nextify.system.text import printable

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Finding:
    """One line of a report on this machine."""

    name: str
    found: str | None
    """None for what is absent."""
    note: str = ""
    wrong: bool = False
    """Whether nextify does not work like this."""


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


def command_line() -> str:
    """The command as it was given, for records."""
    return shlex.join(["nextify", *sys.argv[1:]])


_said: set[str] = set()


def note(*lines: object) -> None:
    """Print one note per line to stderr, unless the command has said or logged it; what comes from files is escaped."""

    for text in (printable(str(line)) for line in lines):
        if text not in _said:
            print(f"nextify: note: {text}", file=sys.stderr)
            _said.add(text)


@contextmanager
def said_once() -> Iterator[None]:
    """Keep ``note`` from repeating what is logged within."""

    def remember(record: logging.LogRecord) -> bool:
        _said.add(record.getMessage())
        return True

    _said.clear()
    with _filtered(remember):
        yield


@contextmanager
def unlogged() -> Iterator[None]:
    """Keep what is logged within from being printed."""
    with _filtered(lambda record: False):
        yield


@contextmanager
def _filtered(passes: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    """Within, log only what passes."""
    log = logging.getLogger("nextify")
    log.addFilter(passes)
    try:
        yield
    finally:
        log.removeFilter(passes)


def plain(console: Console, line: str) -> None:
    """Print a line as it is, however long, with control characters escaped."""
    console.print(printable(line), markup=False, soft_wrap=True)


def say(console: Console, notes: Iterable[str]) -> None:
    """Print one note per line, indented and dim, with control characters escaped."""
    for note in notes:
        console.print(f"  · {printable(note)}", markup=False, style="dim", soft_wrap=True)
