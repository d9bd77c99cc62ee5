"""Experiment trackers: what ``log.jsonl`` says of each epoch, told to TensorBoard, Weights & Biases or Trackio too.

Each is optional and of an extra of the same name: ``pip install 'nextify[tensorboard]'``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from nextify.system.several import several

PROJECT = "nextify"


class MissingTracker(ImportError):
    """A tracker's package is not installed; the message names the command that installs it."""


class Tracker(Protocol):
    """Where figures go."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Figures after optimizer step ``step`` (counted from 1)."""

    def close(self) -> None:
        """Everything logged has arrived."""


class TensorBoard:
    """Event files in ``FOLDER/tensorboard``: ``tensorboard --logdir OUT``."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, object], first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an earlier run logged after the checkpoint that this one starts from is taken back.
        purge = first_step + 1 if first_step else None
        made: Any = SummaryWriter  # untyped
        self.writer = made(str(folder / "tensorboard"), purge_step=purge)
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
    """Weights & Biases or Trackio, which has the same interface; one run a training, also over resumptions."""

    def __init__(self, module: str, folder: Path, name: str, config: Mapping[str, object]) -> None:
        from importlib import import_module

        self.module = module
        library = import_module(module)
        where = {"dir": str(folder), "id": name} if module == "wandb" else {}
        self.run = library.init(project=PROJECT, name=name, config=dict(config), resume="allow", **where)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()

    def __str__(self) -> str:
        return self.module


Open = Callable[[Path, str, Mapping[str, object], int], Tracker]
TRACKERS: dict[str, Open] = {
    "tensorboard": TensorBoard,
    "wandb": lambda folder, name, config, _: Hosted("wandb", folder, name, config),
    "trackio": lambda folder, name, config, _: Hosted("trackio", folder, name, config),
}


def check_trackers(names: str | Sequence[str]) -> None:
    """Raises ``MissingTracker`` for one that is not installed, ``ValueError`` for one that is not known."""
    for name in several(names):
        if name not in TRACKERS:
            raise ValueError(f"--track {name}: not known; there are {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise MissingTracker(f"--track {name} needs a package: pip install 'nextify[{name}]'")


def open_trackers(
    names: str | Sequence[str], folder: Path, name: str, config: Mapping[str, object], first_step: int
) -> list[Tracker]:
    """A tracker for each of ``names``.

    Args:
        folder: of the training.
        name: of the run; the same for a resumed training.
        config: what is trained, plain data.
        first_step: optimizer steps that are done already.
    """
    names = several(names)
    check_trackers(names)
    return [TRACKERS[tracker](folder, name, config, first_step) for tracker in dict.fromkeys(names)]
