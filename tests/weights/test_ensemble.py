"""Bundles of several networks: the mean of their logits, and one line where one network is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import nextify
from nextify.data import Images
from nextify.data.preprocessing import Preprocessing
from nextify.deploy.explain import explain
from nextify.evaluation.inspection import inspect_images
from nextify.evaluation.runner import Network
from nextify.paper.design import CONVNEXT_TINY
from nextify.system.native import Mode
from nextify.weights import About, WeightsError, convert, load, load_bundle, load_into, save_bundle, save_ensemble
from nextify.weights.models import create_backbone
from nextify.weights.naming import State

SIZE = (16, 16)
DESIGN = CONVNEXT_TINY.with_(depths=(1, 1), widths=(8, 8), stage_strides=(1, 2), stem="patchify2")
TEMPERATURES = (1.0, 2.0, 0.5)


@pytest.fixture
def members(tmp_path: Path, digits: Images) -> list[Path]:
    about = About(
        DESIGN, 10, name="small", classes=digits.classes, preprocessing=Preprocessing(resize_size=SIZE[0], size=SIZE)
    )
    paths = []
    for seed, temperature in enumerate(TEMPERATURES):
        torch.manual_seed(seed)
        state = nextify.create_model(DESIGN, num_classes=10).state_dict()
        state["head.classifier.weight"] *= 30
        paths.append(save_bundle(tmp_path / f"member{seed}", state, replace(about, temperature=temperature)))
    return paths


@pytest.fixture
def ensemble(tmp_path: Path, members: list[Path]) -> Path:
    return save_ensemble(tmp_path / "ensemble", members)


@pytest.mark.parametrize("mode", ["off", "auto"])
def test_its_logits_are_the_mean_of_the_members_at_their_temperatures(
    ensemble: Path, members: list[Path], mode: Mode
) -> None:
    images = np.random.RandomState(0).standard_normal((5, 3, *SIZE)).astype(np.float32)
    alone = [Network(path, kernels=mode)(images) / t for path, t in zip(members, TEMPERATURES, strict=True)]
    together = Network(ensemble, kernels=mode)(images)
    assert together == pytest.approx(np.mean(alone, axis=0), abs=1e-5)
    assert np.abs(together).max() > 0.1


def test_it_is_a_bundle_like_any_other(ensemble: Path, digits: Images, tmp_path: Path) -> None:
    loaded = load(ensemble)
    assert (loaded.about.members, loaded.about.temperature) == (3, 1.0)
    again = save_bundle(tmp_path / "one.safetensors", loaded.model.state_dict(), loaded.about)
    assert load_bundle(again).about == replace(loaded.about, nextify=nextify.__version__)
    picture = digits.test.load(0)
    (first,) = nextify.predict(ensemble, picture)
    assert nextify.predict(again, picture) == [first]
    assert nextify.export(ensemble, "torch", tmp_path / "exported", images=digits).verification.images > 0


def _parts(path: Path) -> tuple[State, About]:
    loaded = load_bundle(path)
    return loaded.state, loaded.about


def test_bundles_that_do_not_belong_together_are_refused(members: list[Path], ensemble: Path, tmp_path: Path) -> None:
    other = load_bundle(members[1])
    named = save_bundle(
        tmp_path / "other", other.state, replace(other.about, classes=tuple(reversed(other.about.classes)))
    )
    for paths, words in (
        (members[:1], "two networks or more, got 1"),
        (members[0], "got one path"),
        ([members[0], members[1], members[0]], "is named twice"),
        ([members[0], named], "differ in classes"),
        ([ensemble, save_bundle(tmp_path / "again", *_parts(ensemble))], "holds 3"),
        ([members[0], ensemble], "differ in members"),
    ):
        with pytest.raises(WeightsError, match=words):
            save_ensemble(tmp_path / "refused", paths)
    assert not (tmp_path / "refused").exists()
    with pytest.raises(WeightsError, match="another path for the ensemble"):
        save_ensemble(members[0], members)


def test_more_members_than_tensors_are_refused_at_once(ensemble: Path) -> None:
    state, about = _parts(ensemble)
    with pytest.raises(WeightsError, match=r"1,000,000 members, but holds \d+ tensors"):
        save_bundle(ensemble, state, replace(about, members=1_000_000))


def _train(path: Path, images: Images, out: Path) -> object:
    return nextify.train(
        "convnext_atto", images, out=out, weights=str(path), settings=DESIGN.to_dict(), epochs=1, device="cpu"
    )


@pytest.mark.parametrize(
    "use",
    [
        lambda path, images, out: load(path, num_classes=3),
        lambda path, images, out: nextify.create_model(DESIGN, weights=path),
        lambda path, images, out: create_backbone(DESIGN, weights=path),
        lambda path, images, out: load_into(nextify.create_model(DESIGN, num_classes=10), path),
        lambda path, images, out: convert(path, out / "x.safetensors", "timm"),
        lambda path, images, out: inspect_images(path, images),
        lambda path, images, out: list(explain(str(path), "x.png")),
        _train,
    ],
    ids=["classes", "model", "backbone", "into", "convert", "inspect", "explain", "train"],
)
def test_what_needs_one_network_says_so(
    ensemble: Path, digits: Images, tmp_path: Path, use: Callable[[Path, Images, Path], object]
) -> None:
    with pytest.raises(WeightsError, match=r"takes one network, but .* holds 3"):
        use(ensemble, digits, tmp_path)
