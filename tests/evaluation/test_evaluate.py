"""``train``, ``evaluate`` and ``predict`` as a program calls them, which has settings of its own."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

import nextify


def state() -> tuple[object, ...]:
    """What a program may have set for itself."""
    numpy_state = np.random.get_state()  # noqa: NPY002
    return torch.get_num_threads(), torch.get_rng_state().tolist(), random.getstate(), str(numpy_state)


def test_the_python_api_takes_text_for_paths_and_leaves_torch_as_it_was(tmp_path: Path, shapes: Path) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(7)
    before = state()
    done = nextify.train(
        "convnext_atto", shapes, out=f"{tmp_path}/run", scale="tiny", epochs=1, threads=1, device="cpu"
    )
    assert state() == before
    images = nextify.open_images(f"{shapes}", cache=f"{tmp_path}/cache")
    found = nextify.evaluate(done.bundle, images, device="auto", threads=1, out=f"{tmp_path}/evaluation")
    assert (tmp_path / "evaluation" / "evaluation.json").is_file()
    assert found.environment["device"] in ("cpu", "cuda")
    guesses = nextify.predict(done.bundle, shapes, device="auto", threads=1)
    assert not any(guess.error for guess in guesses)
    assert state() == before
    with pytest.raises(ValueError, match=r"part must be test, train or all, got 'val'; open_images\(…, tested=…\)"):
        nextify.evaluate(done.bundle, images, part="val")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="--device gpu cannot be used"):
        nextify.predict(done.bundle, shapes, device="gpu")
