"""Trials as tasks of a Ray cluster, with their CPUs and GPUs: an existing cluster, or one that is started here.

Images go into Ray's object store, which ships them once to each node. Where a node sees the study's folder (a shared
disk), its trials work there and go on from their checkpoints; elsewhere they begin anew and send back what they leave.
"""

import contextlib
import os
import pickle
import secrets
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nextify.study.cluster import ClusterEngine, Lost, Sent, as_sent, run_held
from nextify.study.cluster_options import ClusterUnavailable, check_engine
from nextify.study.engine import Done, EngineError, Event, Job, OnEvent, not_written
from nextify.system.files import fresh_folder, write_bytes_atomic
from nextify.training.trial import Runtime

LOOK_SECONDS = 0.3
SHARE_OF_A_GPU = 0.25
"""Of a trial of small networks, as on one machine."""


class RayEngine(ClusterEngine):
    """Connects at once, since the cluster tells how many trials fit.

    Args:
        runtime: its ``device`` may be ``auto``: CUDA where the cluster has GPUs.
        side_by_side: trials at a time; None for as many as the cluster has CPUs or GPUs for.
        small: whether several trials share a GPU.
        address: of the cluster; None for ``RAY_ADDRESS`` and, where that is not set, a cluster started here.

    Raises:
        MissingEngine: ray is not installed.
        ClusterUnavailable: it cannot be reached, or has no room for a single trial.
    """

    def __init__(
        self, runtime: Runtime, side_by_side: int | None = None, small: bool = True, address: str | None = None
    ) -> None:
        check_engine("ray")
        import ray
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        self._connected = not ray.is_initialized()
        address = address or os.environ.get("RAY_ADDRESS")
        if self._connected:
            _connect(address)
        there = ray.cluster_resources()
        device = runtime.device
        if device == "auto":
            device = "cuda" if there.get("GPU") else "cpu"
        self._gpus = 0.0 if device == "cpu" else SHARE_OF_A_GPU if small else 1.0
        fit = int(there.get("CPU", 0) // runtime.threads)
        if self._gpus:
            fit = min(fit, int(there.get("GPU", 0) / self._gpus))
        if fit < 1:
            raise ClusterUnavailable(
                f"the Ray cluster has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs, not enough for a "
                f"trial with {runtime.threads} CPUs{' and a GPU' if self._gpus else ''}: give fewer --threads, or "
                f"--device cpu"
            )
        super().__init__(replace(runtime, device="cuda" if self._gpus else "cpu"), side_by_side or fit)
        self.logs = "in Ray's folder of the node, /tmp/ray/session_latest/logs where it was not set otherwise"
        self.capacity = self.side_by_side
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self._task = ray.remote(max_retries=0, num_cpus=runtime.threads, num_gpus=self._gpus)(_trial)
        self._marker = f".seen-{secrets.token_hex(8)}"
        self._marked: set[Path] = set()
        self._images: dict[int, tuple[Any, Any]] = {}
        """By identity: the images, and the reference that nodes fetch them by."""

    def close(self) -> None:
        for ref in self._running:
            with contextlib.suppress(Exception):
                self._ray.cancel(ref, force=True)
        self._running.clear()
        self._images.clear()
        for folder in self._marked:
            (folder / self._marker).unlink(missing_ok=True)
        with contextlib.suppress(Exception):
            self._queue.shutdown(force=True)
        if self._connected:
            self._ray.shutdown()

    def _hand_over(self, jobs: Sequence[Job]) -> Sequence[Any]:
        refs = []
        for job in jobs:
            if id(job.images) not in self._images:
                self._images[id(job.images)] = job.images, self._ray.put(job.images)
            if job.folder is not None and job.folder.parent not in self._marked:
                self._marked.add(job.folder.parent)
                write_bytes_atomic(job.folder.parent / self._marker, b"")
            images = self._images[id(job.images)][1]
            task = self._task.options(name=f"nextify {job.key}")
            refs.append(task.remote(as_sent(job), images, self.runtime, self._queue, self._marker))
        return refs

    def _look(self, on_event: OnEvent) -> Iterator[tuple[Any, Event | Lost]]:
        errors = self._ray.exceptions
        ready, _ = self._ray.wait(list(self._running), timeout=LOOK_SECONDS)
        with contextlib.suppress(errors.RayActorError):
            for event in self._queue.get_nowait_batch(self._queue.qsize()):
                on_event(pickle.loads(event))
        for ref in ready:
            try:
                event, files = self._ray.get(ref)
            except errors.RayTaskError as error:
                reason = str(error.cause or error).strip().splitlines()[-1]
                raise EngineError(
                    f"a task of Ray's failed ({reason}); the nodes need the same nextify and Python as this machine"
                ) from error
            except (errors.RuntimeEnvSetupError, errors.TaskUnschedulableError) as error:
                raise EngineError(f"Ray cannot run a trial: {str(error).strip().splitlines()[0]}") from error
            except errors.RayError:  # of a worker, its node, its memory, or its images on the way
                yield ref, Lost()
                continue
            if files is not None and isinstance(event, Done):
                event = _kept(event, files, self._running[ref])
            yield ref, event


def _connect(address: str | None) -> None:
    import ray

    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        os.environ.setdefault(name, "0")
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    local = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **local)
    except Exception as error:  # of many classes, by what is wrong
        reason = str(error).strip().splitlines()[0]
        where = f"the Ray cluster at {address} cannot be reached" if address else "Ray cannot be started here"
        raise ClusterUnavailable(f"{where}: {reason}") from error
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)  # ray.init takes it, to end this process at once


def _trial(sent: Sent, images: Any, runtime: Runtime, queue: Any, marker: str) -> tuple[Event, dict[str, bytes] | None]:
    """A job's outcome and, where this node does not see the study's folder, the files that the trial left."""
    from ray.exceptions import RayError

    def on_event(event: Event) -> None:
        with contextlib.suppress(RayError):
            queue.put(pickle.dumps(event))

    # Ray's arrays are views of its store, and read only; so do we.
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    job = Job(**{**sent, "images": images})
    if job.folder is None or (job.folder.parent / marker).exists():
        return run_held(job, runtime, on_event), None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / job.folder.name
        event = run_held(replace(job, folder=folder), runtime, on_event)
        found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        return event, {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _kept(event: Done, files: dict[str, bytes], job: Job) -> Event:
    """Write down what a trial left on a node's own disk."""
    assert job.folder is not None
    try:
        with fresh_folder(job.folder) as folder:
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write_bytes_atomic(folder / name, content)
    except OSError as error:
        return not_written(job, error)
    return Done(event.key, replace(event.result, bundle=job.folder / "bundle"))
