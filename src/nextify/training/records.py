"""Records of a running training: checkpoints, one log line per epoch, and reports to experiment trackers.

No record may end a training that could go on: a full disk or an unreachable tracker costs that one record and one line
of warning. Bundle and result, the purpose of the training, are written at its end by ``run.py``, and there a failure is
an error.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from torch import Tensor

from nextify.system.files import write_text_atomic
from nextify.training.checkpoint import before, load_checkpoint, remove_checkpoint, remove_leftovers, save_checkpoint
from nextify.training.distributed import OptimizerState
from nextify.training.tracking import Tracker

Entry = dict[str, float | int | None]
"""One epoch: epoch, train_loss, learning_rate, and the main test metric, None where it was not measured."""
Warn = Callable[[str], None]


class State(TypedDict):
    """Everything a training needs to resume, as a checkpoint holds it; tensors are whole, not sharded."""

    fingerprint: str
    """Of the trial."""
    threads: int
    model: dict[str, Tensor]
    optimizers: list[OptimizerState]
    average: dict[str, Tensor] | None
    """The averaged weights, where the recipe averages."""
    step: int
    """Optimizer steps taken."""
    epoch_loss: float
    """Sum of the losses of the current epoch's steps."""
    curve: list[Entry]
    seconds: float
    step_seconds: list[float]


def to_stderr(message: str) -> None:
    print(f"nextify: warning: {message}", file=sys.stderr)


class Records:
    """The records of one training in its folder; without a folder, nothing is written."""

    def __init__(self, folder: Path | None, warn: Warn = to_stderr) -> None:
        self.folder, self.warn = folder, warn
        self.path = (folder or Path()) / "checkpoint.pt"
        self.trackers: list[Tracker] = []
        self.last_good: Path | None = None
        """The checkpoint from which a training that failed now would resume."""
        self._warned: set[str] = set()

    def load(self, fingerprint: str, threads: int) -> State | None:
        """The state to resume from, or None; also removes what a killed process left half-written."""
        if self.folder is None:
            return None
        path = self.path
        self._try("clean up", lambda: remove_leftovers(path))
        state: State | None = load_checkpoint(path)
        if state is None or state["fingerprint"] != fingerprint:
            if path.exists() or before(path).exists():
                self.warn(
                    f"{path} and the previous checkpoint are damaged or belong to another run: the "
                    f"training starts from step 0"
                )
            return None
        if state["threads"] != threads:
            self.warn(
                f"this run began with --threads {state['threads']} and resumes with {threads}: the last bits of "
                f"its weights may differ from those of an uninterrupted run"
            )
        self.last_good = path
        return state

    def save(self, state: State) -> bool:
        """Save a checkpoint and return whether that worked; a state with a NaN or infinite weight is not saved."""
        if self.folder is None or not all(bool(value.isfinite().all()) for value in state["model"].values()):
            return False
        saved = self._try("save a checkpoint", lambda: save_checkpoint(self.path, state))
        if saved:
            self.last_good = self.path
        return saved

    def track(self, trackers: list[Tracker]) -> None:
        """Report every epoch to ``trackers`` from now on."""
        self.trackers = trackers

    def epoch(self, entry: Entry, step: int) -> None:
        """Append the epoch to the log and report it to the trackers; ``step`` counts optimizer steps from 1."""
        if self.folder is None:
            return
        log = self.path.with_name("log.jsonl")
        self._try("write the log", lambda: _append(log, entry))
        values = {name: float(value) for name, value in entry.items() if value is not None and math.isfinite(value)}
        self._each_tracker(lambda tracker: tracker.log(values, step))

    def whole_log(self, curve: Sequence[Entry]) -> None:
        """Rewrite the log from ``curve``, so that an epoch trained again after a resume is not listed twice."""
        log = self.path.with_name("log.jsonl")
        if self.folder is not None and (curve or log.exists()):
            text = "".join(json.dumps(entry) + "\n" for entry in curve)
            self._try("write the log", lambda: write_text_atomic(log, text))

    def close(self) -> None:
        self._each_tracker(lambda tracker: tracker.close())
        self.trackers = []

    def remove_checkpoint(self) -> None:
        if self.folder is not None:
            remove_checkpoint(self.path)

    def _each_tracker(self, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self.trackers):
            try:
                call(tracker)
            except Exception as error:  # whatever another library raises
                self.trackers.remove(tracker)
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                self._warn_once(str(tracker), f"{tracker} failed ({reason}); the training goes on without it")

    def _try(self, what: str, write: Callable[[], None]) -> bool:
        try:
            write()
        except OSError as error:
            reason = error.strerror or str(error)
            self._warn_once(what, f"cannot {what} in {self.folder} ({reason}); the training goes on: make room there")
            return False
        return True

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            self.warn(message)


def _append(path: Path, entry: Entry) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
