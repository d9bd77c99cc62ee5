"""What a running study shows: a bar for the whole, a line a trial, the time left; plain lines where there is no
terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from nextify.report.text import duration
from nextify.study.engine import Event

if TYPE_CHECKING:
    from nextify.study.study import Estimate, Trainings


def bars(console: Console) -> Progress:
    """Bars with a percentage and a field ``right``; nothing where there is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[right]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class StudyProgress:
    """Shows the events of a study; a context manager."""

    def __init__(self, console: Console, study: Trainings, estimate: Estimate) -> None:
        self.console, self.study, self.estimate = console, study, estimate
        self.names = {p.folder: f"{p.step}, seed {p.trial.seed}" for p in study.plan.trials}
        self.open = {p.folder: 0.0 for p in study.open_trials}  # share done of each
        self.total = len(study.plan.trials)
        self.started = time.monotonic()
        self.tasks: dict[str, TaskID] = {}
        self.bars = bars(console)
        self.overall = self.bars.add_task(f"[bold]{self.total} trainings", total=1.0, right="")

    def __enter__(self) -> StudyProgress:
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def seconds_left(self) -> float:
        """From the probe's estimate, corrected by how far the work done so far went from it."""
        expected = self.estimate.trial_seconds
        together = max(1, min(self.study.side_by_side, sum(share < 1 for share in self.open.values())))
        left = sum(expected.get(f, 0.0) * (1 - share) for f, share in self.open.items()) / together
        done = sum(expected.get(f, 0.0) * share for f, share in self.open.items()) / self.study.side_by_side
        spent = time.monotonic() - self.started
        return left * (spent / done if done > 5 else 1.0)

    def on_event(self, event: Event) -> None:
        name = self.names[event.key]
        if event.kind == "started":
            self.tasks[event.key] = self.bars.add_task(f"  {name}", total=1.0, right="")
        elif event.kind == "progress":
            self.open[event.key] = event.values["step"] / event.values["total_steps"]
            right = f"{event.values['images_per_second']:,.0f} images/s"
            self.bars.update(self.tasks[event.key], completed=self.open[event.key], right=right)
        else:
            self.open[event.key] = 1.0
            if event.key in self.tasks:
                self.bars.remove_task(self.tasks.pop(event.key))
            self._finished(event, name)
        done = sum(self.open.values()) + self.total - len(self.open)
        left = duration(self.seconds_left())
        self.bars.update(self.overall, completed=done / self.total, right=f"{left} left")

    def _finished(self, event: Event, name: str) -> None:
        finished = sum(share == 1.0 for share in self.open.values()) + self.total - len(self.open)
        where = f"[dim]{finished:>3}/{self.total}[/]"
        if event.kind == "done":
            values = event.values
            self.console.print(
                f"{where} {name}: [bold]{values['top1']:.2f} %[/] in {duration(values['seconds'])} "
                f"({values['images_per_second']:,.0f} images/s), {duration(self.seconds_left())} left",
                highlight=False,
            )
        else:
            self.console.print(f"{where} {name}: [red]failed[/], {event.values['error']}", highlight=False)
