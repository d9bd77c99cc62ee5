"""Words that every room puts into its messages."""

from __future__ import annotations


def plural(number: int, one: str, many: str = "") -> str:
    """``1 seed``, ``2,000 seeds``; ``many`` where it is not ``one`` with an s: ``1 row has``, ``2 rows have``."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
