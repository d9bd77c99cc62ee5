"""Images that a network was trained on, given to measure it: a wrong --split-seed makes figures too good."""

from pathlib import Path

import pytest

from nextify.cli import main
from nextify.data import open_images
from nextify.data.preflight import split_csv
from nextify.evaluation.evaluate import evaluate
from nextify.evaluation.seen import trained_on
from tests.helpers import tiny_bundle

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
    assert not trained_on(bundle, [other.train], "train")
    arguments = ["evaluate", str(bundle), "--data", str(shapes), "--device", "cpu", "--threads", "1"]
    for seed, told in (("0", True), ("3", False)):
        assert main([*arguments, "--split-seed", seed]) == 0
        assert ("give the --split-seed of the training" in " ".join(capsys.readouterr().err.split())) == told


def test_what_is_no_list_of_a_training_says_nothing(shapes: Path, tmp_path: Path) -> None:
    bundle, images = tiny_bundle(tmp_path / "bundle", CLASSES, 16, 1.0), open_images(str(shapes))
    assert not trained_on(bundle, [images.test])
    for content in ("", "a,b\n1,2\n", "path,split\n", "\xff"):
        (tmp_path / "split.csv").write_text(content, encoding="latin-1")
        assert not trained_on(bundle, [images.test])
