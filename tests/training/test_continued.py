"""``--continue``: more epochs of a finished training, killed and resumed like any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import nextify
from nextify.cli import main
from nextify.data import Images
from nextify.paper.recipe import RESNET, SGD
from nextify.study.folds import FoldsPlan
from nextify.training.continued import SHARE, Finished
from nextify.training.loop import TrainingStopped
from nextify.training.prepare import Prepared, digest
from nextify.training.request import RequestError
from nextify.training.train import run_prepared
from nextify.training.trainer import Trainer
from nextify.training.trial import Runtime
from nextify.weights import load_bundle
from tests.helpers import Captured

RUNTIME = Runtime(threads=1)
MACHINE = ("--device", "cpu", "--threads", "1")


@pytest.fixture(scope="module")
def out(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the command has trained on the shapes for an epoch."""
    folder = tmp_path_factory.mktemp("run") / "out"
    asked = ["--data", str(shapes), "--scale", "tiny", "--epochs", "1", "--out", str(folder)]
    assert main(["train", "convnext_atto", *asked, *MACHINE]) == 0
    return folder


@pytest.fixture(scope="module")
def images(shapes: Path) -> Images:
    return nextify.open_images(shapes)


@pytest.fixture(scope="module")
def before(out: Path) -> Finished:
    """The first training, wherever ``latest`` leads by now."""
    return Finished.of(next(path.parent for path in out.glob("*/recipe.json") if '"epochs": 1,' in path.read_text()))


@pytest.fixture(scope="module")
def prepared(before: Finished, images: Images) -> Prepared:
    return before.prepared(images, 2)


def state(bundle: Path) -> dict[str, torch.Tensor]:
    return dict(load_bundle(bundle).state)


def test_the_command_trains_on_in_a_folder_of_its_own(out: Path, before: Finished, capsys: Captured) -> None:
    first = before.folder
    assert main(["train", "--continue", str(out / "latest"), "--epochs", "2", *MACHINE]) == 0
    said = capsys.readouterr().out
    assert "2 more epochs from" in said
    rate = SHARE * before.asked["recipe"]["learning_rate"]
    assert f"a new cosine schedule starts at {rate:.3g}, 0.1 of the previous peak" in said
    assert "the optimizer starts afresh" in said
    second = (out / "latest").resolve().parent
    assert second != first.resolve()
    resolved = json.loads((second / "recipe.json").read_text())
    recipe = resolved["recipe"]
    assert (recipe["epochs"], recipe["warmup_epochs"], recipe["schedule"]) == (2, 0.0, "cosine")
    assert recipe["learning_rate"] == pytest.approx(rate)
    assert resolved["start"] == digest(state(first / "bundle"))
    assert resolved["request"]["weights"] == str(first.resolve() / "bundle")
    assert resolved["design"] == before.asked["design"]
    assert resolved["reading"] == before.asked["reading"]
    assert (first / "result.json").exists()
    done = nextify.continue_training(first, 2, device="cpu", threads=1)
    assert not done.trained
    assert done.bundle.parent.resolve() == second


def test_it_starts_from_the_weights_that_were_kept(before: Finished, prepared: Prepared, images: Images) -> None:
    trainer = Trainer(prepared.trial, images, RUNTIME, prepared.start)
    kept = state(before.folder / "bundle")
    assert all(torch.equal(value, kept[name]) for name, value in trainer.model.state_dict().items())
    assert trainer.rate() == pytest.approx(SHARE * before.asked["recipe"]["learning_rate"])


@pytest.mark.slow
def test_stopped_it_goes_on_to_the_same_weights(prepared: Prepared, tmp_path: Path) -> None:
    whole = run_prepared(prepared, tmp_path / "whole", RUNTIME)
    answers: Iterator[bool] = iter([False, True])
    with pytest.raises(TrainingStopped, match="stopped at step 2 of"):
        run_prepared(prepared, tmp_path / "cut", RUNTIME, should_stop=lambda: next(answers))
    resumed = run_prepared(prepared, tmp_path / "cut", RUNTIME)
    assert resumed.top1 == whole.top1
    one, other = state(whole.bundle), state(resumed.bundle)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_settings_stand_above(before: Finished, images: Images) -> None:
    recipe = before.prepared(images, 3, {"learning_rate": 0.5, "warmup_epochs": 1.0}).trial.recipe
    assert (recipe.epochs, recipe.learning_rate, recipe.warmup_epochs) == (3, 0.5, 1.0)
    with pytest.raises(RequestError, match="--continue keeps the design: leave --set norm out"):
        before.prepared(images, 3, {"norm": "batch"})


def test_another_optimizer_has_rates_of_its_own(before: Finished, images: Images) -> None:
    muon = before.about.recipe
    assert muon is not None
    prepared = before.prepared(images, 3, {"optimizer": "sgd"})
    recipe = prepared.trial.recipe
    assert recipe.optimizer == SGD()
    assert recipe.learning_rate == pytest.approx(SHARE * RESNET.learning_rate * muon.batch_size / RESNET.batch_size)
    assert (muon.weight_decay, recipe.weight_decay) == (0.05, RESNET.weight_decay)
    assert [change.field for change in prepared.changes] == ["weight_decay"]
    assert "0.1 of the peak of this optimizer" in prepared.notes[0]
    own = before.prepared(images, 3, {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.01})
    assert (own.trial.recipe.learning_rate, own.trial.recipe.weight_decay, own.changes) == (0.5, 0.01, ())


def test_the_parts_of_a_batch_are_kept_where_they_matter(
    before: Finished, images: Images, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(Prepared, "parts_matter", True)
    command = ["train", "--continue", str(before.folder), "--epochs", "1", "--dry-run", *MACHINE]
    assert main([*command, "--accumulation", "2"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
    assert said == [
        f"nextify: {before.folder} was trained on whole batches, which change its result and are kept: leave "
        "--accumulation out"
    ]
    assert main([*command, "--accumulation", "1"]) == 0


def test_other_images_are_refused(before: Finished, digits: Images) -> None:
    with pytest.raises(RequestError, match=r"is not what .* was trained on .*nextify train convnext_atto --weights"):
        before.prepared(digits, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convnext_atto", "--epochs", "2"], "leave MODEL out"),
        (["--epochs", "2", "--seed", "3", "--recipe", "resnet"], "leave --recipe and --seed out"),
        (["--epochs", "2", "--scale", "tiny"], "leave options of the network out"),
        (["--epochs", "2", "--folds", "3"], "leave --folds out"),
        (["--epochs", "2", "--without", "list.csv"], "leave --without out"),
        ([], "--continue needs --epochs N"),
        (["--epochs", "2", "--set", "colour=red"], "colour"),
    ],
)
def test_a_wrong_request_is_one_line(before: Finished, capsys: Captured, arguments: list[str], words: str) -> None:
    assert main(["train", "--continue", str(before.folder), *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_folds_of_a_continued_training_would_know_their_images(
    before: Finished, images: Images, tmp_path: Path
) -> None:
    folder = tmp_path / "continued"
    shutil.copytree(before.folder, folder)
    content = json.loads((folder / "recipe.json").read_text())
    content["request"]["weights"] = str(before.folder / "bundle")
    (folder / "recipe.json").write_text(json.dumps(content))
    with pytest.raises(RequestError, match=f"no fold is new to them: give {before.folder}"):
        FoldsPlan.like(Finished.of(folder), images, 2)
    assert len(FoldsPlan.like(before, images, 2).folds) == 2


def test_what_was_trained_on_cannot_be_held_out_later(before: Finished, images: Images) -> None:
    with pytest.raises(RequestError, match="leave --set calibration out"):
        before.prepared(images, 1, {"calibration": 0.2})


def test_only_finished_trainings_are_continued(before: Finished, tmp_path: Path) -> None:
    cut = shutil.copytree(before.folder, tmp_path / "cut")
    (cut / "result.json").unlink()
    with pytest.raises(RequestError, match="is not finished: repeat the command that began it to resume it"):
        Finished.of(cut)
    with pytest.raises(RequestError, match="holds no run of nextify train"):
        Finished.of(tmp_path)
    assert main(["train", "--continue", str(tmp_path / "nowhere"), "--epochs", "2"]) == 2


def test_where_the_images_are_is_asked_for_where_it_is_not_kept(before: Finished, tmp_path: Path) -> None:
    old = shutil.copytree(before.folder, tmp_path / "old")
    asked = json.loads((old / "recipe.json").read_text())
    del asked["reading"]
    (old / "recipe.json").write_text(json.dumps(asked))
    found = Finished.of(old)
    with pytest.raises(RequestError, match="does not record where its images are: give them with --data"):
        found.source_at()
    assert found.source_at("digits").data == "digits"
    (old / "recipe.json").write_text(json.dumps({**asked, "reading": {"data": "gone/photos"}}))
    found = Finished.of(old)
    with pytest.raises(RequestError, match="are not at gone/photos, as seen from here: give them with --data"):
        found.source_at()
    assert found.source_at("digits").data == "digits"


def test_a_bundle_is_found_in_its_training(out: Path, before: Finished, images: Images) -> None:
    by_folder, by_bundle = (nextify.evaluate(p, images) for p in (before.folder, before.folder / "bundle"))
    assert by_folder.top1 == by_bundle.top1
    assert load_bundle(out / "latest").about.classes == images.classes
