"""What is wrong with the images, in one line that names the remedy."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 5
"""Names given in a message; the count says how many there are."""


class DataError(ValueError):
    """Images that cannot be trained or tested on; the message is one line and names the remedy."""


def printable(name: str) -> str:
    """A file's name as text that any terminal takes: bytes that are not UTF-8 become �."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(printable(name) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN:,} more"
