"""What a running training or study shows: bars and the time left, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from typing import Self, assert_never

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from nextify.report.text import duration
from nextify.study.engine import Advanced, Done, Event, Failed, Probed, Started
from nextify.study.study import StudyEstimate, Trainings
from nextify.training import loop


class _Bars:
    """Bars with a percentage and a text at their right; nothing where there is no terminal. A context manager."""

    def __init__(self, console: Console, title: str) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[right]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.overall = self.add(title)

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def add(self, title: str) -> TaskID:
        return self.bars.add_task(title, total=1.0, right="")


class TrainingProgress(_Bars):
    """Shows how far one training is."""

    def __init__(self, console: Console, batch_size: int) -> None:
        super().__init__(console, "training")
        self.batch_size = batch_size

    def show(self, progress: loop.Progress) -> None:
        left, speed = progress.total_steps - progress.step, progress.images_per_second
        seconds = left * self.batch_size / speed if speed else None
        done = progress.step / progress.total_steps
        self.bars.update(self.overall, completed=done, right=f"{speed:,.0f} images/s, {duration(seconds)} left")


class StudyProgress(_Bars):
    """Shows the events of a study: a bar for the whole, one for each running trial, and a line when it ends."""

    def __init__(self, console: Console, study: Trainings, estimate: StudyEstimate) -> None:
        self.study, self.estimate = study, estimate
        self.names = {p.folder: f"{p.step}, seed {p.trial.seed}" for p in study.plan.trials}
        self.open = {p.folder: 0.0 for p in study.open_trials}  # share done of each
        self.total = len(study.plan.trials)
        self.started = time.monotonic()
        self.tasks: dict[str, TaskID] = {}
        super().__init__(console, f"[bold]{self.total} trainings")

    def seconds_left(self) -> float:
        """From the probe's estimate, corrected by how far the work done so far went from it."""
        expected = self.estimate.trial_seconds
        together = max(1, min(self.study.side_by_side, sum(share < 1 for share in self.open.values())))
        left = sum(expected.get(f, 0.0) * (1 - share) for f, share in self.open.items()) / together
        done = sum(expected.get(f, 0.0) * share for f, share in self.open.items()) / self.study.side_by_side
        spent = time.monotonic() - self.started
        return left * (spent / done if done > 5 else 1.0)

    def on_event(self, event: Event) -> None:
        match event:
            case Started(key):
                self.tasks[key] = self.add(f"  {self.names[key]}")
            case Advanced(key, progress):
                self.open[key] = progress.step / progress.total_steps
                right = f"{progress.images_per_second:,.0f} images/s"
                self.bars.update(self.tasks[key], completed=self.open[key], right=right)
            case Done(key, result):
                self._ended(
                    key,
                    f"[bold]{result.top1:.2f} %[/] in {duration(result.seconds)} "
                    f"({result.images_per_second:,.0f} images/s), ",
                )
            case Failed(key, error):
                self._ended(key, f"[red]failed[/], {error}; ")
            case Probed():
                pass
            case unknown:
                assert_never(unknown)
        done = sum(self.open.values()) + self.total - len(self.open)
        self.bars.update(self.overall, completed=done / self.total, right=f"{duration(self.seconds_left())} left")

    def _ended(self, key: str, outcome: str) -> None:
        self.open[key] = 1.0
        if key in self.tasks:
            self.bars.remove_task(self.tasks.pop(key))
        finished = sum(share == 1.0 for share in self.open.values()) + self.total - len(self.open)
        left = f"{duration(self.seconds_left())} left"
        self.console.print(f"[dim]{finished:>3}/{self.total}[/] {self.names[key]}: {outcome}{left}", highlight=False)
