"""``nextify train`` killed at random moments, by SIGKILL and by SIGTERM: every life goes on where the last one stopped,
no checkpoint is ever unreadable, and the weights at the end are those of a training that nobody disturbed."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from nextify.training.checkpoint import before, load_checkpoint
from nextify.weights import load_bundle
from nextify.weights.bundle import DenseAbout, load_dense, stated
from tests.data.dense.layouts import PARTS, SIZE, coco_parts
from tests.helpers import Command, exit_with_import, save_noise, server
from tests.training.helpers import wait_for_a_new_checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
STOPPED = 130
"""Exit code of a training that saved and stopped when it was asked to."""


CLASSIFIER = (
    *("--scale", "tiny", "--set", "optimizer=muon", "--set", "ema=0.9"),
    *("--set", "mixing.mixup=0.8", "--set", "stochastic_depth=0.1"),
)


def start(out: Path, epochs: int, options: Sequence[str]) -> Command:
    arguments = [
        *("train", "convnext_atto", *options),
        *("--device", "cpu", "--threads", "1", "--epochs", str(epochs), "--checkpoint-seconds", "0"),
        *("--out", str(out)),
    ]
    return Command(arguments)


def train(out: Path, epochs: int, options: Sequence[str]) -> None:
    code, errors = start(out, epochs, options).wait(600)
    assert code == 0, errors[-500:]


def all_readable(out: Path) -> int:
    """Steps of the last checkpoint; each file that is there was read by itself."""
    steps = 0
    for path in out.glob("*/checkpoint.pt"):
        assert load_checkpoint(path) is not None
    for path in out.glob("*/checkpoint.pt*"):
        if path.name in ("checkpoint.pt", "checkpoint.pt.before"):
            state = load_checkpoint(path if path.name == "checkpoint.pt" else before(path.with_suffix("")))
            assert state is not None, path
            steps = max(steps, state["step"])
    return steps


def final_weights(out: Path) -> dict[str, torch.Tensor]:
    (bundle,) = out.glob("*/bundle")
    return dict((load_dense if isinstance(stated(bundle), DenseAbout) else load_bundle)(bundle).state)


def killed(kills: int, epochs: int, folder: Path, seed: int, options: Sequence[str]) -> None:
    whole, torn = folder / "whole", folder / "torn"
    train(whole, epochs, options)
    chance = random.Random(seed)
    reached, codes = [0], []
    for number in range(kills):
        process = start(torn, epochs, options)
        if number % 5 == 4:
            time.sleep(chance.uniform(0.0, 6.0))  # anywhere: starting, measuring, the first steps
        else:
            wait_for_a_new_checkpoint(torn, process)
            time.sleep(chance.uniform(0.0, 0.3))
        how = signal.SIGTERM if number % 2 else signal.SIGKILL
        process.signal(how)
        code, errors = process.wait(120)
        codes.append(code)
        assert code in (-how, STOPPED), (code, errors[-500:])
        assert "Traceback" not in errors
        reached.append(all_readable(torn))
        assert reached[-1] >= reached[-2], "a kill lost more than was written"
    assert reached[-1] > 0, "no kill fell into the training"
    train(torn, epochs, options)
    expected, found = final_weights(whole), final_weights(torn)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not list(torn.glob("*/checkpoint*"))
    print(f"{kills} kills, exit codes {sorted(set(codes))}, steps reached {reached}")


def test_three_kills(shapes: Path, tmp_path: Path) -> None:
    killed(3, 4, tmp_path, seed=0, options=(*CLASSIFIER, "--data", str(shapes), "--set", "batch_size=4"))


@pytest.mark.slow
def test_thirty_kills(tmp_path: Path) -> None:
    killed(30, 96, tmp_path, seed=1, options=(*CLASSIFIER, "--data", "digits", "--set", "batch_size=32"))


@pytest.mark.slow
@pytest.mark.parametrize(("head", "epochs"), [("fcos", 48), ("mask_rcnn", 16)])
def test_a_killed_detector_is_the_undisturbed_one(
    head: str, epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PARTS, "train", 16)
    data = coco_parts(tmp_path / "data")
    for number, path in enumerate(sorted((data / "val2017").glob("*.png"))):
        save_noise(path, 100 + number, SIZE)  # no training image's
    small = ("depths=1,1,1,1", "widths=16,24,32,48", "batch_size=2", "stochastic_depth=0.2")
    settings = (word for setting in small for word in ("--set", setting))
    killed(5, epochs, tmp_path, seed=2, options=("--data", str(data), "--head", head, "--image-size", "64", *settings))


def test_classifiers_do_not_wait_for_the_detectors_code() -> None:
    process = server().Process(target=exit_with_import, args=("nextify.networks.dense.detection",))
    process.start()
    process.join(120)
    assert process.exitcode == 0
