"""Unequal classes: what weighted loss and balanced sampling do, counted, and in a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextify.data import Images, ImageSet, TrainBatches, open_images
from nextify.data.batches import balanced_order
from nextify.data.images import UniformStore
from nextify.data.kept import Kept
from nextify.paper.recipe import CONVNEXT, RecipeError
from nextify.training.loop import TrainingStopped
from nextify.training.prepare import prepare
from nextify.training.request import Request
from nextify.training.run import run_trial
from nextify.training.trial import Runtime
from nextify.weights import load_bundle

COUNTS = (40, 8, 2, 1)
LABELS = np.repeat(np.arange(len(COUNTS)), COUNTS)
ONE_THREAD = Runtime(threads=1)


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """30 blue and 5 red images to train on; half as many to test on."""
    root = tmp_path_factory.mktemp("unequal")
    rng = np.random.default_rng(0)
    for split, counts in (("train", (30, 5)), ("val", (5, 5))):
        for c, (name, count) in enumerate(zip(("blue", "red"), counts, strict=True)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 160, (16, 16, 3))
                pixels[..., 2 - 2 * c] += 90
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return open_images(str(root))


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_each_class_is_shown_equally_often_and_its_images_too(epoch: int) -> None:
    order = balanced_order(LABELS, seed=3, epoch=epoch)
    assert len(order) == len(LABELS) == 51
    shown = np.bincount(LABELS[order]).tolist()
    assert sorted(shown) == [12, 13, 13, 13]  # 51 places for 4 classes
    of_image = np.bincount(order, minlength=51)
    for label, places in enumerate(shown):
        of_class = of_image[label == LABELS]
        assert set(of_class.tolist()) <= {places // COUNTS[label], places // COUNTS[label] + 1}
    assert of_image[LABELS == 0].max() == 1  # the large class: a draw without replacement


def test_it_is_a_function_of_seed_and_epoch() -> None:
    order = balanced_order(LABELS, 0, 0)
    np.testing.assert_array_equal(order, balanced_order(LABELS.copy(), 0, 0))
    for other in (balanced_order(LABELS, 1, 0), balanced_order(LABELS, 0, 1)):
        assert order.tolist() != other.tolist()
        assert set(order[LABELS[order] == 0].tolist()) != set(other[LABELS[other] == 0].tolist())


def test_equal_classes_are_shown_whole() -> None:
    assert sorted(balanced_order(np.tile([0, 1, 2], 5), 0, 0).tolist()) == list(range(15))


def test_absent_classes_take_no_places() -> None:
    labels = np.array([0, 0, 0, 5])
    assert np.bincount(labels[balanced_order(labels, 0, 0)]).tolist() == [2, 0, 0, 0, 0, 2]


def test_batches_are_balanced_from_any_step_on() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (51, 8, 8, 3), np.uint8)
    images = ImageSet(LABELS, UniformStore(Kept(pixels)))
    recipe = CONVNEXT.with_(batch_size=17, class_balance="sampling", rand_augment="off")
    whole = list(TrainBatches(images, recipe, 8, seed=1).iterate(0, 6))  # two epochs of three steps
    labels = torch.cat([labels for _, labels in whole])
    for epoch in (labels[:51], labels[51:]):
        assert sorted(epoch.bincount().tolist()) == [12, 13, 13, 13]
    resumed = list(TrainBatches(images, recipe, 8, seed=1).iterate(4, 6))
    for expected, found in zip(whole[4:], resumed, strict=True):
        assert all(map(torch.equal, expected, found))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(RecipeError, match="class_balance must be loss, sampling or off, got 'both'"):
        CONVNEXT.with_(class_balance="both")


def test_both_change_a_training_and_resume_to_the_same_weights(unequal: Images, tmp_path: Path) -> None:
    heads = {}
    for kind in ("off", "loss", "sampling"):
        settings = {"class_balance": kind, "batch_size": 16, "ema": "off"}
        prepared = prepare(Request("convnext_atto", settings=settings, epochs=2, scale="tiny"), unequal)
        warned = any("class_balance=sampling" in warning for warning in prepared.preflight.warnings)
        assert not warned  # 6 times as many are no ten times
        whole = run_trial(prepared.trial, unequal, ONE_THREAD, tmp_path / kind / "whole")
        cut, asked = (prepared.trial, unequal, ONE_THREAD, tmp_path / kind / "cut"), iter(range(100))
        with pytest.raises(TrainingStopped):
            run_trial(*cut, should_stop=lambda asked=asked: next(asked) >= 2)
        resumed = run_trial(*cut)
        states = [load_bundle(done.bundle).state for done in (whole, resumed)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        heads[kind] = states[0]["head.classifier.bias"]
    # The large class's bias grows where it is not held back.
    lean = {kind: float(bias[0] - bias[1]) for kind, bias in heads.items()}
    assert lean["off"] > max(lean["loss"], lean["sampling"])
