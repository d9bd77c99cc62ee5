"""The list of runs, and what differed between two: read from their JSON files, whatever state these are in."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

import nextify
from nextify.cli import main
from nextify.evaluation.metrics import wilson
from nextify.study.results import StepResult, StudyResults, TrialResult
from nextify.study.runs import Run, RunError, runs
from nextify.study.statistics import corrected_interval, mcnemar
from nextify.system.files import followed, link_latest
from nextify.system.lease import taken
from nextify.training.checkpoint import save_checkpoint
from nextify.weights.bundle import located
from tests.helpers import Captured

ASKED: dict[str, Any] = {
    "model": "convnext_atto",
    "recipe_name": "scratch_small",
    "request": {"model": "convnext_atto", "recipe": None, "scale": "full", "epochs": 2, "seed": 0, "settings": {}},
    "design": {"kernel_size": 7, "norm": "layer"},
    "recipe": {"epochs": 2, "ema": 0.9, "optimizer": {"kind": "muon", "momentum": 0.95}, "mixing": {"mixup": 0.8}},
    "data": {"name": "digits", "fingerprint": "abc", "num_classes": 10, "image_size": 16, "mean": [0.5, 0.5, 0.5]},
    "seed": 0,
    "start": "scratch",
    "frozen_stages": 0,
    "accumulation": 1,
}
IMAGES = 40


def a_run(folder: Path, hits: int = 30, asked: dict[str, Any] | None = None, **result: Any) -> Path:
    """The folder of a finished training that gets the first ``hits`` of 40 test images right."""
    folder.mkdir(parents=True)
    bits = np.packbits(np.arange(IMAGES) < hits).tobytes()
    found = {
        "fingerprint": folder.name,
        "top1": 100 * hits / IMAGES,
        "test_images": IMAGES,
        "seconds": 12.5,
        "curve": [{"epoch": 1, "train_loss": 1.0, "learning_rate": 0.1, "test_top1": 50.0}],
        "right": base64.b64encode(bits).decode(),
        "runtime": {"device": "cpu", "threads": 1},
        "environment": {"torch": "2.15.0", "date": folder.name, "memory_gib": 4.0},
    }
    (folder / "recipe.json").write_text(json.dumps(ASKED if asked is None else asked))
    (folder / "result.json").write_text(json.dumps(found | result))
    return folder


def changed(**parts: Any) -> dict[str, Any]:
    """``ASKED`` with some parts of its objects, or values, replaced."""
    return ASKED | {key: ASKED[key] | new if isinstance(new, dict) else new for key, new in parts.items()}


def listed(capsys: Captured, *arguments: str) -> list[dict[str, Any]]:
    assert main(["runs", *arguments, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


# -- the list ------------------------------------------------------------------------------------------------------


def test_a_finished_training_has_its_accuracy_with_wilsons_interval(tmp_path: Path) -> None:
    a_run(tmp_path / "a" / "123")
    (found,) = nextify.runs(tmp_path)
    low, high = wilson(30, 40)
    expected = Run(
        *(tmp_path / "a" / "123", "training", "finished", "convnext_atto", "digits", "classification"),
        *("scratch_small", 0, 2, "top1", 75.0, low, high, 12.5),
        date=found.date,
    )
    assert found == expected


@pytest.mark.parametrize(("right", "images"), [(0, 7), (7, 7), (3, 7), (9722, 10000)])
def test_wilsons_interval_is_scipys(right: int, images: int) -> None:
    ends = scipy.stats.binomtest(right, images).proportion_ci(0.95, method="wilson")
    assert wilson(right, images) == pytest.approx((100 * ends.low, 100 * ends.high), rel=1e-14)


def test_an_unfinished_training_says_at_which_step_it_goes_on(tmp_path: Path) -> None:
    import torch

    for name in ("stopped", "killed", "running"):
        (a_run(tmp_path / name) / "result.json").unlink()
    optimizer = {"state": {0: {"exp_avg": torch.ones(3), "step": torch.tensor(7.0)}}}
    save_checkpoint(tmp_path / "stopped/checkpoint.pt", {"model": {"w": torch.ones(9)}, "step": 120, "o": optimizer})
    with taken(tmp_path / "running"):
        found = {run.folder.name: run.status for run in runs(tmp_path)}
    assert found == {"stopped": "stopped at step 120", "killed": "stopped at step 0", "running": "running"}


def test_a_training_may_begin_while_runs_are_listed(tmp_path: Path) -> None:
    a_run(tmp_path / "a")
    with taken(tmp_path / "a"):
        pass
    assert runs(tmp_path)
    with taken(tmp_path / "a"):
        pass


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"curve": []}',
        '{"curve": [{"test_top1": 1}], "top1": NaN, "test_images": 4, "seconds": 1}',
        '{"curve": [{"test_top1": 1}], "top1": "high", "test_images": 4, "seconds": 1}',
        '{"curve": [{"test_top1": 1}], "top1": 50, "test_images": 0, "seconds": 1}',
        '{"curve": 3, "top1": 50}',
        "\ud83d" * 3,
        "[" * 100_000,
    ],
)
def test_a_broken_folder_is_one_line(tmp_path: Path, capsys: Captured, content: str) -> None:
    a_run(tmp_path / "good")
    (a_run(tmp_path / "bad") / "result.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    if content == "{}":  # no result at all
        (tmp_path / "bad" / "recipe.json").write_text("[]")
    assert main(["runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("bad: broken, ")
    assert lines[2].endswith("; the command that made it, given again, mends it")


def test_a_pipe_in_a_run_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "result.json")
    (found,) = runs(tmp_path)
    assert found.state == "broken"


def test_studies_and_comparisons_are_one_run_each(tmp_path: Path) -> None:
    results = Path(__file__).parents[2] / "docs" / "results"
    for name, source in (("study", "digits"), ("comparison", "compare/cifar10-tiny")):
        a_run(tmp_path / name / "trials" / "one")
        (tmp_path / name / "results.json").write_bytes((results / source / "results.json").read_bytes())
    a_run(tmp_path / "begun" / "trials" / "one")
    study, comparison = StudyResults.read(tmp_path / "study" / "results.json"), tmp_path / "comparison"
    found = {run.folder.name: run for run in runs(tmp_path)}
    assert found.keys() == {"study", "comparison", "begun"}
    assert (found["study"].kind, found["study"].data, found["study"].state) == ("study", "digits", "finished")
    assert found["study"].value == study.rows[-1].mean
    assert (found["comparison"].kind, found["comparison"].data) == ("comparison", "cifar10")
    best = max(json.loads((comparison / "results.json").read_text())["accuracy"]["rows"], key=lambda r: r["top1_mean"])
    assert (found["comparison"].value, found["comparison"].low) == (best["top1_mean"], best["top1_low"])
    assert found["begun"].status == "stopped, 1 training run finished"
    assert [run.kind for run in runs(tmp_path / "study" / "trials")] == ["training"]


def test_the_interval_of_a_study_stays_within_percent(tmp_path: Path) -> None:
    trials = [TrialResult("baseline", seed, "finished", {"top1": 40.0 + 20 * seed}) for seed in range(2)]
    found = StudyResults(rows=(StepResult("baseline", mean=50.0),), trials=trials)
    (tmp_path / "trials").mkdir()
    (tmp_path / "results.json").write_text(json.dumps(found.to_dict()))
    (run,) = runs(tmp_path)
    assert (run.value, run.low, run.high) == (50.0, 0.0, 100.0)


def test_a_search_and_an_attribution_are_no_stopped_studies_and_a_dry_run_is_nothing(tmp_path: Path) -> None:
    for name in ("search", "attribution", "dry"):
        (tmp_path / name / "trials").mkdir(parents=True)
    (tmp_path / "begun" / "trials" / "one").mkdir(parents=True)
    (tmp_path / "begun" / "designs.json").write_text("{}")
    for name in ("search", "attribution"):
        (tmp_path / name / f"{name}.json").write_text('{"data": {"name": "photos"}}')
        (tmp_path / name / "values.json").write_text('{"a": [50.0, 1.5], "b": [60.0, 2.5]}')
    for final in ("b", "final-a-seed0", "final-a-seed1"):  # b: to be deleted, as its figure is written down
        (tmp_path / "search" / "trials" / final).mkdir()
        (tmp_path / "search" / "trials" / final / "result.json").write_text('{"seconds": 10.0}')
    found = {run.folder.name: run for run in runs(tmp_path)}
    assert found.keys() == {"search", "attribution", "begun"}
    assert found["search"].status == "finished, search, 4 training runs"
    assert found["search"].seconds == 24.0
    assert (found["attribution"].kind, found["attribution"].data, found["attribution"].seconds) == (
        *("attribution", "photos", 4.0),
    )
    assert found["begun"].status == "stopped, search, 0 training runs"


def test_runs_are_filtered_and_sorted(tmp_path: Path, capsys: Captured) -> None:
    for name, right in (("a", 10), ("b", 30), ("c", 20)):
        a_run(tmp_path / name, right, ASKED | {"model": f"convnext_{name}"}, seconds=50.0 - right)
    names = {sort: [Path(r["folder"]).name for r in listed(capsys, str(tmp_path), "--sort", sort)] for sort in
             ("result", "model", "time")}  # fmt: skip
    assert names == {"result": ["b", "c", "a"], "model": ["a", "b", "c"], "time": ["b", "c", "a"]}
    chosen = listed(capsys, str(tmp_path), "--where", "model=convnext_[bc]", "--where", "data=digits", "--reverse")
    assert {Path(run["folder"]).name for run in chosen} == {"b", "c"}
    assert listed(capsys, str(tmp_path), "--where", "state=running") == []


def test_the_best_pre_training_has_the_lowest_error(tmp_path: Path, capsys: Captured) -> None:
    for name, error in (("a", 0.8), ("b", 0.5), ("c", 0.6)):
        figures = {"curve": [{"epoch": 1, "test_masked_error": error}], "masked_error": error}
        a_run(tmp_path / name, 30, changed(data={"task": "masked"}), **figures)
    a_run(tmp_path / "d", 10)
    assert [Path(run["folder"]).name for run in listed(capsys, str(tmp_path), "--sort", "result")] == [*"dbca"]
    assert main(["runs", "diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert ["masked", "error", "0.80", "0.50", "−0.30"] in map(str.split, capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no folder nowhere"),
        ([".", "--where", "colour=red"], "--where takes FIELD=PATTERN, the fields being folder, kind"),
        ([".", "--where", "data"], "got 'data'"),
        (["a", "b"], "takes one folder"),
        (["diff", "a"], "takes two training runs"),
        (["diff", ".", "."], "there is no run in ."),
        (["diff", "a", "b", "--reverse"], "leave them out with diff"),
        (["--sort", "colour"], "--sort"),
    ],
)
def test_a_wrong_request_is_one_line(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_unknown_orders_and_fields_are_refused_in_python(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not sorted by 'size'"):
        runs(tmp_path, sort="size")  # type: ignore[arg-type]
    with pytest.raises(RunError, match="no size to choose by"):
        runs(tmp_path, where={"size": "3"})


def test_500_runs_are_listed_in_under_a_second(tmp_path: Path, capsys: Captured) -> None:
    for i in range(500):
        a_run(tmp_path / f"name-{i % 9}" / f"{i:012x}", i % 40, changed(seed=i))
    began = time.process_time()
    assert len(listed(capsys, str(tmp_path), "--sort", "result")) == 500
    assert time.process_time() - began < 1


def test_in_a_narrow_terminal_a_run_takes_two_lines(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_run(tmp_path / "convnext_atto-digits" / "1a2b3c4d5e6f")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for columns, lines in ((80, 4), (120, 2)):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(["runs", str(tmp_path)]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) == lines
        assert max(map(len, printed)) <= columns


# -- two runs beside each other ------------------------------------------------------------------------------------


ONE = [
    ({"recipe": {"ema": 0.5}, "request": {"settings": {"ema": 0.5}}}, ("ema", 0.9, 0.5)),
    ({"design": {"norm": "batch"}, "request": {"settings": {"norm": "batch"}}}, ("norm", "layer", "batch")),
    ({"seed": 1, "request": {"seed": 1}}, ("seed", 0, 1)),
    ({"recipe": {"mixing": "off"}, "request": {"settings": {"mixing": "off"}}}, ("mixing", {"mixup": 0.8}, "off")),
    (
        {"recipe": {"mixing": {"mixup": 0.1}}, "request": {"settings": {"mixing.mixup": 0.1}}},
        ("mixing.mixup", 0.8, 0.1),
    ),
    ({"data": {"image_size": 32}, "request": {"image_size": 32}}, ("image_size", 16, 32)),
    ({"start": "123", "request": {"weights": "w"}}, ("start", "scratch", "123")),
]


@pytest.mark.parametrize(("parts", "expected"), ONE)
def test_the_one_setting_that_differs_is_named_and_nothing_else(
    tmp_path: Path, parts: dict[str, Any], expected: tuple[str, Any, Any]
) -> None:
    found = nextify.diff_runs(a_run(tmp_path / "a"), a_run(tmp_path / "b", 30, changed(**parts)))
    assert [tuple(one) for one in found.settings] == [expected]
    assert (found.followed, found.data, found.versions, found.runtime) == ((), (), (), ())


def test_what_the_fit_made_of_a_setting_is_told_apart_from_it(tmp_path: Path) -> None:
    other = changed(recipe={"epochs": 9, "ema": 0.99}, request={"epochs": 9})
    found = nextify.diff_runs(a_run(tmp_path / "a"), a_run(tmp_path / "b", 30, other))
    assert [one.name for one in found.settings] == ["epochs"]
    assert [one.name for one in found.followed] == ["ema"]


@pytest.mark.parametrize(("around", "setting"), [("backbone", "head"), ("encoder", "ratio")])
def test_settings_of_a_design_within_another_are_told_apart_too(tmp_path: Path, around: str, setting: str) -> None:
    one = {around: {"kernel_size": 7, "stem": "patchify4"}, setting: "a"}
    other = {around: {"kernel_size": 3, "stem": "patchify2"}, setting: "b"}
    request = {"settings": {"kernel_size": 3}, {"ratio": "mask_ratio"}.get(setting, setting): "b", "seed": 1}
    asked = [ASKED | {"design": one}, changed(request=request, seed=1) | {"design": other}]
    found = nextify.diff_runs(*(a_run(tmp_path / name, 30, each) for name, each in zip("ab", asked, strict=True)))
    assert {one.name for one in found.settings} == {f"{around}.kernel_size", setting, "seed"}
    assert [one.name for one in found.followed] == [f"{around}.stem"]


def test_a_setting_at_its_default_is_no_difference(tmp_path: Path) -> None:
    other = changed(request={"epochs": None, "settings": {"ema": 0.9}})
    found = nextify.diff_runs(a_run(tmp_path / "a"), a_run(tmp_path / "b", 30, other))
    assert found.settings == found.followed == ()


def test_versions_and_runtime_are_named(tmp_path: Path) -> None:
    other = a_run(tmp_path / "b", runtime={"device": "cpu", "threads": 2}, environment={"torch": "2.16.0"})
    found = nextify.diff_runs(a_run(tmp_path / "a"), other)
    assert [tuple(one) for one in found.versions] == [("torch", "2.15.0", "2.16.0")]
    assert [tuple(one) for one in found.runtime] == [("threads", 1, 2)]
    assert found.settings == ()


def test_the_result_differs_by_a_paired_test(tmp_path: Path, capsys: Captured) -> None:
    a, b = a_run(tmp_path / "a", 30), a_run(tmp_path / "b", 20)
    found = nextify.diff_runs(a, b)
    assert found.change == -25.0
    assert found.paired is not None
    assert (found.paired.images, found.paired.only_before, found.paired.only_after) == (40, 10, 0)
    assert found.paired.p == pytest.approx(2 / 2**10)
    assert main(["runs", "diff", str(a), str(b)]) == 0
    said = capsys.readouterr().out
    assert "top-1   75.00 %  50.00 %  −25.00 points" in said
    assert "A alone gets 10 right and B alone 0:\nmore than chance would give (McNemar's exact test, p = 0.002)" in said
    assert main(["runs", "diff", str(a), str(b), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["paired"]["only_before"] == 10


def test_mcnemars_test_is_exact() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random(200) < share for share in (0.8, 0.7))
    found = mcnemar(a, b)
    lost, won = int((a & ~b).sum()), int((b & ~a).sum())
    tail = sum(scipy.stats.binom.pmf(k, lost + won, 0.5) for k in range(min(lost, won) + 1))
    assert (found.only_before, found.only_after, found.p) == (lost, won, pytest.approx(min(1.0, 2 * tail)))
    assert mcnemar(a, a).p == 1.0


def test_other_test_images_are_not_compared(tmp_path: Path) -> None:
    a, b = a_run(tmp_path / "a"), a_run(tmp_path / "b", 30, changed(data={"fingerprint": "def", "name": "others"}))
    found = nextify.diff_runs(a, b)
    assert found.paired is None
    assert found.images.startswith("the test images are not the same")
    assert [one.name for one in found.data] == ["name", "fingerprint"]
    rows = "path,label,split\nx/1.png,x,train\n" + "".join(f"y/{i}.png,y,test\n" for i in range(IMAGES))
    for folder in (a, b):
        (folder / "split.csv").write_text(rows)
    assert nextify.diff_runs(a, b).paired is not None
    (b / "split.csv").write_text(rows.replace("y/3.png,y", "y/3.png,x"))
    assert nextify.diff_runs(a, b).paired is None
    known = "path,label,split,digest\n" + "".join(f"y/{i}.png,y,test,{i}f\n" for i in range(IMAGES))
    (a / "split.csv").write_text(known)
    (b / "split.csv").write_text(known.replace("y/", "moved/"))
    assert "(matched by content and label; other training data)" in nextify.diff_runs(a, b).images
    (b / "split.csv").write_text(known.replace("3f", "3e"))
    assert nextify.diff_runs(a, b).paired is None


def test_a_scale_is_no_difference_where_weights_bring_the_design(tmp_path: Path) -> None:
    asked = {"request": {"scale": "tiny"}}, {"request": {"scale": "full", "weights": "runs/a/latest"}, "start": "abc"}
    a, b = (a_run(tmp_path / name, 30, changed(**given)) for name, given in zip("ab", asked, strict=True))
    assert [one.name for one in nextify.diff_runs(a, b).settings] == ["start"]


def test_segmenters_are_said_to_be_matched_by_name_only(tmp_path: Path, capsys: Captured) -> None:
    """split.csv has no masks. The terminal writes the metric as its field does."""
    asked, figures = changed(data={"fingerprint": "def"}), {"curve": [{"epoch": 1, "test_miou": 50.0}], "miou": 50.0}
    a, b = a_run(tmp_path / "a", **figures), a_run(tmp_path / "b", 30, asked, **figures)
    for folder in (a, b):
        (folder / "split.csv").write_text("path,split\n" + "".join(f"{i}.png,test\n" for i in range(IMAGES)))
    assert "(matched by name; other training data)" in nextify.diff_runs(a, b).images
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("mIoU 50.00") == 2


@pytest.mark.parametrize(
    ("result", "words"),
    [({"right": None}, "it was not recorded which of them"), ({"right": "AAAA"}, "it was not recorded which of them")],
)
def test_without_the_hits_there_is_no_paired_test(tmp_path: Path, result: dict[str, Any], words: str) -> None:
    found = nextify.diff_runs(a_run(tmp_path / "a"), a_run(tmp_path / "b", **result))
    assert found.paired is None
    assert words in found.images


def test_an_unfinished_training_has_settings_but_no_result(tmp_path: Path) -> None:
    a, b = a_run(tmp_path / "a"), a_run(tmp_path / "b", 30, changed(seed=1, request={"seed": 1}))
    (b / "result.json").unlink()
    found = nextify.diff_runs(a, b)
    assert [one.name for one in found.settings] == ["seed"]
    assert (found.change, found.versions, found.runtime) == (None, (), ())
    assert found.images.startswith("no result of ")


def test_only_whole_trainings_are_compared(tmp_path: Path) -> None:
    a, b = a_run(tmp_path / "a"), a_run(tmp_path / "b")
    a_run(tmp_path / "study" / "trials" / "one")
    with pytest.raises(RunError, match="is a study, but diff compares training runs"):
        nextify.diff_runs(a, tmp_path / "study")
    (b / "recipe.json").write_text("{")
    with pytest.raises(RunError, match=r"is broken: recipe\.json is damaged"):
        nextify.diff_runs(a, b)


# -- the latest ----------------------------------------------------------------------------------------------------


def a_bundle(folder: Path) -> Path:
    """Something like the bundle of a finished training."""
    bundle = a_run(folder) / "bundle"
    bundle.mkdir()
    (bundle / "nextify.json").write_text("{}")
    return bundle


def test_latest_is_a_relative_link_that_moves(tmp_path: Path) -> None:
    for name in ("a", "b"):
        bundle = a_bundle(tmp_path / name)
        link_latest(bundle)
        assert os.readlink(tmp_path / "latest") == f"{name}/bundle"
        assert nextify.diff_runs(tmp_path / "latest", tmp_path / name).before.folder.name == name
        assert located(tmp_path / "latest" / "bundle").resolve() == bundle.resolve()
    assert [run.folder.name for run in runs(tmp_path, sort="folder")] == ["a", "b"]
    assert {path.parent.name for path in tmp_path.glob("*/bundle")} == {"a", "b"}  # each once


def test_where_no_links_can_be_made_latest_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise OSError("not supported")

    bundle = a_bundle(tmp_path / "a")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    link_latest(bundle)
    assert (tmp_path / "latest").read_text() == "a/bundle\n"
    assert located(tmp_path / "latest") == located(tmp_path / "latest" / "bundle") == located(tmp_path / "a") == bundle
    assert nextify.diff_runs(tmp_path / "latest", tmp_path / "a").settings == ()
    assert [run.folder.name for run in runs(tmp_path)] == ["a"]
    for elsewhere in ("../elsewhere", "/etc/passwd", "a", "a/b/c", ""):
        (tmp_path / "latest").write_text(elsewhere)
        assert followed(tmp_path / "latest") == tmp_path / "latest"


# -- cross-validation ----------------------------------------------------------------------------------------------


def test_the_interval_over_folds_is_nadeaus_and_bengios() -> None:
    values = [90.0, 92.0, 91.0, 95.0, 88.0]
    half = scipy.stats.t.ppf(0.975, 4) * np.std(values, ddof=1) * np.sqrt(1 / 5 + 1 / 4)
    assert corrected_interval(values) == pytest.approx((91.2 - half, 91.2 + half))
    assert corrected_interval([90.0]) is None
