"""Fixtures of all rooms."""

from collections.abc import Iterator

import pytest
import torch

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Leave torch as many threads as before the test. The commands take all cores, and where pytest's processes have as
    many threads each, these spend most of their time waiting for one another."""
    before = torch.get_num_threads()
    result = yield
    torch.set_num_threads(before)
    return result


@pytest.fixture(scope="session")
def digits() -> Images:
    return open_images("digits")
