"""Fixtures of the kernels' tests."""

from collections.abc import Iterator

import pytest
import torch

from tests.kernels.helpers import noting_blocks


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """As many threads after a test as before it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The channels of every block that runs in the module ``BLOCKS_RUN_IN`` of the test's file, in turn."""
    return noting_blocks(request.module.BLOCKS_RUN_IN, monkeypatch)
