"""Which weights to start from: intervals, advice, licences, and the command on tiny networks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nextify.cli import main
from nextify.compare.starts import Probed, Start, _linear, advise, consequence, folds_of, permitted
from nextify.data import DataError, Images, open_images
from nextify.data.preflight import split_csv
from nextify.study.statistics import corrected_interval
from tests.helpers import Captured, tiny_bundle

HERE = ("--device", "cpu", "--threads", "1")


def test_folds_have_every_class_and_no_image_twice(digits: Images) -> None:
    folds = folds_of(digits, 200, 4)
    together = np.concatenate(folds)
    assert len(together) == len({*together.tolist()}) == 200
    for fold in folds:
        assert len(fold) == 50
        assert {*digits.train.labels[fold].tolist()} == {*range(10)}
    with pytest.raises(DataError, match="too few for 20 folds"):
        folds_of(digits, 16, 20)


def test_no_group_is_in_two_folds(digits: Images) -> None:
    few = replace(digits, train=digits.train.selected(np.arange(120)))
    few.train.groups = [f"patient {i // 6}" if i < 114 else "" for i in range(120)]
    folds = folds_of(few, 100, 4)
    assert sorted(np.concatenate(folds).tolist()) == sorted(np.random.RandomState(0).permutation(120)[:100].tolist())
    seen = [{few.train.groups[i] for i in fold} - {""} for fold in folds]
    assert all(not a & b for i, a in enumerate(seen) for b in seen[:i])
    few.train.groups = ["one", "two"] * 60
    with pytest.raises(DataError, match="2 groups are too few for 4 folds"):
        folds_of(few, 100, 4)


def test_one_class_alone_is_no_error() -> None:
    x = np.random.RandomState(0).normal(size=(8, 3)).astype(np.float32)
    labels = np.zeros(8, np.int64)
    assert _linear(x, labels, x[:4], np.array([0, 0, 0, 1])) == 75
    labels[np.random.RandomState(0).permutation(8)[0]] = 1  # in the part that chooses the strength
    assert 0 <= _linear(x, labels, x, labels) <= 100


def test_equal_starts_are_told_apart_as_seldom_as_is_said() -> None:
    draw = np.random.RandomState(0).normal
    wrong = 0
    for _ in range(200):  # folds that share images: a part of a start's luck is that of all its folds
        scores = {str(i): 50 + draw(size=5) * np.sqrt(0.8) + draw() * np.sqrt(0.2) for i in range(10)}
        wrong += len(advise(scores).equals) < 9
    assert wrong <= 0.05 * 200


def test_the_interval_is_wider_than_that_of_independent_folds() -> None:
    values = [80.0, 82.0, 81.0, 83.0, 79.0]
    low, high = corrected_interval(values) or (0.0, 0.0)
    plain = 2.7764 * np.std(values, ddof=1) / np.sqrt(5)
    assert (low + high) / 2 == pytest.approx(81)
    assert (high - low) / 2 == pytest.approx(plain * np.sqrt(1 + 5 / 4), rel=1e-4)
    equal = corrected_interval([8.0, 8.0, 8.0], least_error=2.0)  # nothing is certain because folds came out equal
    assert equal == corrected_interval([6.0, 8.0, 10.0])
    assert corrected_interval([1.0]) is None


def test_advice_says_where_nothing_can_be_told() -> None:
    clear = {"a": [90.0, 91.0, 92.0, 91.0, 90.0], "b": [60.0, 61.0, 63.0, 61.0, 60.0]}
    assert advise(clear).text() == "start from a: it is ahead of every other one beyond chance"
    close = clear | {"c": [91.0, 90.0, 92.0, 90.0, 90.5]}
    found = advise(close)
    assert (found.best, found.equals) == ("a", ["c"])
    assert "no difference can be told between it and c" in found.text()
    assert advise({"a": clear["a"], "c": close["c"]}).text().startswith("no difference can be told: a has the best")
    assert advise({"a": [1.0, 2.0]}).text() == "a is the only start: nothing to choose"


def test_more_comparisons_need_more_to_be_sure() -> None:
    scores = {"a": [90.0, 92.0, 91.0], "b": [85.0, 88.0, 84.0]}
    alone = advise(scores).differences["b"]
    among = advise(scores | {str(i): [10.0, 10.5, 11.0] for i in range(8)}).differences["b"]
    assert among[1] < alone[1] < alone[0] == among[0]


@pytest.mark.parametrize(
    ("licence", "words", "kept"),
    [
        ("yours", "your own", True),
        ("MIT", "any use", True),
        ("cc-by-4.0", "credit", True),
        ("cc-by-nc-4.0", "no commercial use", False),
        ("cc-by-sa-4.0", "passes on", False),
        ("dinov3-license", "applies to every derivative", False),
        ("fair-noncommercial-research-license", "non-commercial research only", False),
        ("unknown", "unknown to nextify", False),
    ],
)
def test_licences_and_their_consequences(licence: str, words: str, kept: bool) -> None:
    assert words in consequence(licence)
    start = Start("x", "convnext_atto", licence, None)
    left, notes = permitted([start], "permissive")
    assert (left == [start]) == kept
    assert len(notes) == (not kept)
    assert permitted([start], "any") == ([start], [])


def test_the_command_ranks_and_leaves_licences_out(
    capsys: Captured, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nextify.compare.starts as starts
    from nextify.networks.zoo import designs
    from tests.helpers import TINY

    monkeypatch.setattr(starts, "designs", lambda: {**designs(), "convnext_atto": TINY})
    mine, theirs = (
        tiny_bundle(tmp_path / name, ("a", "b"), 16, 1.0, licence=licence, seed=seed)
        for seed, (name, licence) in enumerate((("mine", "yours"), ("theirs", "cc-by-nc-4.0")))
    )
    small = ("--images", "48", "--folds", "3", "--epochs", "1", *HERE)
    given = ["starts", str(mine), str(theirs), "--data", str(shapes), *small]
    assert main(given) == 0
    shown = capsys.readouterr().out
    assert str(mine) in shown
    assert "cc-by-nc-4.0: no commercial use" in shown
    assert "3 folds of 48 training images" in shown
    assert "learned data" not in shown
    assert main([*given, "--licence", "permissive", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (only,) = found["starts"]
    assert only["source"] == str(mine)
    assert len(only["linear"]) == len(only["tuned"]) == found["folds"] == 3
    assert (only["recipe"], found["images"]) == ("finetune_small", 48)
    assert "theirs is left out: its licence is cc-by-nc-4.0" in found["left_out"][0]
    assert "nothing to choose" in found["advice"]
    assert found["notes"] == []


@pytest.mark.parametrize("learned", ["shapes (train)", "others"])
def test_weights_that_may_have_seen_the_images_are_noted_in_json_too(
    capsys: Captured, shapes: Path, monkeypatch: pytest.MonkeyPatch, learned: str
) -> None:
    scores = ((50.0, 60.0, 70.0), (50.0, 60.0, 70.0))
    name = open_images(shapes).name
    probed = Probed("mine", "convnext_atto", "yours", "", 1, 1, 16, *scores, "", learned.replace("shapes", name), 1.0)
    monkeypatch.setattr("nextify.cli.starting.probe_starts", lambda *given, **options: [probed])
    assert main(["starts", "fresh:convnext_atto", "--data", str(shapes), "--json", *HERE]) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert notes == ([f"mine learned data called {name}: if it saw these images, it looks better here than it is"]
                     if learned != "others" else [])  # fmt: skip


def test_weights_that_have_seen_the_images_are_noted(
    capsys: Captured, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = str(tiny_bundle(tmp_path / "bundle", ("blue", "green", "red"), 16, 1.0))
    images = open_images(shapes)
    (tmp_path / "split.csv").write_text(split_csv(images))
    scores = ((50.0, 60.0, 70.0), (50.0, 60.0, 70.0))
    probed = Probed(mine, "convnext_atto", "yours", "", 1, 1, 16, *scores, "", "others", 1.0)
    monkeypatch.setattr("nextify.cli.starting.probe_starts", lambda *given, **options: [probed])
    assert main(["starts", "fresh:convnext_atto", "--data", str(shapes), "--json", *HERE]) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    number = len(images.train)
    assert f"was trained on {number} of these {number} images, so it looks better here than it is" in note


def test_what_fails_in_the_middle_is_one_line(
    capsys: Captured, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nextify.compare.starts as starts
    from nextify.networks.zoo import designs
    from nextify.training.loop import TrainingDiverged
    from tests.helpers import TINY

    monkeypatch.setattr(starts, "designs", lambda: {**designs(), "convnext_atto": TINY})
    mine = tiny_bundle(tmp_path / "mine", ("a", "b"), 16, 1.0)
    given = ["starts", str(mine), "--data", str(shapes), "--images", "48", "--folds", "3", "--epochs", "1", *HERE]
    assert main([*given[:2], f"{tmp_path}/../{tmp_path.name}/mine", *given[2:]]) == 2
    assert "are the same weights" in capsys.readouterr().err.splitlines()[-1]

    def diverge(*arguments: object, **options: object) -> None:
        raise TrainingDiverged("the loss is nan")

    monkeypatch.setattr(starts, "run_trial", diverge)
    assert main(given) == 2
    assert "mine cannot be fine-tuned here (the loss is nan): leave it out" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setattr(starts, "_features", lambda *arguments: np.full((48, 2), np.nan, np.float32))
    assert main(given) == 2
    assert "NaN or infinite: leave it out" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((), "nothing to choose from"),
        (("/nowhere",), "no weights at /nowhere"),
        (("fresh:convnext_atto", "fresh:convnext_atto"), "given twice"),
        (("fresh:convnext_ato",), "did you mean convnext_atto"),
    ],
)
def test_what_cannot_be_probed_is_one_line(capsys: Captured, weights: tuple[str, ...], message: str) -> None:
    assert main(["starts", *weights, "--data", "digits"]) in (1, 2)
    assert message in capsys.readouterr().err.splitlines()[-1]
