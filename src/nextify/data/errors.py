"""What is wrong with the images, in one line that names the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

SHOWN = 5
"""Names given in a message; the count says how many there are."""


class DataError(ValueError):
    """Images that cannot be trained or tested on; the message is one line and names the remedy."""


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


@contextmanager
def reading_of(path: object) -> Iterator[None]:
    """Turn an ``OSError`` within into a ``DataError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        raise DataError(f"{printable(str(path))} cannot be read ({reason}): check its permissions") from None


def shortened(value: object) -> str:
    """A value as a message has it."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested deeply, or a number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}…"
