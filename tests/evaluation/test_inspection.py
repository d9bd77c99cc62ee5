"""``nextify inspect``: label errors as cleanlab finds them, planted near duplicates, and the list that ``train
--without`` takes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextify.cli import main
from nextify.data import open_images
from nextify.evaluation.inspection import COLUMNS, Inspection, inspect_images, likeness, thumbnail
from nextify.evaluation.label_errors import label_errors
from nextify.networks.zoo import find_design
from nextify.paper.recipe import RECIPES
from nextify.study.folds import FoldsPlan
from nextify.training.continued import Finished
from nextify.training.request import RequestError
from nextify.weights import About
from tests.helpers import Captured, noise, save_noise, tiny_bundle


def some_probabilities(seed: int, count: int = 300, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which a tenth is wrong, and probabilities that mostly tell the true one."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) + 2.5 * np.eye(classes)[true]
    labels = np.where(rng.random(count) < 0.1, rng.integers(0, classes, count), true)
    return labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize("seed", range(5))
def test_label_errors_are_cleanlabs(seed: int) -> None:
    find_label_issues = pytest.importorskip("cleanlab.filter").find_label_issues
    labels, probabilities = some_probabilities(seed)
    theirs = find_label_issues(
        labels, probabilities, filter_by="confident_learning", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    assert label_errors(labels, probabilities)[0].tolist() == theirs.tolist()


def test_label_errors_are_those_that_another_class_is_confident_of() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.45, 0.55], [0.2, 0.8], [0.3, 0.7]])
    found, suggested = label_errors(np.array([0, 0, 0, 0, 1, 1]), probabilities)
    assert found.tolist() == [2]  # 0.55 is less than the 0.75 that images of class 1 have on average
    assert suggested.tolist() == [1]


def test_a_class_without_images_is_never_suggested() -> None:
    found, suggested = label_errors(np.array([0, 0, 1]), np.array([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]))
    assert 2 not in suggested.tolist()
    assert found.tolist() == []


def test_label_errors_need_a_row_for_each_label() -> None:
    with pytest.raises(ValueError, match="one row of probabilities"):
        label_errors(np.array([0, 1]), np.ones((3, 2)))


@pytest.mark.parametrize(
    ("change", "alike"),
    [
        (lambda x: x, True),
        (lambda x: x[:, ::-1], True),
        (lambda x: (x * 0.8).astype(np.uint8), True),
        (lambda x: x[::-1], False),
        (lambda x: np.zeros_like(x), False),
    ],
)
def test_likeness_survives_mirroring_and_brightness(change, alike) -> None:
    pixels = noise(3, 32, 32)
    assert bool(likeness(thumbnail(pixels)[None], thumbnail(change(pixels))[None])[0] > 0.98) is alike


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes; a_0 is also, slightly darker, in class b, and mirrored among the test images."""
    root = tmp_path_factory.mktemp("planted") / "data"
    for c, name in enumerate("ab"):
        for i in range(12):
            save_noise(root / "train" / name / f"{name}_{i}.png", 100 * c + i)
        for i in range(4):
            save_noise(root / "val" / name / f"{name}_v{i}.png", 50 + 100 * c + i)
    pixels = noise(0, 8, 8) // 4 + np.array([180, 0, 0], np.uint8)  # alone in its colour, so neighbours by any network
    Image.fromarray(pixels).save(root / "train" / "a" / "a_0.png")
    Image.fromarray((pixels * 0.9).astype(np.uint8)).save(root / "train" / "b" / "again.png")
    Image.fromarray(pixels[:, ::-1]).save(root / "val" / "a" / "mirrored.png")
    return root


@pytest.fixture(scope="module")
def inspected(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Inspection, Path]:
    """What was found, and the folder that it was written to."""
    root = tmp_path_factory.mktemp("inspected")
    bundle = tiny_bundle(root / "bundle", ("a", "b"), 8, 1.0)
    return inspect_images(bundle, open_images(planted), out=root / "out", threads=1), root / "out"


def test_near_duplicates_across_classes_and_parts_are_found(inspected: tuple[Inspection, Path]) -> None:
    found, _ = inspected
    across = {(row.file, row.label, row.suggested, row.other) for row in found.of("duplicate_classes")}
    assert ("train/a/a_0.png", "a", "b", "train/b/again.png") in across
    assert ("train/b/again.png", "b", "a", "train/a/a_0.png") in across
    assert ("train/a/a_0.png", "val/a/mirrored.png") in {(r.file, r.other) for r in found.of("duplicate_parts")}
    assert any("--folds 5" in line for line in found.notes)


def test_the_list_the_sheets_and_the_probabilities_are_written(inspected: tuple[Inspection, Path]) -> None:
    found, out = inspected
    with open(out / "inspect.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["file"] for row in rows] == [row.file for row in found.findings]
    for name in ("duplicate_classes.png", "duplicate_parts.png"):
        with Image.open(out / name) as sheet:
            assert min(sheet.size) > 200
    with np.load(out / "probabilities.npz") as kept:
        assert kept["probabilities"].shape == (9, 2)
        assert kept["files"][0].startswith("val/")


def test_repeating_an_inspection_replaces_its_list_and_removes_sheets_of_kinds_not_found_any_more(
    inspected: tuple[Inspection, Path], planted: Path, tmp_path: Path
) -> None:
    found, before = inspected
    out = tmp_path / "out"
    shutil.copytree(before, out)
    (out / "outlier.png").write_bytes(b"of an earlier run")
    assert not found.of("outlier")
    known = np.full((25, 2), 0.5, np.float32)
    again = inspect_images(before.parent / "bundle", open_images(planted), out_of_fold=known, out=out, threads=1)
    assert [path.stem for path in sorted(out.glob("*.png"))] == sorted({row.kind for row in again.findings})
    with open(out / "inspect.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(again.findings)


def test_an_edited_list_and_another_inspection_are_not_replaced(
    inspected: tuple[Inspection, Path], planted: Path, tmp_path: Path, capsys: Captured
) -> None:
    _, before = inspected
    out, bundle = tmp_path / "out", before.parent / "bundle"
    shutil.copytree(before, out)
    command = ["inspect", str(bundle), "--data", str(planted), "--out", str(out), "--device", "cpu", "--threads", "1"]
    other = tiny_bundle(tmp_path / "other", ("a", "b"), 8, 1.0, seed=1)
    content = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(["inspect", str(other), *command[2:]]) == 1
    said = capsys.readouterr().err
    assert "holds another inspection (a model on data), whose results would be lost: choose another --out" in said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == content
    edited = b"".join((out / "inspect.csv").read_bytes().splitlines(keepends=True)[:-1])
    (out / "inspect.csv").write_bytes(edited)
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "inspect.csv was edited" in said
    assert "rename it, or choose another --out" in said
    assert (out / "inspect.csv").read_bytes() == edited
    (out / "inspect.csv").rename(out / "mine.csv")
    assert main(command) == 0
    assert (out / "inspect.csv").read_bytes() == content["inspect.csv"]
    assert (out / "mine.csv").read_bytes() == edited


def test_probabilities_of_training_images_are_taken_into_account(planted: Path, tmp_path: Path) -> None:
    images = open_images(planted)
    known = np.full((len(images.train), 2), 0.05, np.float32)
    known[np.arange(len(images.train)), images.train.labels] = 0.95
    known[3] = known[3, ::-1]
    bundle = tiny_bundle(tmp_path / "bundle", ("b", "a"), 8, 1.0)  # in another order than the folders'
    found = inspect_images(bundle, images, out_of_fold=known, threads=1)
    rows = [row for row in found.of("label") if row.file.startswith("train/")]
    assert [(row.file, row.suggested) for row in rows] == [(images.train.name(3), "b")]
    assert rows[0].score == pytest.approx(0.95)


@pytest.mark.slow
def test_the_command_finds_what_folds_tell_and_its_list_can_be_trained_without(
    shapes: Path, tmp_path: Path, capsys: Captured
) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    tiny = ["--device", "cpu", "--threads", "1"]
    wanted = ["train", "convnext_atto", "--data", str(shapes), "--scale", "tiny", "--epochs", "1", *tiny]
    assert main([*wanted, "--out", str(runs)]) == 0
    bundle = next(runs.glob("*/bundle"))
    capsys.readouterr()
    assert (
        main(["inspect", str(bundle), "--data", str(shapes), "--folds", "2", "--out", str(out), "--json", *tiny]) == 0
    )
    printed = capsys.readouterr()
    assert json.loads(printed.out)["train_images"] == len(open_images(shapes).train)
    assert "on 2 folds of" in printed.err
    with np.load(out / "probabilities.npz") as kept:
        assert len(kept["files"]) == 72
    trials = sorted(path.parent.name for path in out.glob("folds2-*/trials/*/result.json"))
    assert len(trials) == 2
    assert main(["inspect", str(bundle), "--data", str(shapes), "--folds", "2", "--out", str(out), *tiny]) == 0
    (noted,) = open_images(shapes).notes
    assert "".join(capsys.readouterr()).count(noted) == 1
    listed = tmp_path / "list.csv"
    listed.write_text("file,kind\nblue/0.png,label\nblue/1.png,label\nred/2.png,outlier\n")
    assert main([*wanted, "--without", str(listed), "--out", str(tmp_path / "less"), "--dry-run"]) == 0
    assert "left out, as list.csv says" in capsys.readouterr().out


def test_folds_need_the_training_beside_the_bundle(shapes: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", ("blue", "green", "red"), 16, 1.0, recipe=RECIPES["scratch_small"])
    with pytest.raises(RequestError, match="holds no run of nextify train"):
        FoldsPlan.like(Finished.of(bundle), open_images(shapes), 2)


def test_folds_of_a_bundles_recipe_say_nothing_of_a_fit(shapes: Path, tmp_path: Path) -> None:
    classes, recipe = ("blue", "green", "red"), RECIPES["scratch_small"].with_(epochs=3, warmup_epochs=0, batch_size=16)
    about = About(find_design("convnext_atto"), 3, classes=classes, recipe=recipe)
    asked = {"data": {"fingerprint": ""}, "request": {"model": "convnext_atto"}, "recipe_name": "its_own"}
    plan = FoldsPlan.like(Finished(tmp_path, asked, about), open_images(shapes), 2)
    assert plan.trials[0].trial.recipe == recipe
    said = plan.prepared
    assert (said.recipe_name, said.notes, said.changes, said.preflight.warnings) == ("its_own", (), (), ())
