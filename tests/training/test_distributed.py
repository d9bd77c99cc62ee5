"""Several processes train as one: each takes its share of the same batch, and the result is the same."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nextify.data import ImageSet, TestBatches, TrainBatches, finish, open_images
from nextify.data.images import UniformStore
from nextify.data.kept import Kept
from nextify.data.on_device import _noise
from nextify.data.share import share
from nextify.evaluation.evaluate import evaluate
from nextify.paper.recipe import CONVNEXT, RandAugment
from nextify.training.checkpoint import load_checkpoint
from nextify.training.trial import IMAGENET_MEAN, IMAGENET_STD
from nextify.weights.bundle import load_bundle
from tests.helpers import ROOT
from tests.training.helpers import wait_for_a_new_checkpoint
from tests.training.two_processes import DENSE, SCENES, play, play_dense


def noise_images(count: int, side: int = 12) -> ImageSet:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return ImageSet(rng.integers(0, 5, count), UniformStore(Kept(pixels)))


# -- shares --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "count"), [(8, 2), (16, 4), (17, 2), (22, 3), (23, 5), (64, 1)])
def test_shares_hold_each_row_once_and_whole_pairs(batch: int, count: int) -> None:
    shares = [share(batch, rank, count) for rank in range(count)]
    assert sorted(np.concatenate([s.rows for s in shares]).tolist()) == list(range(batch))
    assert max(len(s.rows) for s in shares) - min(len(s.rows) for s in shares) <= 3
    even = batch - batch % 2
    for s in shares:
        assert (np.diff(s.rows) > 0).all()
        paired = s.rows[: len(s.rows) - len(s.rows) % 2]
        assert (paired + paired[::-1] == even - 1).all()


def test_a_batch_without_a_pair_for_each_process_is_refused() -> None:
    with pytest.raises(ValueError, match="set batch_size to 6 or more, or start fewer processes"):
        share(5, 0, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"crop": "random_resized", "rand_augment": RandAugment(9.0, 0.5), "color_jitter": "off"},
        {"crop": "shift", "rand_augment": "off", "color_jitter": 0.4},
        {"crop": "shift", "rand_augment": "off", "color_jitter": "off", "light": 0.5},
    ],
    ids=["photographs", "jitter", "small"],
)
@pytest.mark.parametrize("batch", [16, 21])
def test_shares_of_a_batch_are_its_rows(changes: dict[str, object], batch: int) -> None:
    recipe = CONVNEXT.with_(batch_size=batch, random_erasing=0.7, **changes)
    images = noise_images(50)
    whole = TrainBatches(images, recipe, 12, seed=3)
    for step in range(3):
        pixels, labels = whole.batch(step)
        expected = finish(pixels, labels, recipe, 5, step, 3, "cpu", IMAGENET_MEAN, IMAGENET_STD)
        for rank in range(3):
            part = share(batch, rank, 3)
            own = TrainBatches(images, recipe, 12, seed=3, share=part).batch(step)
            assert torch.equal(own[0], pixels[part.rows])
            assert torch.equal(own[1], labels[part.rows])
            found = finish(*own, recipe, 5, step, 3, "cpu", IMAGENET_MEAN, IMAGENET_STD, share=part)
            assert torch.equal(found[0], expected[0][part.rows])
            assert torch.equal(found[1], expected[1][part.rows])


def test_an_accelerators_noise_is_each_rows_own() -> None:
    x = torch.zeros(150, 3, 4, 4)
    whole = _noise(x, 7, np.arange(150))
    assert whole.std() == pytest.approx(1, abs=0.05)
    assert len(whole.flatten().unique()) > 7000
    for rank in range(2):
        rows = share(150, rank, 2).rows
        assert torch.equal(_noise(x[rows], 7, rows), whole[rows])


def test_draws_of_a_row_leave_the_global_generators_alone() -> None:
    batches = TrainBatches(noise_images(20), CONVNEXT.with_(batch_size=4), 12, seed=0)
    random.seed(1)
    before = random.getstate(), torch.get_rng_state()
    batches.batch(0)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize(("images", "count"), [(23, 2), (16, 3), (3, 2), (24, 1)])
def test_test_batches_of_all_processes_hold_each_image_once(images: int, count: int) -> None:
    every = noise_images(images)
    counted: list[int] = []
    lengths = set()
    for rank in range(count):
        batches = list(TestBatches(every, CONVNEXT, 12, 4, rank, count))
        lengths.add(len(batches))
        counted += [int(label) for _, labels in batches for label in labels if label >= 0]
    assert lengths == {-(-images // (4 * count))}
    assert sorted(counted) == sorted(every.labels.tolist())


# -- two real processes --------------------------------------------------------------------------------------------


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def together(*command: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """A command under torchrun, in two processes of one thread."""
    return subprocess.run(
        [*TORCHRUN, *command], capture_output=True, text=True, timeout=600, env=environment(), check=False, **more
    )


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The outcome of every scene, trained by two processes."""
    out = tmp_path_factory.mktemp("two") / "outcome.pt"
    done = together("-m", "tests.training.two_processes", str(out), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = torch.load(out, weights_only=True)
    return found


def difference(one: dict[str, Any], two: dict[str, Any]) -> float:
    assert len(one["losses"]) == len(two["losses"])
    return max(abs(a - b) for a, b in zip(one["losses"], two["losses"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("scene", [name for name in SCENES if name != "batch norm"])
def test_two_processes_train_as_one(by_two: dict[str, dict[str, Any]], scene: str) -> None:
    one, two = play(scene), by_two[scene]
    assert difference(one, two) < 1e-5  # measured: 5e-7, of losses near 2.3
    assert two["accuracy"] == one["accuracy"]  # of 1197 images in batches of 256: not the same number for each
    for name, tensor in one["state"]["model"].items():
        torch.testing.assert_close(two["state"]["model"][name], tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("head", DENSE)
def test_two_processes_train_a_detector_or_segmenter_as_one(by_two: dict[str, dict[str, Any]], head: str) -> None:
    one, two = play_dense(head), by_two[head]
    assert difference(one, two) < (1e-12 if "float64" in head else 1e-5)
    assert two["accuracy"] == pytest.approx(one["accuracy"], abs=1e-3)
    for name, tensor in one["state"]["model"].items():
        torch.testing.assert_close(two["state"]["model"][name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_processes_share_batch_norms_statistics(by_two: dict[str, dict[str, Any]]) -> None:
    # This training enlarges rounding: weights that differ by 1e-7 lead one process as far away in 50 steps (0.01).
    one, two = play("batch norm"), by_two["batch norm"]
    assert max(abs(a - b) for a, b in zip(one["losses"][:3], two["losses"][:3], strict=True)) < 1e-5
    assert difference(one, two) < 0.1
    assert two["accuracy"] == one["accuracy"]


@pytest.mark.slow
def test_a_state_moves_between_one_process_and_two_that_hold_parts(by_two: dict[str, dict[str, Any]]) -> None:
    one = play("fsdp", by_two["fsdp"]["state"])
    assert difference(one, by_two["fsdp, resumed"]) < 1e-5


@pytest.mark.slow
def test_the_commands_train_and_evaluate_as_one(tmp_path: Path) -> None:
    options = ("--data", "digits", "--scale", "tiny", "--epochs", "2", "--device", "cpu", "--threads", "1")
    done = together("-m", "nextify", "train", "convnext_atto", *options, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bundle: ") == 1, "the first process speaks for all"
    (bundle,) = tmp_path.glob("*/bundle")
    result = json.loads((bundle.parent / "result.json").read_text())
    alone = evaluate(bundle, open_images("digits"))
    assert (result["top1"], result["test_images"]) == (alone.top1, 1197)
    counted = together("-m", "nextify", "evaluate", str(bundle), "--data", "digits", "--device", "cpu", "--json")
    assert counted.returncode == 0, counted.stderr
    found = json.loads(counted.stdout)
    assert (found["top1"], found["top5"], found["images"]) == (alone.top1, alone.top5, 1197)
    assert found["confusion"] == alone.to_dict()["confusion"]


@pytest.mark.slow
def test_sigterm_to_torchrun_loses_nothing(tmp_path: Path) -> None:
    options = ("--data", "digits", "--scale", "tiny", "--epochs", "6", "--device", "cpu", "--threads", "1")
    train = ("-m", "nextify", "train", "convnext_atto", *options, "--checkpoint-seconds", "0", "--out")
    torn, pipe = tmp_path / "torn", subprocess.PIPE
    with subprocess.Popen([*TORCHRUN, *train, str(torn)], env=environment(), stdout=pipe, stderr=pipe) as run:
        wait_for_a_new_checkpoint(torn, run)
        assert run.poll() is None, run.communicate()
        run.terminate()
        _, errors = run.communicate(timeout=120)
    assert run.returncode != 0
    (checkpoint,) = torn.glob("*/checkpoint.pt")
    state = load_checkpoint(checkpoint)
    assert state is not None, errors.decode()
    assert not list(torn.glob("*/bundle"))
    for folder in (torn, tmp_path / "whole"):
        done = together(*train, str(folder))
        assert done.returncode == 0, done.stderr
    torn_weights, weights = (load_bundle(next((tmp_path / name).glob("*/bundle"))).state for name in ("torn", "whole"))
    for name, tensor in weights.items():
        assert torch.equal(torn_weights[name], tensor), name
