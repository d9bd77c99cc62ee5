"""Runs trials on this machine, several side by side, each in a process of its own that lives for the whole study.

Small networks are bound by overhead, so one thread each for as many trials as there are cores beats all threads for one
(benchmarks/side_by_side.py). A worker that dies takes only its trial with it; a dead parent takes its workers along.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextify.study.store import save_result
from nextify.training.trial import Runtime, Trial

if TYPE_CHECKING:
    from nextify.data import Images


class EngineError(RuntimeError):
    """The study cannot go on; what was finished is kept and the message names the remedy."""


@dataclass(frozen=True)
class Job:
    """A trial to run in ``folder``, or to probe where there is none."""

    key: str
    trial: Trial
    folder: Path | None


@dataclass(frozen=True)
class Event:
    """What a worker reports: ``started``, ``progress``, ``done``, ``failed`` (the trial) or ``stopped`` (the disk)."""

    kind: str
    key: str
    values: dict[str, Any]


OnEvent = Callable[[Event], None]


class LocalEngine:
    """A pool of worker processes. Use it as a context manager; leaving it ends the workers."""

    def __init__(self, images: Images, runtime: Runtime, side_by_side: int) -> None:
        self.images, self.runtime, self.side_by_side = images, runtime, side_by_side
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; a running trial keeps its last checkpoint."""
        for connection, process in self._workers.items():
            connection.close()
            process.terminate()
        for process in self._workers.values():
            process.join(5)
        self._workers.clear()

    def _start_worker(self) -> Connection:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self.images, self.runtime)
        process = self._context.Process(target=_worker, args=arguments, daemon=True)
        # Read by the OpenMP runtime when the child loads it: spinning threads would steal from the trial beside.
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = str(self.runtime.threads)
        try:
            process.start()
        finally:
            if before is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = before
        theirs.close()
        self._workers[ours] = process
        return ours

    def run(self, jobs: Sequence[Job], on_event: OnEvent) -> None:
        """Run all jobs; every event reaches ``on_event`` in this process.

        Raises:
            EngineError: a worker could not write its files, or workers die one after the other.
        """
        waiting = list(jobs)
        running: dict[Connection, Job] = {}
        deaths = 0
        while len(self._workers) < min(self.side_by_side, len(waiting)):
            self._start_worker()
        idle = list(self._workers)
        while waiting or running:
            while waiting and idle:
                connection, job = idle.pop(0), waiting.pop(0)
                connection.send(job)
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
                    values = {"error": f"its process ended with code {process.exitcode}; out of memory?"}
                    on_event(Event("failed", job.key, values))
                    if deaths >= 3 or (job.folder is None):
                        message = f"trials end with code {process.exitcode}; too little memory for {self.side_by_side}"
                        raise EngineError(
                            f"{message} side by side? Try --side-by-side 1 or a smaller --scale"
                        ) from None
                    idle.append(self._start_worker())
                    continue
                if event.kind in ("done", "failed", "stopped"):
                    idle.append(connection)
                    del running[connection]
                on_event(event)
                if event.kind == "stopped":
                    raise EngineError(event.values["error"])


def _worker(connection: Connection, images: Images, runtime: Runtime) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=_die_with_parent, daemon=True).start()
    from nextify.system.allocator import keep_freed_memory
    from nextify.training.loop import TrainingDiverged, probe, train

    keep_freed_memory()

    def report(kind: str, job: Job, **values: Any) -> None:
        connection.send(Event(kind, job.key, values))

    while True:
        try:
            job: Job = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if job.folder is None:
                report("done", job, **probe(job.trial, images, runtime))
                continue
            job.folder.mkdir(parents=True, exist_ok=True)
            report("started", job)

            def progress(values: dict[str, Any], job: Job = job) -> None:
                report("progress", job, **values)

            result = train(job.trial, images, runtime, job.folder, progress).to_dict()
            result["peak_memory_mib"] = _peak_memory_mib()
            save_result(job.folder, job.trial.fingerprint, result)
            report("done", job, **result)
        except BrokenPipeError:
            return
        except TrainingDiverged as error:
            report("failed", job, error=str(error))
        except OSError as error:
            where = error.filename or job.folder
            reason = f"cannot write {where}: {error.strerror or error}"
            report(
                "stopped", job, error=f"{reason}; make room and run the same command again, finished trials are kept"
            )
        except Exception as error:
            report("failed", job, error=f"{type(error).__name__}: {error}")


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)


def _peak_memory_mib() -> int | None:
    """Most memory this process has held, MiB."""
    with suppress(ImportError):
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // (2**20 if sys.platform == "darwin" else 2**10)
    return None
