"""Trials as jobs of Slurm, in arrays, through submitit. The study's folder must be on a disk that all nodes share.

A job that is preempted, or whose time ends, asks Slurm to queue it again, and its trial goes on from its checkpoint;
one that is lost is submitted again. Jobs tell how far they are by files in the folder, and read their images there.
"""

import contextlib
import pickle
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nextify.study.cluster import ClusterEngine, Lost, Sent, as_sent, run_held
from nextify.study.cluster_options import ClusterUnavailable, check_engine, minutes
from nextify.study.engine import Advanced, EngineError, Event, Job, OnEvent, Started
from nextify.system.files import make_folder, write_bytes_atomic
from nextify.training.trial import Runtime

LOOK_SECONDS = 0.5
ASK_SECONDS = 15.0
"""Between two questions to Slurm for the states of all jobs."""
SHOW_SECONDS = 2.0
"""Between two reports of a trial's progress, each of which is a file."""
MINUTES = 60
"""Of a job, where ``time`` is not given. A trial that needs more is queued again and goes on."""
REQUEUES = 1000
"""Times that a job may reach the end of its time."""


class SlurmEngine(ClusterEngine):
    """
    Args:
        runtime: its ``device`` may be ``auto``: CUDA where ``options`` ask for GPUs.
        side_by_side: jobs of an array that run at a time.
        root: of the study.
        options: of sbatch's, by name.
        cluster: ``slurm``, or another of submitit's executors, such as ``local``.

    Raises:
        MissingEngine: submitit is not installed.
        ClusterUnavailable: there is no Slurm here.
    """

    capacity = sys.maxsize  # Slurm holds the queue

    def __init__(
        self,
        runtime: Runtime,
        side_by_side: int,
        root: Path,
        options: Mapping[str, str] | None = None,
        cluster: str = "slurm",
    ) -> None:
        check_engine("slurm")
        import submitit

        options = dict(options or {})
        asks_for_gpus = any(name in options for name in ("gres", "gpus-per-node"))
        device = "cpu" if runtime.device == "cpu" or (runtime.device == "auto" and not asks_for_gpus) else "cuda"
        if device == "cuda" and not asks_for_gpus:
            options["gpus-per-node"] = "1"
        super().__init__(replace(runtime, device=device), side_by_side)
        self._slurm = cluster == "slurm"
        self._folder = root.absolute() / "slurm" / time.strftime("%Y%m%d-%H%M%S")
        self.logs = f"in {self._folder}"
        make_folder(self._folder)
        try:
            self._executor = submitit.AutoExecutor(self._folder, cluster=cluster, slurm_max_num_timeout=REQUEUES)
            self._executor.update_parameters(
                name="nextify",
                timeout_min=minutes(options.pop("time", str(MINUTES))),
                cpus_per_task=runtime.threads,
                slurm_array_parallelism=side_by_side,
                slurm_additional_parameters={"requeue": True, **options},
            )
        except RuntimeError as error:
            raise ClusterUnavailable(f"--engine slurm needs a machine that can submit jobs: {error}") from error
        self._numbers = 0
        self._files: dict[Any, Path] = {}
        self._seen: dict[Any, int] = {}
        self._images: dict[int, tuple[Any, Path]] = {}
        self._asked_at = time.monotonic()
        self._lost = False

    def close(self) -> None:
        for job in self._running:
            with contextlib.suppress(Exception):
                job.cancel(check=False)
        if not self._running and not self._lost:  # otherwise its logs may be wanted
            shutil.rmtree(self._folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self._folder.parent.rmdir()
        self._running.clear()

    def _hand_over(self, jobs: Sequence[Job]) -> Sequence[Any]:
        tasks = []
        for job in jobs:
            if id(job.images) not in self._images:
                path = self._folder / f"images-{len(self._images)}.pickle"
                write_bytes_atomic(path, pickle.dumps(job.images))
                self._images[id(job.images)] = job.images, path
            self._numbers += 1
            events = self._folder / f"{self._numbers}.event"
            tasks.append((as_sent(job), self._images[id(job.images)][1], self.runtime, events))
        try:
            handles = self._executor.map_array(SlurmTask(), *zip(*tasks, strict=True))
        except Exception as error:  # sbatch's refusals come in several classes
            reason = " ".join(str(error).split())
            raise EngineError(f"Slurm takes no jobs: {reason}") from error
        self._files |= {handle: task[-1] for handle, task in zip(handles, tasks, strict=True)}
        return list(handles)

    def _look(self, on_event: OnEvent) -> Iterator[tuple[Any, Event | Lost]]:
        time.sleep(LOOK_SECONDS)
        if self._slurm and time.monotonic() - self._asked_at > ASK_SECONDS:
            self._asked_at = time.monotonic()
            next(iter(self._running)).watcher.update()  # of all jobs; submitit itself asks ever more rarely
        for job in list(self._running):
            # A preempted job that Slurm does queue again waits for the one that is submitted in its place.
            ended = job.done() or job.state == "PREEMPTED"
            event = self._news(job)
            if isinstance(event, Started | Advanced):
                on_event(event)
            elif event is not None:
                yield job, event
                continue
            if ended:
                self._lost = True
                yield job, Lost()

    def _news(self, job: Any) -> Event | None:
        """What a job has told since it was last asked."""
        path = self._files[job]
        try:
            changed = path.stat().st_mtime_ns
            if changed == self._seen.get(job):
                return None
            self._seen[job] = changed
            event: Event = pickle.loads(path.read_bytes())
            return event
        except FileNotFoundError:
            return None


class SlurmTask:
    """What submitit calls in a job, and asks for what to queue again before the job is ended."""

    def __call__(self, sent: Sent, images: Path, runtime: Runtime, events: Path) -> None:
        shown_at = -SHOW_SECONDS

        def on_event(event: Event) -> None:
            nonlocal shown_at
            if time.monotonic() - shown_at > SHOW_SECONDS:
                shown_at = time.monotonic()
                with contextlib.suppress(OSError):  # a full disk ends the trial itself
                    write_bytes_atomic(events, pickle.dumps(event))

        job = Job(**{**sent, "images": pickle.loads(images.read_bytes())})
        write_bytes_atomic(events, pickle.dumps(run_held(job, runtime, on_event)))

    def checkpoint(self, *arguments: Any) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)
