"""The network, in processes of its own: one that dies takes no request with it, and is started again.

A worker answers one call at a time. Arrays cross the pipe as raw bytes behind a JSON header, never as pickles.
"""

import gc
import json
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from nextify.deploy.dense import open_finder
from nextify.deploy.runners import open_runner
from nextify.deploy.serve.tasks import PREDICT, Array, task_of
from nextify.evaluation.finder import Finder
from nextify.evaluation.runner import Network, Runner
from nextify.system.allocator import keep_freed_memory
from nextify.system.native import Mode
from nextify.system.processes import worker_context
from nextify.weights.bundle import About, DenseAbout, any_from_json, stated, to_json
from nextify.weights.class_names import ClassOrder

_starting = threading.Lock()


class Died(Exception):
    """The worker is gone, as the message says, and whatever it was running has to be run again."""


class Failed(Exception):
    """The network raised an error; the worker lives."""


class ServeError(ValueError):
    """The server cannot start; the message names the remedy."""


@dataclass(frozen=True)
class Facts:
    """What a worker says of its network."""

    about: About | DenseAbout
    runtime: str
    """Format, precision and runtime."""
    explains: bool
    """Whether it answers ``EXPLAIN``."""


class Worker(Protocol):
    """A network that is called from one thread at a time."""

    def start(self) -> Facts:
        """Open the network. Raises ``ServeError``."""

    def __call__(self, call: str, batch: Array, arguments: Sequence[Any]) -> Sequence[Array]:
        """An array for each image of ``batch`` and its argument, as ``Task.run``. Raises ``Died`` or ``Failed``."""

    def kill(self) -> None:
        """End it at once, whatever it is doing; for use from another thread."""

    def stop(self) -> None:
        """End it once it is idle."""


def open_network(
    path: str,
    *,
    device: str = "cpu",
    threads: int | None = None,
    kernels: Mode = "auto",
    class_order: ClassOrder | None = None,
) -> Runner | Finder:
    """Open a bundle or an export of any task. Raises as ``open_runner`` and ``deploy.dense.open_finder``."""
    if isinstance(stated(path), DenseAbout):
        return open_finder(path, device=device, threads=threads, kernels=kernels)
    return open_runner(path, device=device, threads=threads, kernels=kernels, class_order=class_order)


class InProcess:
    """A network in the server's own process: less memory, and no protection. ``opening`` opens it."""

    def __init__(self, opening: Callable[[], Runner | Finder]) -> None:
        self.opening = opening

    def start(self) -> Facts:
        try:
            network = self.network = self.opening()
            assert network.about is not None
            self.task = task_of(network.about)
        except (ValueError, OSError, ImportError) as error:
            raise ServeError(str(error)) from error
        runtime = network.runtime if isinstance(network, Finder) else network.name
        channels, height, width = self.task.input_shape
        # As /predict calls it: loads and compiles what first use does.
        self(PREDICT, np.zeros((1, height, width, channels), np.uint8), [(height, width, 0)])
        return Facts(network.about, runtime, isinstance(network, Network))

    def __call__(self, call: str, batch: Array, arguments: Sequence[Any]) -> Sequence[Array]:
        try:
            rows = self.task.run(self.network, call, batch, arguments)
        except Exception as error:
            traceback.print_exc()
            raise Failed(str(error).split("\n")[0]) from error
        if not all(np.isfinite(row).all() for row in rows):
            raise Failed("its outputs are NaN or infinite")
        return rows

    def kill(self) -> None:
        pass

    def stop(self) -> None:
        pass


class Process:
    """A network in a process of its own, forked from one that has imported torch and started no thread.

    ``opening``, which must pickle, opens it there: a ``partial`` of ``open_network``.
    """

    def __init__(self, opening: Callable[[], Runner | Finder]) -> None:
        self.opening = opening

    def start(self) -> Facts:
        with _starting:
            context = worker_context(__name__, "nextify.deploy.runners")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=_work, args=(theirs, self.opening), daemon=True)
            self.process.start()
            theirs.close()
        try:
            told = json.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            raise ServeError("the worker died while opening the network; its last output is above") from None
        if "error" in told:
            raise ServeError(told["error"])
        return Facts(any_from_json(told["about"], "the worker"), told["runtime"], told["explains"])

    def __call__(self, call: str, batch: Array, arguments: Sequence[Any]) -> Sequence[Array]:
        try:
            _send(self.pipe, [call, arguments], [batch])
            said, answer = _receive(self.pipe)
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            raise Died(f"signal {-code}" if code < 0 else f"exit code {code}") from None
        if said != call:
            raise Failed(said)
        return answer

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        self.pipe.close()  # the end of its work
        self.process.join(5)
        self.process.kill()
        self.process.join()


def _work(pipe: Connection, opening: Callable[[], Runner]) -> None:
    """What a worker process does until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server ends its workers itself
    keep_freed_memory()
    network = InProcess(opening)
    with suppress(EOFError, OSError):
        try:
            facts = network.start()
        except (ServeError, Failed) as error:
            pipe.send_bytes(json.dumps({"error": str(error)}).encode())
            return
        told = {"about": to_json(facts.about), "runtime": facts.runtime, "explains": facts.explains}
        pipe.send_bytes(json.dumps(told).encode())
        gc.freeze()  # as the server does
        while True:
            (call, arguments), (batch,) = _receive(pipe)
            try:
                _send(pipe, call, network(call, batch, arguments))
            except Failed as error:
                _send(pipe, str(error) or "the network failed", [])


def _send(pipe: Connection, said: Any, arrays: Sequence[Array]) -> None:
    pipe.send_bytes(json.dumps([said, [(array.dtype.str, array.shape) for array in arrays]]).encode())
    for array in arrays:
        pipe.send_bytes(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _receive(pipe: Connection) -> tuple[Any, list[Array]]:
    said, arrays = json.loads(pipe.recv_bytes())
    return said, [np.frombuffer(bytearray(pipe.recv_bytes()), dtype).reshape(shape) for dtype, shape in arrays]
