"""Damaged results, bundles and checkpoints are noticed and repaired; too small a disk is noticed before a training."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nextify.data import Images
from nextify.paper.recipe import Recipe
from nextify.system.files import UnusableFolder
from nextify.training.checkpoint import before, save_checkpoint
from nextify.training.result import finished, of_earlier_versions
from nextify.training.run import run_trial
from nextify.training.train import _remembered_plan
from nextify.training.trial import Runtime
from nextify.weights import load_bundle
from tests.helpers import fewer
from tests.training.helpers import small_trial

RUNTIME = Runtime()
QUICK = Recipe(epochs=1, warmup_epochs=0, batch_size=50, crop="shift", mixing="off", rand_augment="off")
TRIAL = small_trial("separate_downsampling", QUICK)


@pytest.fixture(scope="module")
def digits(digits: Images) -> Images:
    """Two batches to train on, and few to test on."""
    return fewer(digits, 100, 50)


@pytest.fixture(scope="module")
def whole(digits: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training."""
    folder = tmp_path_factory.mktemp("finished") / "trial"
    run_trial(TRIAL, digits, RUNTIME, folder)
    return folder


def test_a_result_gives_its_metrics_by_their_keys(whole: Path) -> None:
    result = finished(whole, TRIAL)
    assert result is not None
    assert (result.top1, result.top5) == (result.metrics["top1"], result.metrics["top5"])
    assert pickle.loads(pickle.dumps(result)) == result
    with pytest.raises(AttributeError, match="has no miou; its metrics are top1, top5"):
        _ = result.miou


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def figure(**changes: object) -> tuple[str, Callable[[Path], object]]:
    return "result.json", lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def zeroed(path: Path) -> None:
    """The same length and header, but zeros for weights."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(data[:start] + bytes(len(data) - start))


EPOCH = {"epoch": 1, "train_loss": 1.0, "learning_rate": 0.1, "test_top1": 50.0}

DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "weights missing": ("bundle/model.safetensors", Path.unlink),
    "weights cut": ("bundle/model.safetensors", cut),
    "weights empty": ("bundle/model.safetensors", lambda path: path.write_bytes(b"")),
    "JSON missing": ("bundle/nextify.json", Path.unlink),
    "JSON cut": ("bundle/nextify.json", cut),
    "bundle missing": ("bundle", shutil.rmtree),
    "result null": ("result.json", lambda path: path.write_text("null")),
    "result {}": ("result.json", lambda path: path.write_text("{}")),
    "result []": ("result.json", lambda path: path.write_text("[]")),
    "result cut": ("result.json", cut),
    "result without a figure": figure(top1=None),
    "result nested deeply": ("result.json", lambda path: path.write_text("[" * 100_000)),
    "weights zeroed": ("bundle/model.safetensors", zeroed),
}
WRONG_FIGURES: list[dict[str, object]] = [
    *({"top1": value} for value in (math.nan, math.inf, 500, -1, True, "50", 10**400)),
    *({"test_images": value} for value in (1.5, 0, True, None)),
    *({"seconds": value} for value in (math.inf, -1, 10**400)),
    {"final_train_loss": math.nan},
    {"images_per_second": -math.inf},
    {"peak_memory_mib": "much"},
    *({"curve": value} for value in (None, [1], [{}], [EPOCH | {"epoch": 0.5}], [EPOCH | {"test_top1": 101}])),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_said_and_trained_again(damage: str, whole: Path, digits: Images, tmp_path: Path) -> None:
    folder, said = Path(shutil.copytree(whole, tmp_path / "trial")), list[str]()
    name, do = DAMAGES[damage]
    do(folder / name)
    assert finished(folder, TRIAL) is None
    assert of_earlier_versions([folder]) == []
    assert run_trial(TRIAL, digits, RUNTIME, folder, warn=said.append).trained
    assert len(said) == 1
    assert "trained again" in said[0]
    assert finished(folder, TRIAL) is not None
    expected, found = (load_bundle(path / "bundle").state for path in (whole, folder))
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("changes", WRONG_FIGURES, ids=lambda changes: str(changes)[:30])
def test_a_result_of_impossible_figures_is_none(changes: dict[str, object], whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "trial"))
    _, do = figure(**changes)
    do(folder / "result.json")
    assert finished(folder, TRIAL) is None


def test_what_is_whole_is_not_trained_again(whole: Path, digits: Images) -> None:
    said = list[str]()
    assert not run_trial(TRIAL, digits, RUNTIME, whole, warn=said.append).trained
    assert not said


def test_what_a_killed_training_left_behind_is_removed(whole: Path, digits: Images, tmp_path: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    done, half = (Path(shutil.copytree(whole, tmp_path / name)) for name in ("done", "half"))
    for name in ("checkpoint.pt", "checkpoint.pt.before"):  # killed after the result was written
        (done / name).write_bytes(b"x")
    assert not run_trial(TRIAL, digits, RUNTIME, done).trained
    (half / "result.json").unlink()
    (half / ".recipe.json.1.ab.tmp").write_text("{")  # killed while it wrote a file and a bundle
    (half / ".bundle.1.ab").mkdir()
    (half / ".bundle.1.ab" / "model.safetensors").write_bytes(b"x")
    assert run_trial(TRIAL, digits, RUNTIME, half).trained
    for folder in (done, half):
        assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize("text", ["[" * 100_000, "5", "{}", '{"epochs": true}', '{"epochs": 1e400}', '{"epochs": -3}'])
def test_a_damaged_memory_of_minutes_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "minutes-0.json").write_text(text)
    assert _remembered_plan(tmp_path / "minutes-0.json") is None


def test_two_damaged_checkpoints_are_said(digits: Images, tmp_path: Path) -> None:
    path, said = tmp_path / "checkpoint.pt", list[str]()
    for _ in range(2):
        save_checkpoint(path, {"fingerprint": TRIAL.fingerprint})
    for damaged in (path, before(path)):
        cut(damaged)
    run_trial(TRIAL, digits, RUNTIME, tmp_path, warn=said.append)
    assert len(said) == 1
    assert str(path) in said[0]
    assert "from step 0" in said[0]


def test_too_small_a_disk_is_said_before_the_first_step(
    digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000))
    with pytest.raises(UnusableFolder, match=rf"{tmp_path} has room for 1,000 bytes, .* need [\d,]+: free some"):
        run_trial(TRIAL, digits, RUNTIME, tmp_path)
    assert not (tmp_path / "log.jsonl").exists()
