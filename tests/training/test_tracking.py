"""Trackers are told what the log says, and none of them can end a training."""

from __future__ import annotations

import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nextify.cli import main
from nextify.training.records import Records
from nextify.training.tracking import MissingTracker, check_trackers, open_trackers

ENTRY: dict[str, float | int | None] = {"epoch": 1, "train_loss": 2.5, "learning_rate": 0.1, "test_top1": None}


class Run:
    """Stands for a run of wandb or trackio."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.logged, self.finished = settings, [], False  # type: ignore[var-annotated]

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_hosted_trackers_are_told_of_each_epoch(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    runs: list[Run] = []
    module.init = lambda **settings: runs.append(Run(**settings)) or runs[-1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    records = Records(tmp_path)
    records.track(open_trackers([name, name], tmp_path, "abc", {"seed": 0}, 0))
    records.epoch(ENTRY, 6)
    records.close()
    (run,) = runs
    assert (run.settings["name"], run.settings["resume"], run.settings["config"]) == ("abc", "allow", {"seed": 0})
    assert run.logged == [(6, {"epoch": 1.0, "train_loss": 2.5, "learning_rate": 0.1})]
    assert run.finished
    assert '"train_loss": 2.5' in (tmp_path / "log.jsonl").read_text()


def test_a_tracker_that_fails_is_let_go_with_one_line(tmp_path: Path) -> None:
    class Broken:
        def log(self, values: Any, step: int) -> None:
            raise ConnectionError("no route")

        def close(self) -> None:
            raise AssertionError("it was let go")

        def __str__(self) -> str:
            return "broken"

    said: list[str] = []
    records = Records(tmp_path, said.append)
    records.track([Broken()])
    records.epoch(ENTRY, 1)
    records.epoch(ENTRY, 2)
    records.close()
    assert said == ["broken failed (no route); the training goes on without it"]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_a_missing_tracker_is_one_line_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nextify.training.tracking.find_spec", lambda _: None)
    with pytest.raises(MissingTracker, match=r"pip install 'nextify\[wandb\]'"):
        check_trackers(["wandb"])
    assert main(["train", "convnext_atto", "--data", "digits", "--track", "tensorboard"]) == 1
    assert (
        capsys.readouterr().err == "nextify: --track tensorboard needs a package: pip install 'nextify[tensorboard]'\n"
    )


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    records = Records(tmp_path)
    records.track(open_trackers(["tensorboard"], tmp_path, "abc", {"seed": 0}, 0))
    records.epoch(ENTRY, 6)
    records.epoch({**ENTRY, "train_loss": 2.0, "test_top1": 50.0}, 12)
    records.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train_loss")] == [(6, 2.5), (12, 2.0)]
    assert [(e.step, e.value) for e in events.Scalars("test_top1")] == [(12, 50.0)]
