"""What the commands that train share: their options of where and how fast, how they stop, and how they speak."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from nextify.cli.options import Channels, Device, Kernels, SkipUnreadable, SplitSeed
from nextify.data import Images, open_images


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of every command that trains."""

    data: str = "digits"
    """digits, cifar10, hf:OWNER/NAME, or images: a folder, a .csv or .parquet list, .parquet or .tar (docs/data.md)."""
    split_seed: SplitSeed = 0
    channels: Channels = None
    skip_unreadable: SkipUnreadable = False
    device: Device = "auto"
    threads: int | None = None
    """CPU threads of each training. Default: all on a CPU, shared out over the trainings that run side by side."""
    kernels: Kernels = "auto"
    compile: bool = False
    """torch.compile the networks; on a CPU it needs a C++ compiler."""
    checkpoint_seconds: float = 20.0
    """Longest time between two checkpoints of a training."""

    def check(self) -> None:
        """Raises ``ValueError`` for a value out of range."""
        if self.checkpoint_seconds < 0:
            raise ValueError(f"--checkpoint-seconds must be 0 or more, got {self.checkpoint_seconds:g}")


def read_images(
    options: TrainingOptions, out: Path, console: Console, channels: tuple[int, int, int] | None = None
) -> Images:
    """Open the images of ``--data``, with progress; what later starts need not do again is kept in ``out``.

    ``channels`` are those to take where ``--channels`` names none.
    """
    with console.status("looking at the images …") as status:
        return open_images(
            options.data,
            split_seed=options.split_seed,
            cache=out / "cache",
            channels=options.channels or channels,
            skip_unreadable=options.skip_unreadable,
            on_progress=lambda done, count: status.update(f"looked at {done:,} of {count:,} images …"),
        )


def command_line() -> str:
    """The command as it was given, for records."""
    return shlex.join(["nextify", *sys.argv[1:]])


def say(console: Console, notes: Iterable[str]) -> None:
    """Print one note per line, indented and dim."""
    for note in notes:
        console.print(f"  · {note}", highlight=False, markup=False, style="dim", soft_wrap=True)


def plural(number: int, noun: str) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def interrupt_on_sigterm() -> None:
    """Let SIGTERM stop the command as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


class Stopping:
    """SIGTERM and the first Ctrl-C ask the training to save and stop; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def asked(self) -> bool:
        return self._asked

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
