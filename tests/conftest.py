"""Fixtures of all rooms."""

import pytest

from nextify.data import Images, open_images

LONGEST_FIRST = (
    "tests/study/test_study.py",
    "tests/training/test_kills.py",
    "tests/compare/test_comparison.py",
    "tests/weights/test_parity.py",
)
"""Files that take longest. Each stays on one process (``--dist loadfile``), so one of them must not be the last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of ``LONGEST_FIRST`` first, in that order."""
    rank = {name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


@pytest.fixture(scope="session")
def digits() -> Images:
    return open_images("digits")
