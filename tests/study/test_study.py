"""The study: its plan, its store, and that a kill loses nothing and changes nothing."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from nextify.cli import main
from nextify.data import open_images
from nextify.evaluation.evaluate import evaluate
from nextify.fitting.scale import scale
from nextify.paper.roadmap import STEP_NAMES, roadmap
from nextify.study.engine import Engine, Event, Failed, Job, Stopped, run_job
from nextify.study.plan import PlanError, make_plan
from nextify.study.store import Store
from nextify.system.files import UnusableFolder
from nextify.training.trial import Data, Runtime
from tests.helpers import Command, save_noise, server


class Facts:
    train_images = 600
    num_classes = 10
    mirror_keeps_class = False


DATA = Data("digits", "test", 10, 16)
ADOPTED = [name for name in STEP_NAMES if name not in ("kernel_5", "kernel_9", "kernel_11")]


def plan(**options):
    options = {"seeds": (0, 1, 2)} | options
    return make_plan(roadmap("resnet50"), scale("tiny"), Facts(), DATA, **options)


def test_a_plan_has_the_adopted_rows_times_the_seeds_seed_by_seed():
    made = plan()
    assert [row.row.name for row in made.rows] == ADOPTED
    assert [(t.step, t.trial.seed) for t in made.trials] == [(name, seed) for seed in (0, 1, 2) for name in ADOPTED]
    assert len({t.folder for t in made.trials}) == 42
    assert [row.row.name for row in plan(explore=True).rows] == list(STEP_NAMES)


def test_one_recipe_for_all_rows_but_the_baseline():
    made = plan()
    assert made.rows[0].recipe == made.original
    assert {row.recipe for row in made.rows[1:]} == {made.modern}
    assert made.original.optimizer.kind == "sgd"
    assert made.original.epochs == round(made.modern.epochs * 90 / 300)


def test_every_row_trains_another_network_or_recipe():
    rows = plan(explore=True).rows
    assert len({(row.design, row.recipe) for row in rows}) == len(rows) == 17


def test_left_out_steps_are_bridged():
    rows = plan(steps=("baseline", "patchify", "kernel_9", "gelu")).rows
    assert [row.compared_with for row in rows] == [None, "baseline", "patchify", "patchify"]


def test_a_single_step_has_nothing_to_compare_with():
    assert [row.compared_with for row in plan(steps=("gelu",)).rows] == [None]


def test_bad_plans_name_the_remedy():
    with pytest.raises(PlanError, match="--seeds 1"):
        plan(seeds=())
    with pytest.raises(PlanError, match=r"no step 'gelo'; the steps are baseline, .*separate_downsampling"):
        plan(steps=("gelo",))


def test_a_store_knows_its_own_results_only(undisturbed, tmp_path):
    source, _ = undisturbed
    images = open_images("digits")
    made = make_plan(
        roadmap("resnet50"),
        scale("tiny"),
        images,
        Data(images.name, images.fingerprint, 10, 16),
        seeds=(0,),
        epochs=1,
        steps=("training_technique", "separate_downsampling"),
    )
    trial, other = made.trials
    store = Store(tmp_path)
    assert store.result(trial) is None
    folder = store.folder(trial)
    shutil.copytree(Store(source).folder(other), folder)
    assert store.result(trial) is None, "another trial's"
    shutil.rmtree(folder)
    shutil.copytree(Store(source).folder(trial), folder)
    found = store.result(trial)
    assert found is not None
    assert (found.fingerprint, found.trained) == (trial.trial.fingerprint, False)
    assert store.of_earlier_versions(trial) == []
    content = json.loads((folder / "result.json").read_text())
    earlier = folder.with_name(f"{trial.step}-seed0-0123456789ab")
    shutil.copytree(folder, earlier)
    (earlier / "result.json").write_text(json.dumps({k: v for k, v in content.items() if k != "version"}))
    assert store.of_earlier_versions(trial) == [earlier]
    (folder / "result.json").write_text('{"fingerpr')
    assert store.result(trial) is None


def test_every_network_of_a_study_evaluates_to_its_figures(undisturbed):
    out, _ = undisturbed
    trials = json.loads((out / "results.json").read_text())["trials"]
    assert len(trials) == 4
    for trial in trials:
        folder = out / "trials" / f"{trial['step']}-seed{trial['seed']}-{trial['fingerprint']}"
        found = evaluate(folder / "bundle", open_images("digits"), threads=1)
        assert (found.top1, found.top5) == (trial["top1"], trial["top5"])
        assert found.model == f"resnet50_{trial['step']}"
        assert json.loads((folder / "result.json").read_text())["environment"]["torch"]


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks there")
def test_two_runs_cannot_share_a_store(tmp_path):
    with Store(tmp_path), pytest.raises(UnusableFolder, match="in use by another run"), Store(tmp_path):
        pass
    with Store(tmp_path):
        pass


# -- the command, in processes of its own ------------------------------------------------------------------------------

SMALL = ["--steps", "training_technique", "separate_downsampling", "--seeds", "2", "--epochs", "1"]


def arguments(out: Path, *options: str) -> list[str]:
    fixed = ["--device", "cpu", "--side-by-side", "2", "--threads", "1", "--checkpoint-seconds", "0.1"]
    return ["roadmap", "--out", str(out), *fixed, *options]


def run(out: Path, *options: str, largest_file: int | None = None) -> tuple[int, str]:
    """The exit code and what was reported."""
    return Command(arguments(out, *options), largest_file).wait(300)


def figures(out: Path) -> list:
    """What must not depend on interruptions: accuracies, losses, statistics; times may."""
    results = json.loads((out / "results.json").read_text())
    rows = [{k: v for k, v in row.items() if k != "images_per_second"} for row in results["rows"]]
    keep = ("step", "seed", "status", "top1", "top5", "final_train_loss", "curve", "fingerprint")
    return [rows, [{k: trial[k] for k in keep} for trial in results["trials"]]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    server()  # before a smaller one is started here
    out, said = tmp_path_factory.mktemp("undisturbed"), io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(arguments(out, *SMALL)) == 0
    return out, said.getvalue()


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    """Only the report of ``undisturbed`` is drawn, which is made before this: drawing takes longer than training."""
    monkeypatch.setattr("nextify.report.files.save", lambda *_: "")
    monkeypatch.setattr("nextify.report.files.page", lambda *_: "")


def test_a_study_writes_everything_it_promises(undisturbed):
    out, said = undisturbed
    names = {"results.json", "results.csv", "roadmap.svg", "roadmap.png", "report.html"}
    assert names <= {path.name for path in out.iterdir()}
    results = json.loads((out / "results.json").read_text())
    assert [row["step"] for row in results["rows"]] == ["training_technique", "separate_downsampling"]
    assert all(row["n"] == 2 and row["top1_mean"] > 0 and row["parameters"] and row["macs"] for row in results["rows"])
    assert results["rows"][1]["compared_with"] == "training_technique"
    assert results["rows"][1]["published_change"] == pytest.approx(81.97 - 78.82)
    assert results["trials"][0]["peak_memory_mib"] < 2048
    assert "from a measured probe" in said
    assert "cannot go below" in " ".join(said.split())


def test_seeds_added_later_give_what_was_planned_from_the_start(undisturbed, tmp_path):
    fewer = [*SMALL[:-3], "1", *SMALL[-2:]]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments(tmp_path, *fewer)) == 0
    kept = {path: path.read_bytes() for path in tmp_path.rglob("result.json")}
    assert len(kept) == 2
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments(tmp_path, *SMALL)) == 0
    assert {path: path.read_bytes() for path in kept} == kept, "only the missing ones are trained"
    assert figures(tmp_path) == figures(undisturbed[0])


def test_results_without_hits_are_completed_by_evaluating_their_networks(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    kept = {}
    for path in tmp_path.rglob("result.json"):
        content = json.loads(path.read_text())
        kept[path] = content.pop("right")
        path.write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments(tmp_path, *SMALL)) == 0
    assert {path: json.loads(path.read_text())["right"] for path in kept} == kept
    assert figures(tmp_path) == figures(undisturbed[0])
    row = json.loads((tmp_path / "results.json").read_text())["rows"][1]
    assert row["interval_low"] < row["change"] < row["interval_high"]


def test_a_study_of_fewer_seeds_than_there_are_says_so(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(arguments(tmp_path, *SMALL[:-3], "1", *SMALL[-2:])) == 0
    assert "has further seeds, which are not used: give --until-decided" in " ".join(said.getvalue().split())


def test_the_results_of_another_study_are_not_replaced(undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "results.json").read_text()
    for i in range(40):
        save_noise(tmp_path / "noise" / ("cat" if i % 2 else "dog") / f"{i}.png", i, (16, 16))
    for options in (["--data", str(tmp_path / "noise")], ["--scale", "small"], ["--regime", "resnet200"]):
        assert main([*arguments(tmp_path, "--steps", "gelu"), *options]) == 1
        error = capsys.readouterr().err
        assert "holds another study (digits, resnet50, tiny, classification)" in error, options
    (tmp_path / "results.json").write_text('{"models": [], "settings": {}}')
    assert main(arguments(tmp_path, *SMALL)) == 1
    assert "is not of a study and would be replaced" in capsys.readouterr().err
    (tmp_path / "results.json").write_text(before)
    assert main(arguments(tmp_path, *SMALL)) == 0


def test_seeds_that_would_end_too_late_are_not_begun(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    before = {path.parent.name for path in tmp_path.rglob("result.json")}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(arguments(tmp_path, *SMALL, "--until-decided", "--max-hours", "0")) == 0
    assert "past --max-hours 0: run the same command with more hours to continue" in " ".join(said.getvalue().split())
    assert {path.parent.name for path in tmp_path.rglob("result.json")} == before
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["study"]["first_look"], results["study"]["seeds"]) == (2, [0, 1])


@pytest.mark.slow
def test_seeds_are_added_until_decided_and_a_restart_trains_nothing_again(undisturbed, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path, dirs_exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments(tmp_path, *SMALL, "--until-decided")) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    counts = [row["seeds"] for row in results["rows"]]
    assert counts[0] == counts[1] == len(results["study"]["seeds"]) in (3, 5, 8, 12)
    assert counts[0] == 12 or results["rows"][1]["verdict"] != "no conclusion"
    times = {path: path.stat().st_mtime for path in tmp_path.rglob("trials/*/result.json")}
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments(tmp_path, *SMALL, "--until-decided")) == 0
    assert {path: path.stat().st_mtime for path in tmp_path.rglob("trials/*/result.json")} == times
    again = json.loads((tmp_path / "results.json").read_text())
    assert again["rows"] == results["rows"]


def kill(out: Path, options: list[str], wait_seconds: float) -> None:
    """Start the study, SIGKILL it once it trains, and see that its workers die with it."""
    process = Command(arguments(out, *options))
    trials = out / "trials"
    deadline = time.monotonic() + 60
    before = set(trials.rglob("*")) if trials.exists() else set()
    while time.monotonic() < deadline and process.poll() is None:
        if trials.exists() and set(trials.rglob("*")) != before:
            break  # training has begun; killing the imports would show little
        time.sleep(0.05)
    time.sleep(wait_seconds)
    assert process.poll() is None, "the study ended before the kill: wait less or make it longer"
    process.signal(signal.SIGKILL)
    process.wait(60)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("workers outlived a killed study")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_killed_and_restarted_the_results_are_identical(undisturbed, tmp_path):
    kill(tmp_path, SMALL, 0.1)
    code, errors = run(tmp_path, *SMALL)
    assert code == 0, errors
    assert figures(tmp_path) == figures(undisturbed[0])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_killed_at_ten_random_moments_and_restarted_the_results_are_identical(tmp_path):
    longer = [*SMALL[:-1], "40"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, *longer)[0] == 0
    rng = random.Random(10)
    unfinished = 0
    for _ in range(10):
        kill(killed, longer, rng.uniform(0, 2))
        unfinished += len(list(killed.rglob("result.json"))) < 4
    assert unfinished == 10, "the study ended before the last kill: make it longer"
    assert run(killed, *longer)[0] == 0
    assert figures(killed) == figures(whole)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes there")
def test_a_full_disk_is_one_line_and_keeps_what_was_finished(tmp_path):
    code, errors = run(tmp_path, "--steps", "gelu", "--seeds", "1", "--epochs", "1", largest_file=200)
    assert code == 1
    *saves, result = errors.strip().splitlines()
    assert len(saves) == 1, "a save that fails is said once"
    assert saves[0].startswith("nextify: warning: cannot save a checkpoint in ")
    assert "cannot write" in result
    assert "make room and run the same command again" in result


def test_a_disk_without_room_for_a_training_is_named_once_with_one_remedy(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("nextify.training.run.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    events: list[Event] = []
    (planned,) = make_plan(roadmap("resnet50"), scale("tiny"), digits, DATA, steps="gelu", seeds=1, epochs=1).trials
    run_job(Job("a", planned.trial, digits, tmp_path), Runtime(), events.append)
    stopped = events[-1]
    assert isinstance(stopped, Stopped)
    assert stopped.error.startswith(f"{tmp_path} has room for 1,000 bytes, but ")
    assert stopped.error.endswith(": free some space, or choose another --out; finished trials are kept")


def test_where_no_network_can_be_probed_the_reason_is_one_line(tmp_path, monkeypatch, capsys):
    class Unable(Engine):
        def close(self):
            pass

        def run(self, jobs, on_event):
            for job in jobs:
                on_event(Failed(job.key, "CUDA out of memory"))

    monkeypatch.setattr("nextify.cli.study.chosen_engine", lambda *given: Unable(Runtime(), 1))
    assert main(["roadmap", "--steps", "baseline", "gelu", "--seeds", "1", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err.strip()
    assert said == "nextify: none of 2 networks can take a step of training: CUDA out of memory"


def no_images(root: Path) -> None:
    (root / "train" / "cat").mkdir(parents=True)


def one_class(root: Path) -> None:
    for i in range(20):
        save_noise(root / "cat" / f"{i}.png", i, (16, 16))


def unreadable(root: Path) -> None:
    for i in range(40):
        save_noise(root / ("cat" if i % 2 else "dog") / f"{i}.png", i, (16, 16))
    (root / "cat" / "broken.png").write_bytes(b"this is text")


def class_only_in_val(root: Path) -> None:
    for i in range(40):
        save_noise(root / "train" / ("cat" if i % 2 else "dog") / f"{i}.png", i, (16, 16))
    for i, name in enumerate(("cat", "dog", "fox")):
        save_noise(root / "val" / name / "0.png", 100 + i, (16, 16))


@pytest.mark.parametrize(
    ("make", "words"),
    [(no_images, "no"), (one_class, "class"), (unreadable, "broken.png"), (class_only_in_val, "fox")],
)
def test_bad_folders_are_one_clear_line(tmp_path, make, words, capsys):
    make(tmp_path / "images")
    code = main(["roadmap", "--data", str(tmp_path / "images"), "--out", str(tmp_path / "out"), "--device", "cpu"])
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert len(error.splitlines()) == 1
    assert words in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seeds", "0"], "--seeds must be 1 or more"),
        (["--steps", "gelo"], "no step 'gelo'"),
        (["--data", "/no/such/folder"], "/no/such/folder"),
        (["--epochs", "0"], "epochs"),
        (["--max-hours", "1"], "--until-decided"),
        (["--until-decided", "--seeds", "1"], "--seeds 2 or more"),
    ],
)
def test_bad_options_are_one_clear_line(tmp_path, options, words, capsys):
    code = main(["roadmap", "--out", str(tmp_path), "--device", "cpu", *options])
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert len(error.splitlines()) == 1
    assert words in error
