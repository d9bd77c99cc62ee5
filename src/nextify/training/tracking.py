"""Experiment trackers: TensorBoard, Weights & Biases or Trackio get what ``log.jsonl`` says of each epoch.

Each is optional and has an extra of its name: ``pip install 'nextify[tensorboard]'``.
"""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from nextify.system.text import several

TRACKERS = ("tensorboard", "wandb", "trackio")


class MissingTracker(ImportError):
    """A tracker's package is not installed; the message names the command that installs it."""


class Tracker(Protocol):
    """Receives the figures of a training."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record figures after optimizer step ``step``, counted from 1."""

    def close(self) -> None:
        """Wait until everything logged has arrived."""


class TensorBoard:
    """Event files in ``FOLDER/tensorboard``; view them with ``tensorboard --logdir OUT``."""

    def __init__(self, folder: Path, config: Mapping[str, object], first_step: int) -> None:
        made: Any = import_module("torch.utils.tensorboard").SummaryWriter
        # A resumed run discards what an earlier one logged after the checkpoint.
        self.writer = made(str(folder / "tensorboard"), purge_step=first_step + 1 if first_step else None)
        if not first_step:
            self.writer.add_text("config", f"```json\n{json.dumps(config, indent=1)}\n```")

    def log(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()

    def __str__(self) -> str:
        return "tensorboard"


class Hosted:
    """Weights & Biases or Trackio, which share an interface; a resumed training continues its run."""

    def __init__(self, module: str, folder: Path, name: str, config: Mapping[str, object]) -> None:
        self.module = module
        where = {"dir": str(folder), "id": name} if module == "wandb" else {}
        library = import_module(module)
        self.run = library.init(project="nextify", name=name, config=dict(config), resume="allow", **where)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()

    def __str__(self) -> str:
        return self.module


def check_trackers(names: str | Sequence[str]) -> None:
    """Raises ``MissingTracker`` for one that is not installed and ``ValueError`` for an unknown one."""
    for name in several(names):
        if name not in TRACKERS:
            raise ValueError(f"--track {name}: not known; there are {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise MissingTracker(f"--track {name} needs a package: pip install 'nextify[{name}]'")


def open_trackers(
    names: str | Sequence[str], folder: Path, name: str, config: Mapping[str, object], first_step: int
) -> list[Tracker]:
    """Open each of the trackers once, for the training in ``folder``: its ``name``, the same once resumed, what is
    trained as plain data, and the optimizer steps that are done already."""
    names = several(names)
    check_trackers(names)
    return [
        TensorBoard(folder, config, first_step) if tracker == "tensorboard" else Hosted(tracker, folder, name, config)
        for tracker in dict.fromkeys(names)
    ]
