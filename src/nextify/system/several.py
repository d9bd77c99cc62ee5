"""Parameters that take several values, given one: a string is one value, never its characters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T", str, int)


def several(given: T | Iterable[T]) -> tuple[T, ...]:
    """A tuple of the values given; a bare string or number stands for itself alone."""
    return (given,) if isinstance(given, str | int) else tuple(given)
