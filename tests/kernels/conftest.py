"""Fixtures of the kernels' tests."""

import pytest

from tests.kernels.helpers import noting_blocks


@pytest.fixture
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The channels of every block that runs in the module ``BLOCKS_RUN_IN`` of the test's file, in turn."""
    return noting_blocks(request.module.BLOCKS_RUN_IN, monkeypatch)
