"""Engines run the trials of a study; the one here by this machine's processes, those of clusters in ``cluster``.

Small networks are bound by overhead, so one thread each for as many trials as there are cores beats all threads for one
(benchmarks/side_by_side.py). Each worker process lives for the whole study; one that dies takes only its trial with it,
and a dead parent takes its workers along.
"""

import multiprocessing
import os
import signal
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple, Self

from nextify.paper.design import InertChoice
from nextify.system.allocator import give_back_freed_memory, keep_freed_memory
from nextify.system.files import UnusableFolder
from nextify.system.processes import worker_context
from nextify.training.learned import AnyImages
from nextify.training.loop import Progress, TrainingDiverged
from nextify.training.probe import Speed, probe
from nextify.training.result import Result
from nextify.training.run import TrainingOutOfMemory, run_trial
from nextify.training.trainer import Start
from nextify.training.trial import Runtime, Trial


class EngineError(RuntimeError):
    """The study cannot go on; what was finished is kept and the message names the remedy."""


@dataclass(frozen=True)
class Job:
    """A trial to train on ``images`` in ``folder``, or to probe where there is no folder."""

    key: str
    trial: Trial
    images: AnyImages
    folder: Path | None = None
    name: str = ""
    """Of the design, for the bundle."""
    start: Start | None = None
    """Weights to begin with, where they come from, and their licence, as ``run_trial`` takes them."""
    start_source: str = ""
    licence: str = "yours"


class Started(NamedTuple):
    key: str


class Advanced(NamedTuple):
    key: str
    progress: Progress


class Failed(NamedTuple):
    """The job failed; the others go on."""

    key: str
    error: str


class Stopped(Failed):
    """The job failed for a reason that will stop the others too, such as a full disk."""


class Probed(NamedTuple):
    key: str
    speed: Speed


class Done(NamedTuple):
    key: str
    result: Result


Event = Started | Advanced | Probed | Done | Failed | Stopped
OnEvent = Callable[[Event], None]


class Engine(ABC):
    """Where jobs run, several side by side. Use it as a context manager; leaving it stops what still runs."""

    def __init__(self, runtime: Runtime, side_by_side: int) -> None:
        self.runtime, self.side_by_side = runtime, side_by_side

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Stop the running jobs; each keeps its last checkpoint."""

    @abstractmethod
    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> None:
        """Run all jobs; every event reaches ``on_event`` in the calling process. Raises ``EngineError``."""


def not_written(job: Job, error: OSError) -> Stopped:
    """What becomes of a job whose files cannot be written."""
    if isinstance(error, UnusableFolder):  # names the folder and the remedy itself
        return Stopped(job.key, f"{error}; finished trials are kept")
    reason = f"cannot write {error.filename or job.folder}: {error.strerror or error}"
    return Stopped(job.key, f"{reason}; make room and run the same command again, finished trials are kept")


def run_job(job: Job, runtime: Runtime, on_event: OnEvent) -> None:
    """Train or probe in this process, and report every outcome as an event; only a broken pipe is raised."""
    try:
        if job.folder is None:
            on_event(Probed(job.key, probe(job.trial, job.images, runtime)))
            return
        on_event(Started(job.key))

        def advanced(progress: Progress) -> None:
            on_event(Advanced(job.key, progress))

        result = run_trial(
            *(job.trial, job.images, runtime, job.folder, advanced),
            name=job.name,
            start=job.start,
            start_source=job.start_source,
            licence=job.licence,
        )
        on_event(Done(job.key, result))
    except BrokenPipeError:
        raise
    except (TrainingDiverged, TrainingOutOfMemory) as error:
        on_event(Failed(job.key, str(error)))
    except OSError as error:
        on_event(not_written(job, error))
    except Exception as error:
        on_event(Failed(job.key, f"{type(error).__name__}: {error}"))


class LocalEngine(Engine):
    """A pool of worker processes."""

    def __init__(self, runtime: Runtime, side_by_side: int) -> None:
        super().__init__(runtime, side_by_side)
        self._context = worker_context("nextify.study.engine")
        self._workers: dict[Connection, BaseProcess] = {}
        self._images: AnyImages | None = None
        """What every worker has got at its start, the images of the first job."""

    def close(self) -> None:
        for connection, process in self._workers.items():
            connection.close()
            process.terminate()
        for process in self._workers.values():
            process.join(5)
        self._workers.clear()

    def _start_worker(self) -> Connection:
        ours: Connection
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_worker, args=(theirs, self._images, self.runtime), daemon=True)
        # Read by the OpenMP runtime that the workers' server loads: spinning threads would steal from the trial beside.
        with _environment_variable("OMP_NUM_THREADS", str(self.runtime.threads)):
            process.start()
        theirs.close()
        self._workers[ours] = process
        return ours

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> None:
        """Run all jobs. Images that are not those of the first job of this engine are sent with their job. Raises
        ``EngineError`` where a worker could not write its files, or workers die one after the other."""
        waiting = list(jobs)
        running: dict[Connection, Job] = {}
        deaths = 0
        if self._images is None and jobs:
            self._images = jobs[0].images
        while len(self._workers) < min(self.side_by_side, len(waiting)):
            self._start_worker()
        idle = list(self._workers)
        while waiting or running:
            while waiting and idle:
                connection, job = idle.pop(0), waiting.pop(0)
                same = job.images is self._images
                connection.send({**vars(job), "images": None} if same else vars(job))
                running[connection] = job
            for connection in [c for c in wait(list(running)) if isinstance(c, Connection)]:
                job = running[connection]
                try:
                    event: Event = connection.recv()
                except (EOFError, OSError):
                    del running[connection]
                    process = self._workers.pop(connection)
                    process.join(5)
                    deaths += 1
                    on_event(Failed(job.key, f"its process ended with code {process.exitcode}; out of memory?"))
                    if deaths >= 3 or job.folder is None:
                        raise EngineError(
                            f"trials end with code {process.exitcode}; too little memory for {self.side_by_side} side "
                            f"by side? Try --side-by-side 1 or a smaller --scale"
                        ) from None
                    idle.append(self._start_worker())
                    continue
                if not isinstance(event, Started | Advanced):
                    idle.append(connection)
                    del running[connection]
                on_event(event)
                if isinstance(event, Stopped):
                    raise EngineError(event.error)


@contextmanager
def _environment_variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _worker(connection: Connection, images: AnyImages, runtime: Runtime) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=_die_with_parent, daemon=True).start()
    keep_freed_memory()
    warnings.simplefilter("ignore", InertChoice)  # what a study combines is not its user's choice
    while True:
        try:
            job = connection.recv()
            give_back_freed_memory()
            run_job(Job(**{**job, "images": job["images"] or images}), runtime, connection.send)
        except (EOFError, OSError):
            return


def _die_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        wait([parent.sentinel])
    os._exit(1)
