"""What the engines of clusters share: trials whose worker or machine dies are started again and go on from their
checkpoints, each by one process at a time, which holds a lease on the trial's folder.
"""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from nextify.paper.design import InertChoice
from nextify.study.engine import Advanced, Engine, EngineError, Event, Failed, Job, OnEvent, Started, Stopped, run_job
from nextify.system.allocator import give_back_freed_memory, keep_freed_memory
from nextify.system.lease import leased
from nextify.training.trial import Runtime

LOSSES = 5
"""Workers that a trial may lose one after the other without getting further."""
GIVEN_UP = 3
"""Trials given up for that, after which the study ends."""
Sent = dict[str, Any]
"""A job as it is handed over: its fields but for the images, which go once to each node."""


def as_sent(job: Job) -> Sent:
    folder = None if job.folder is None else job.folder.absolute()
    return {**vars(job), "images": None, "folder": folder}


class Lost:
    """Outcome of a job whose worker ended without one."""


@dataclass
class _Course:
    """How far a job has come, and how often its worker was lost there."""

    furthest: int = -1
    at_loss: int = -2
    losses: int = 0
    told: bool = False

    def lost(self) -> int:
        """Count a loss; returns those since the job last got further."""
        self.losses = 1 if self.furthest > self.at_loss else self.losses + 1
        self.at_loss = self.furthest
        return self.losses


class ClusterEngine(Engine):
    """Where jobs are handed to a cluster and looked after."""

    capacity: int
    """Jobs that are handed over at a time."""
    logs = "of the cluster"
    """Where a user finds out why workers are lost."""

    def __init__(self, runtime: Runtime, side_by_side: int) -> None:
        super().__init__(runtime, side_by_side)
        self._running: dict[Any, Job] = {}

    @abstractmethod
    def _hand_over(self, jobs: Sequence[Job]) -> Sequence[Any]:
        """A handle for each job, that can be a key. Raises ``EngineError``."""

    @abstractmethod
    def _look(self, on_event: OnEvent) -> Iterator[tuple[Any, Event | Lost]]:
        """Wait a moment, pass progress on, and give the outcomes of jobs that have ended. Raises ``EngineError``."""

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> None:
        """Run all jobs; one whose worker dies is handed over again. Raises ``EngineError`` where the cluster refuses
        jobs, files cannot be written, or workers die one after the other."""
        waiting, given_up = list(jobs), 0
        courses = {job.key: _Course() for job in jobs}

        def advanced(event: Event) -> None:
            course = courses.get(event.key)
            if course is None or all(job.key != event.key for job in self._running.values()):
                return  # of an earlier run, or late
            if not course.told:
                course.told = True
                on_event(Started(event.key))
            if isinstance(event, Advanced):
                course.furthest = max(course.furthest, event.progress.step)
                on_event(event)

        while waiting or self._running:
            if (room := self.capacity - len(self._running)) > 0 and waiting:
                batch, waiting = waiting[:room], waiting[room:]
                self._running |= dict(zip(self._hand_over(batch), batch, strict=True))
            for handle, outcome in list(self._look(advanced)):
                job = self._running.pop(handle)
                if not isinstance(outcome, Lost):
                    on_event(outcome)
                    if isinstance(outcome, Stopped):
                        raise EngineError(outcome.error)
                elif courses[job.key].lost() < LOSSES:
                    waiting.append(job)
                else:
                    given_up += 1
                    on_event(Failed(job.key, f"its worker was lost {LOSSES} times without getting further"))
                    if given_up >= GIVEN_UP or job.folder is None:
                        raise EngineError(
                            f"workers are lost one after the other; too little memory for each? See the logs "
                            f"{self.logs}"
                        )


def run_held(job: Job, runtime: Runtime, on_event: Callable[[Event], None]) -> Event:
    """Run a job in this process, which holds its folder on a shared disk meanwhile; progress goes to ``on_event``.

    Returns:
        What became of it, told only now that the folder is free.
    """
    keep_freed_memory()
    give_back_freed_memory()
    outcome: list[Event] = []
    with ExitStack() as held, warnings.catch_warnings():
        warnings.simplefilter("ignore", InertChoice)  # what a study combines is not its user's choice
        lease = None
        if job.folder is not None:
            try:
                job.folder.mkdir(parents=True, exist_ok=True)
                lease = held.enter_context(leased(job.folder, wait=True))
            except OSError as error:
                return Stopped(job.key, f"cannot write {job.folder}: {error.strerror or error}")

        def passed_on(event: Event) -> None:
            if isinstance(event, Started | Advanced):
                if lease is not None:
                    lease.check()
                on_event(event)
            else:
                outcome.append(event)

        run_job(job, runtime, passed_on)
    return outcome[-1]
