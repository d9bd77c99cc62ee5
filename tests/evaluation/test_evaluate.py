"""``train``, ``evaluate`` and ``predict`` as a program calls them, which has settings of its own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nextify
from nextify.data import Images
from nextify.weights import Preprocessing


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


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"without": "errors.csv", "split_seed": 3}, "give without and split_seed to open_images, and not here"),
        ({"task": "multilabel"}, "give task to open_images"),
        ({"model": nextify.Design()}, r"a model is given by a name of list_models\(\), got Design"),
        ({"model": None}, r"a model is given by a name of list_models\(\), got None"),
    ],
)
def test_what_would_be_ignored_is_refused(digits: Images, tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        nextify.train(**{"model": "convnext_atto", "data": digits, "out": tmp_path, "epochs": 1, **given})
    if "split_seed" in given:
        with pytest.raises(ValueError, match="give split_seed to open_images"):
            nextify.search(digits, "macs<1M", out=tmp_path, split_seed=3)


def test_impossible_networks_are_refused() -> None:
    for given in ({"num_classes": -1}, {"num_classes": 2.0}, {"in_channels": 0}, {"stochastic_depth": 1.0}):
        (name,) = given
        with pytest.raises(ValueError, match=f"{name} must be "):
            nextify.create_model("convnext_atto", **given)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a design must be a Design, got 'convnext_atto'; .*find_design"):
        nextify.macs("convnext_atto")  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="a model is a name of list_models"):
        nextify.create_model(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("folds", [1, "3"])
def test_an_impossible_number_of_folds_is_refused(digits: Images, tmp_path: Path, folds: Any) -> None:
    with pytest.raises(ValueError, match=f"--folds must be a whole number from 2, got {folds!r}"):
        nextify.cross_validate("convnext_atto", digits, folds=folds, out=tmp_path, epochs=1)


def test_a_network_in_place_of_weights_is_refused_with_the_remedy(digits: Images) -> None:
    network: Any = nextify.create_model("convnext_atto", 10)
    for call in (lambda: nextify.evaluate(network, digits), lambda: nextify.predict(network, "photo.jpg")):
        with pytest.raises(TypeError, match=r"weights must be a path or a name, got ConvNet: save a network with "):
            call()


def test_preprocessing_takes_no_path() -> None:
    with pytest.raises(TypeError, match=r"this takes an image, not its path: give PIL\.Image\.open\('photo\.jpg'\)"):
        Preprocessing()(Path("photo.jpg"))  # type: ignore[arg-type]
