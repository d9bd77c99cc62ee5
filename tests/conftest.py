"""Fixtures of all rooms."""

import pytest

from nextify.data import Images, open_images


@pytest.fixture(scope="session")
def digits() -> Images:
    return open_images("digits")
