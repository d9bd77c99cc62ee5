"""Progress of reading images, of a run or a study (bars on a terminal, lines elsewhere), and how one is stopped."""

import math
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self, assert_never

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn

from nextify.cli.options import Reading
from nextify.data import Images, open_images
from nextify.data.dense.annotations import DenseTask
from nextify.data.images import check_images
from nextify.data.source import LabelTask
from nextify.data.sources.parts import Tested
from nextify.report.text import duration, rate
from nextify.study.engine import Advanced, Done, Event, Failed, Probed, Started
from nextify.study.study import StudyEstimate, Trainings
from nextify.system import processes
from nextify.tasks.metric_specs import summary
from nextify.training import loop
from nextify.training.learned import AnyImages, metric_specs
from nextify.training.prepare import Prepared
from nextify.training.probe import PLANNED_SHARE
from nextify.training.train import Source
from nextify.weights.bundle import chosen_bands


class Bars(Progress):
    """Bars with these columns; nothing where there is no terminal."""

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)


class _TitledBars(Bars):
    """Bars with a percentage and a text at their right."""

    def __init__(self, console: Console, title: str) -> None:
        percentage = TextColumn("{task.percentage:>3.0f} %")
        right = TextColumn("{task.fields[right]}")
        super().__init__(console, TextColumn("{task.description}"), BarColumn(bar_width=30), percentage, right)
        self.overall = self.add(title)

    def add(self, title: str) -> TaskID:
        return self.add_task(title, total=1.0, right="")


LINE_SECONDS = 60.0
"""Longest time without a line where there is no terminal; epochs have theirs, at most one a second."""
LATE = 1.1
"""Times the minutes asked for from which a run is reported to take longer."""
JUDGED = 0.4
"""Share of the minutes after which that is judged even if no epoch has ended."""
EARLY, LATEST = 0.1, 1 / 3
"""Shares of the minutes: the time after which a run is judged, once, and may be replaced by one with fewer epochs; and
the most that may have passed by then since the command began."""


class TrainingProgress(_TitledBars):
    """Shows the progress of one run, and finds out early or says once that ``--minutes`` will not hold."""

    def __init__(self, console: Console, prepared: Prepared, began: float, shorten: bool = False) -> None:
        """The minutes count from ``began``, a reading of ``time.monotonic``. ``shorten``: set ``epochs`` where they
        will not hold and this is found out early."""
        super().__init__(console, "training")
        self.shorten, self.steps_per_epoch = shorten, prepared.steps_per_epoch if shorten else 0
        self.epochs: int | None = None  # that fit into what is left of the minutes, where this run should stop
        self.trial = prepared.trial
        self.recipe, self.minutes, self.began = prepared.trial.recipe, prepared.request.minutes, began
        self.first: tuple[int, float] | None = None  # step and time of the first report
        self.line_at = time.monotonic()

    def show(self, progress: loop.Progress) -> None:
        now, left = time.monotonic(), progress.total_steps - progress.step
        speed = progress.images_per_second
        seconds = left * self.recipe.batch_size / speed if speed else None
        done = progress.step / progress.total_steps
        right = f"{rate(speed)} images/s, {duration(seconds)} left"
        self.update(self.overall, completed=done, right=right)
        least = LINE_SECONDS if progress.entry is None else 1.0
        ends = progress.entry is not None and (progress.entry["epoch"] == 1 or not left)
        if not self.console.is_terminal and (ends or now - self.line_at > least):
            self.line_at = now
            self.console.print(f"{self._place(progress)}, {right}", soft_wrap=True)
        if self.first is None:
            self.first = progress.step, now
        elif self.minutes is not None:
            asked, spent, (step, began) = 60 * self.minutes, now - self.began, self.first
            early = self.shorten and now - began > EARLY * asked
            if not (early or progress.entry is not None or now - began > JUDGED * asked):
                return
            self.shorten = self.shorten and not early
            step_seconds = (now - began) / (progress.step - step)
            expected = spent + left * step_seconds
            if expected <= LATE * asked or self.console.quiet:
                return
            if early and spent < LATEST * asked:
                epochs = int(PLANNED_SHARE * (asked - spent) / (step_seconds * self.steps_per_epoch))
                self.epochs = epochs if 1 <= epochs < self.recipe.epochs else None
            elif not self.shorten:
                print(
                    f"nextify: warning: this run will take about {duration(expected)}, not {self.minutes:g} "
                    f"minutes, as the machine is slower than measured",
                    file=sys.stderr,
                )
                self.minutes = None

    def _place(self, progress: loop.Progress) -> str:
        entry = progress.entry
        if entry is None:
            return f"step {progress.step:,} of {progress.total_steps:,}"
        test = {key[5:]: value for key, value in entry.items() if key.startswith("test_") and value is not None}
        tested = f", {summary(metric_specs(self.trial), test)}" if test else ""
        return f"epoch {entry['epoch']} of {self.recipe.epochs}: loss {entry['train_loss']:.4g}{tested}"


class StudyProgress(_TitledBars):
    """Shows the events of a study: a bar for the whole, one for each running trial, and a line when it ends."""

    def __init__(self, console: Console, study: Trainings, estimate: StudyEstimate) -> None:
        self.study, self.estimate = study, estimate
        self.metric = metric_specs(study.plan.trials[0].trial)[0]
        self.names = {p.folder: f"{p.step}, seed {p.trial.seed}" for p in study.plan.trials}
        self.shares = {p.folder: 0.0 for p in study.open_trials}  # share done of each
        self.resumed: dict[str, float] = {}  # share done of each when it was first heard of
        self.total = len(study.plan.trials)
        self.started = time.monotonic()
        self.bars: dict[str, TaskID] = {}
        super().__init__(console, f"[bold]{self.total} runs")

    def seconds_left(self) -> float:
        """From the probe's estimate, corrected by how far the work done so far went from it."""
        expected = self.estimate.trial_seconds
        together = max(1, min(self.study.side_by_side, sum(share < 1 for share in self.shares.values())))
        left = sum(expected.get(f, 0.0) * (1 - share) for f, share in self.shares.items()) / together
        own = ((f, share - self.resumed.get(f, 0.0)) for f, share in self.shares.items())
        done = sum(expected.get(f, 0.0) * share for f, share in own) / self.study.side_by_side
        spent = time.monotonic() - self.started
        return left * (spent / done if done > 5 else 1.0)

    def on_event(self, event: Event) -> None:
        match event:
            case Started(key):
                self.bars[key] = self.add(f"  {self.names[key]}")
            case Advanced(key, progress):
                self.shares[key] = progress.step / progress.total_steps
                self.resumed.setdefault(key, self.shares[key])
                right = f"{rate(progress.images_per_second)} images/s"
                self.update(self.bars[key], completed=self.shares[key], right=right)
            case Done(key, result):
                self._ended(
                    key,
                    f"[bold]{result.metrics[self.metric.key]:.2f} {self.metric.unit}[/] in {duration(result.seconds)} "
                    f"({rate(result.images_per_second)} images/s), ",
                )
            case Failed(key, error):
                self._ended(key, f"[red]failed[/], {escape(str(error))}; ")
            case Probed():
                pass
            case unknown:
                assert_never(unknown)
        done = sum(self.shares.values()) + self.total - len(self.shares)
        self.update(self.overall, completed=done / self.total, right=f"{duration(self.seconds_left())} left")

    def _ended(self, key: str, outcome: str) -> None:
        self.shares[key] = 1.0
        if key in self.bars:
            self.remove_task(self.bars.pop(key))
        finished = sum(share == 1.0 for share in self.shares.values()) + self.total - len(self.shares)
        left = f"{duration(self.seconds_left())} left"
        self.console.print(f"[dim]{finished:>3}/{self.total}[/] {self.names[key]}: {outcome}{left}")


INSISTS = 1.0
"""Seconds between two SIGTERMs from which the second one does not wait for anything."""


class Stopping:
    """SIGTERM and Ctrl-C ask the training to save and stop; a second Ctrl-C interrupts at once, and so does a SIGTERM
    that comes ``INSISTS`` later: ``timeout`` and others send the first one twice."""

    def __init__(self) -> None:
        self._asked_at = math.inf
        self._before: dict[int, Any] = {}

    def asked(self) -> bool:
        return self._asked_at < math.inf

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        now = time.monotonic()
        insists = now > self._asked_at + INSISTS and processes.count() == 1  # torchrun has patience of its own
        if self.asked() and (number == signal.SIGINT or insists):
            raise KeyboardInterrupt
        self._asked_at = min(self._asked_at, now)


def read_source(
    console: Console, source: Source, cache: Path | None, weights: str | None = None, **how: Any
) -> AnyImages:
    """``source.open``, with progress."""
    with console.status("checking the images …") as status:
        return source.open(
            *(cache, weights),
            on_progress=lambda done, count: status.update(f"checked {done:,} of {count:,} images …"),
            **how,
        )


def read_any(
    console: Console,
    data: str,
    reading: Reading,
    cache: Path | None,
    task: LabelTask | DenseTask | None,
    ignore_index: int | None = None,
    **how: Any,
) -> AnyImages:
    """Open the images of ``--data``, annotated for whichever task, with progress. ``task``: what to learn, where the
    data itself does not tell; ``how``: as ``Source.open`` has it."""
    given = data, reading.split_seed, reading.channels, reading.skip_unreadable
    return read_source(console, Source(*given, task=task, ignore_index=ignore_index), cache, **how)


def read_images(
    console: Console,
    source: str,
    reading: Reading,
    cache: Path | None,
    weights: str | None = None,
    to_train: bool = True,
    tested: Tested | None = None,
    task: LabelTask | None = None,
    *,
    several: bool = False,
    without: Path | None = None,
) -> Images:
    """Open the images of ``--data``, with progress; ``several``: also those with several labels, and otherwise as
    ``open_images`` has it. The bands are those of ``weights`` where ``--channels`` names none."""
    with console.status("checking the images …") as status:
        images = open_images(
            source,
            task=task,
            split_seed=reading.split_seed,
            cache=cache,
            to_train=to_train,
            tested=tested,
            channels=reading.channels or (chosen_bands(weights) if weights else None),
            skip_unreadable=reading.skip_unreadable,
            without=without,
            on_progress=lambda done, count: status.update(f"checked {done:,} of {count:,} images …"),
        )
    check_images(images, several=several)
    return images
