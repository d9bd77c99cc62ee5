"""Images that a network was trained on, given to measure it: a wrong --split-seed makes figures too good."""

import shutil
from pathlib import Path

import pytest

from nextify.cli import main
from nextify.compare import accuracy
from nextify.compare.records import Model
from nextify.data import open_images
from nextify.data.preflight import split_csv
from nextify.evaluation.evaluate import evaluate
from nextify.evaluation.inspection import inspect_images
from nextify.evaluation.robustness import measure
from nextify.evaluation.seen import trained_on
from tests.helpers import save_noise, tiny_bundle

CLASSES = ("blue", "green", "red")


def test_another_split_than_the_trainings_is_told(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", CLASSES, 16, 1.0)
    own, other = (open_images(str(shapes), split_seed=seed) for seed in (3, 0))
    (tmp_path / "split.csv").write_text(split_csv(own))
    (note,) = trained_on(bundle, [other.test])
    tested = {own.test.name(i) for i in range(len(own.test))}
    among = sum(other.test.name(i) not in tested for i in range(len(other.test)))
    assert f"lists {among} of these {len(other.test)} images as trained on" in note
    assert note in evaluate(bundle, other, threads=1).notes
    assert not trained_on(bundle, [own.test])
    count = len(own.train)
    for part, among in (("train", count), ("all", count + len(own.test))):
        for found in (evaluate(bundle, own, part=part, threads=1), measure(bundle, own, part=part, corruptions=())):
            (note,) = (said for said in found.notes if "as trained on" in said)
            assert f"lists {count} of these {among} images as trained on, so the result is better" in note
    arguments = ["evaluate", str(bundle), "--data", str(shapes), "--device", "cpu", "--threads", "1"]
    for seed, told in (("0", True), ("3", False)):
        assert main([*arguments, "--split-seed", seed]) == 0
        assert ("give the --split-seed of the training" in " ".join(capsys.readouterr().err.split())) == told


def test_images_are_known_by_their_files_wherever_these_lie(shapes: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", CLASSES, 16, 1.0)
    data = tmp_path / "data"
    shutil.copytree(shapes, data / "train")
    shutil.copytree(shapes, data / "test")
    for i, path in enumerate(sorted((data / "test").rglob("*.*"))):  # other images of the same names
        save_noise(path, i)
    (tmp_path / "split.csv").write_text(split_csv(open_images(str(data))))
    other, within, moved = open_images(str(data / "test")), open_images(str(data / "train")), open_images(str(shapes))
    assert not trained_on(bundle, [other.test])
    for images in (within, moved):
        (note,) = trained_on(bundle, [images.test])
        assert f"lists {len(images.test)} of these {len(images.test)} images as trained on" in note
    assert note in inspect_images(bundle, moved, threads=1).notes
    clean = measure(bundle, other, corruptions=(), baseline=bundle, threads=1)
    assert not any("as trained on" in said for said in clean.notes)
    apart = tiny_bundle(tmp_path / "apart" / "bundle", CLASSES, 16, 1.0)
    assert note in measure(apart, moved, corruptions=(), baseline=bundle, threads=1).notes
    row = accuracy.evaluate(Model("bundle", str(bundle), "other"), str(bundle), moved, "cpu", 1)
    assert note in row.problems


def test_lists_of_earlier_versions_know_images_by_their_names(shapes: Path, tmp_path: Path) -> None:
    bundle, images = tiny_bundle(tmp_path / "bundle", CLASSES, 16, 1.0), open_images(str(shapes), split_seed=3)
    rows = split_csv(images).splitlines()
    (tmp_path / "split.csv").write_text("\n".join(",".join(row.split(",")[i] for i in (0, 1, 2)) for row in rows))
    assert not trained_on(bundle, [images.test])
    assert len(trained_on(bundle, [open_images(str(shapes)).test])) == 1


def test_what_is_no_list_of_a_training_says_nothing(shapes: Path, tmp_path: Path) -> None:
    bundle, images = tiny_bundle(tmp_path / "bundle", CLASSES, 16, 1.0), open_images(str(shapes))
    assert not trained_on(bundle, [images.test])
    for content in ("", "a,b\n1,2\n", "path,split\n", "\xff"):
        (tmp_path / "split.csv").write_text(content, encoding="latin-1")
        assert not trained_on(bundle, [images.test])
