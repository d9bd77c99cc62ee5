"""Fixtures of all rooms."""

import functools
import gc
import io
import os
from collections.abc import Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported; see pytest_runtest_protocol

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nextify.training.train
from nextify.data import Images, open_images

LONGEST_FIRST = (
    "tests/cli/test_train.py",
    "tests/compare/test_comparison.py",
    "tests/report/test_study.py",
    "tests/deploy/test_export.py",
    "tests/compare/test_accuracy.py",
    "tests/training/test_trainer.py",
    "tests/cli/test_options.py",
    "tests/networks/test_backbone.py",
    "tests/weights/test_class_order.py",
    "tests/weights/test_parity.py",
    "tests/training/test_dense_training.py",
    "tests/study/test_study.py",
    "tests/training/test_kills.py",
    "tests/training/test_pretraining.py",
)
"""Files that take longest. Each stays on one process (``--dist loadfile``), so one of them must not be the last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of ``LONGEST_FIRST`` first, in that order."""
    rank = {name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


def pytest_collection_finish() -> None:
    """Keep what was imported until now out of garbage collection: each full one would go through all of torch's
    objects."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Leave torch as many threads as before the test.

    The commands take all cores. Where each of pytest's processes has that many threads, they wait for one another most
    of the time, and would keep the cores busy with waiting.
    """
    before = torch.get_num_threads()
    result = yield
    torch.set_num_threads(before)
    return result


@pytest.fixture(scope="session", autouse=True)
def _quick_commands() -> Iterator[None]:
    """Commands read the help of their options once, and leave a blank picture of a training's curves: drawing them
    takes longer than the training of a tiny network."""
    from tyro import _docstrings

    blank = io.BytesIO()
    Image.new("RGB", (1, 1)).save(blank, "PNG")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_docstrings, "get_field_docstring", functools.cache(_docstrings.get_field_docstring))
        patch.setattr(nextify.training.train, "curves_picture", lambda *_: blank.getvalue())
        yield


@pytest.fixture(scope="session")
def digits() -> Images:
    return open_images("digits")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of three classes that are told apart by their colour: 24 images of each, split by the opener.
    Not to be changed."""
    root = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for c, name in enumerate(("blue", "green", "red")):
        (root / name).mkdir()
        for i in range(24):
            pixels = rng.integers(0, 90, (16, 16, 3))
            pixels[..., 2 - c] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root
