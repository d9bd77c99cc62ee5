"""Cross-validation: folds that are stratified, whole in their groups, and paired; and what they leave."""

from __future__ import annotations

import csv
import json
from copy import copy
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

import nextify
from nextify.cli import main
from nextify.data import DataError, Images
from nextify.study.folds import FoldsPlan, make_folds
from nextify.study.run_differences import diff_runs
from nextify.study.runs import runs
from nextify.study.statistics import corrected_interval
from nextify.training.request import Request
from tests.helpers import Captured

ASKED = ["--data", "digits", "--scale", "tiny", "--epochs", "1", "--device", "cpu", "--threads", "1"]


def test_every_training_image_is_in_one_fold_and_classes_are_even(digits: Images) -> None:
    folds = make_folds(digits, 5)
    held = np.concatenate([fold.held_out for fold in folds])
    assert sorted(held) == list(range(600))
    assert len({fold.images.fingerprint for fold in folds} | {digits.fingerprint}) == 6
    counts = np.stack([np.bincount(fold.images.test.labels) for fold in folds])
    assert (counts.max(0) - counts.min(0)).max() <= 1
    for fold in folds:
        assert (len(fold.images.train), len(fold.images.test)) == (480, 120)
        assert np.array_equal(fold.images.test.load(7), digits.train.load(int(fold.held_out[7])))
        assert fold.images.train.array is not None  # as fast to train on as the whole


def test_folds_are_the_same_for_every_model_and_recipe(digits: Images) -> None:
    plans = [FoldsPlan.of(Request(m, epochs=e, scale="tiny"), digits, 3) for m, e in
             (("convnext_atto", 1), ("convnext_atto", 2), ("resnet50", 1))]  # fmt: skip
    prints = [[planned.trial.data.fingerprint for planned in plan.trials] for plan in plans]
    assert prints[0] == prints[1] == prints[2]
    assert len({plan.folder for plan in plans}) == 3
    assert len({planned.trial.recipe for planned in plans[0].trials}) == 1
    assert make_folds(digits, 3, seed=1)[0].images.fingerprint not in prints[0]


def _grouped(images: Images, groups: list[str] | None) -> Images:
    train = copy(images.train)
    train.groups = groups
    return replace(images, train=train)


def test_groups_stay_whole(digits: Images) -> None:
    groups = [f"patient {i % 40}" if i % 50 else "" for i in range(600)]
    for fold in make_folds(_grouped(digits, groups), 4):
        held = {groups[i] for i in fold.held_out} - {""}
        rest = {groups[i] for i in np.setdiff1d(np.arange(600), fold.held_out)} - {""}
        assert held
        assert not held & rest


def test_folds_of_groups_are_stratified(digits: Images) -> None:
    """Not so with scikit-learn before 1.8, which shuffled the groups' counts and not the groups."""
    labels, rare = np.repeat([0, 1, 2], [300, 200, 100]), copy(digits.train)
    rare.labels, rare.groups = labels, [f"patient {i // 10}" for i in range(600)]
    for seed in range(3):
        for fold in make_folds(replace(digits, train=rare), 5, seed):
            assert np.bincount(labels[fold.held_out]).tolist() == [60, 40, 20]


def test_a_manifests_groups_reach_the_folds(shapes: Path, tmp_path: Path) -> None:
    names = sorted(shapes.glob("*/*.png"))
    rows = [f"{path},{path.parent.name},g{i % 9},{'test' if i % 24 > 20 else 'train'}" for i, path in enumerate(names)]
    (tmp_path / "list.csv").write_text("path,label,group,split\n" + "\n".join(rows))
    images = nextify.open_images(tmp_path / "list.csv")
    assert images.train.groups is not None
    assert len(images.train.groups) == len(images.train) == 63
    assert all(f",{group},train" in rows[names.index(Path(images.train.name(i)))] for i, group in
               enumerate(images.train.groups))  # fmt: skip
    assert len(make_folds(images, 3)) == 3


@pytest.mark.parametrize(
    ("count", "groups", "words"),
    [
        (70, None, "8 has 58 training images, and each of 70 folds needs one"),
        (5, ["a", "b"], "has 2 groups to train on: give no more --folds than that"),
        (2, "by class", "fall into one fold, as their groups are few"),
    ],
)
def test_too_few_images_or_groups_are_refused(digits: Images, count: int, groups: Any, words: str) -> None:
    if groups == "by class":
        groups = [str(label) for label in digits.train.labels]
    elif groups:
        groups = [groups[i % 2] for i in range(600)]
    with pytest.raises(DataError, match=words):
        make_folds(_grouped(digits, groups), count)


def test_the_command_trains_every_fold_once(tmp_path: Path, capsys: Captured, digits: Images) -> None:
    command = ["train", "convnext_atto", *ASKED, "--folds", "2", "--out", str(tmp_path)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "600 training images in folds of 300 to 300; the 1,197 test images stay unused" in printed
    (folder,) = tmp_path.glob("folds2-*")
    content = json.loads((folder / "results.json").read_text())
    values = [fold["top1"] for fold in content["folds"]]
    assert content["top1_mean"] == fmean(values)
    low, high = corrected_interval(values) or (-1.0, -1.0)
    assert (content["top1_low"], content["top1_high"]) == (max(low, 0), min(high, 100))
    assert all(f"{value:.2f}" in printed for value in values)
    with open(folder / "out-of-fold.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [digits.classes[label] for label in digits.train.labels]
    found = np.array([[float(row[name]) for name in digits.classes] for row in rows])
    assert found.sum(1) == pytest.approx(np.ones(600), abs=1e-5)
    right = found.argmax(1) == digits.train.labels
    for number, value in enumerate(values, 1):
        of_fold = np.array([row["fold"] == str(number) for row in rows])
        assert 100 * right[of_fold].mean() == pytest.approx(value)
    (listed,) = runs(tmp_path)
    assert (listed.kind, listed.state, listed.value, listed.detail) == (
        "folds",
        "finished",
        fmean(values),
        "2 folds",
    )
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/result.json")}
    assert main([*command, "--ensemble"]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/result.json")} == stamps
    printed = capsys.readouterr().out
    content = json.loads((folder / "results.json").read_text())["ensemble"]
    assert f"top-1 {content['top1']:.2f} % of 1,197 test images" in printed
    measured = [nextify.evaluate(path, digits).top1 for path in
                (folder / "ensemble", *sorted(folder.glob("trials/*/bundle")))]  # fmt: skip
    assert [content["top1"], *content["members_top1"]] == measured
    assert main(command) == 0
    assert f"top-1 {content['top1']:.2f} % of 1,197 test images" in capsys.readouterr().out
    assert json.loads((folder / "results.json").read_text())["ensemble"] == content
    assert main(["train", "--continue", str(folder / "ensemble"), "--epochs", "1"]) == 2
    assert "start a new run from its weights with --weights" in capsys.readouterr().err


def test_folds_of_the_same_number_are_compared_image_by_image(tmp_path: Path, digits: Images, capsys: Captured) -> None:
    trials = []
    for epochs in (1, 2):
        options: dict[str, Any] = {"epochs": epochs, "scale": "tiny", "device": "cpu", "threads": 1}
        done = nextify.cross_validate("convnext_atto", digits, folds=2, out=tmp_path, **options)
        trials.append(sorted((done.folder / "trials").iterdir()))
    (one, two), (longer, _) = trials
    same, other = diff_runs(one, longer), diff_runs(one, two)
    assert same.data == ()
    assert same.paired is not None
    assert "epochs" in {setting.name for setting in same.settings}
    assert [difference.name for difference in other.data] == ["fold", "fingerprint"]
    assert other.paired is None
    assert main(["runs", "diff", str(one), str(one)]) == 2
    assert "are the same run: name two" in capsys.readouterr().err


def test_the_interval_of_the_mean_stays_within_percent(tmp_path: Path, digits: Images) -> None:
    done = nextify.cross_validate("convnext_atto", digits, folds=2, out=tmp_path, epochs=1, scale="tiny", threads=1)
    values = [fold.top1 for fold in done.folds if fold.top1 is not None]
    ends = corrected_interval(values)
    assert ends is not None
    assert (done.top1_low, done.top1_high) == (max(ends[0], 0), min(ends[1], 100))


def test_a_dry_run_leaves_no_folder(tmp_path: Path) -> None:
    assert main(["train", "convnext_atto", *ASKED, "--folds", "2", "--out", str(tmp_path), "--dry-run"]) == 0
    assert not list(tmp_path.glob("folds*"))


def test_several_labels_are_refused_before_anything_is_trained(tmp_path: Path, shapes: Path, capsys: Captured) -> None:
    names = sorted(shapes.glob("*/*.png"))
    table = tmp_path / "list.csv"
    table.write_text("path,labels\n" + "\n".join(f"{path},a{';b' if i % 2 else ''}" for i, path in enumerate(names)))
    assert main(["train", "convnext_atto", "--data", str(table), "--folds", "2", "--out", str(tmp_path / "out")]) == 2
    assert "--folds so far supports only classification" in capsys.readouterr().err


@pytest.mark.slow
def test_folds_start_from_weights_and_python_gives_the_same(tmp_path: Path) -> None:
    done = nextify.train("convnext_atto", "digits", out=tmp_path, epochs=1, scale="tiny", device="cpu", threads=1)
    found = nextify.cross_validate(
        *("convnext_atto", "digits"),
        folds=2,
        out=tmp_path,
        epochs=1,
        weights=str(done.bundle),
        device="cpu",
        threads=1,
    )
    assert found.predictions.exists()
    assert found.top1_mean is not None
    assert found.top1_mean > 50  # these weights have seen the images


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "digits", "--folds", "5", "--minutes", "3"], "--minutes is for a single run"),
        (["--data", "digits", "--folds", "5", "--track", "tensorboard"], "--track is for a single run"),
        (["--data", "digits", "--folds", "1"], "--folds"),
        (["--data", "scenes", "--folds", "5"], "--folds so far supports only classification"),
        (["--data", "digits", "--folds", "5", "--find-rate"], "--find-rate is for a single run"),
        (["--data", "digits", "--folds", "5", "--workers", "2"], "--workers is for a single run"),
        (["--data", "digits", "--folds", "5", "--distributed", "fsdp"], "--distributed is for a single run"),
        (["--data", "digits", "--ensemble"], "--ensemble combines the networks of several folds"),
    ],
)
def test_a_wrong_request_is_one_line(tmp_path: Path, capsys: Captured, arguments: list[str], words: str) -> None:
    assert main(["train", "convnext_atto", *arguments, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
