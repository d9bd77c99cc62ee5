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
from PIL import Image

from nextify.data.decode import UnreadableImage, quiet
from nextify.deploy.dense import open_finder
from nextify.deploy.runners import open_runner
from nextify.deploy.serve.tasks import ENCODED, PREDICT, Array, task_of
from nextify.evaluation.finder import Finder
from nextify.evaluation.runner import NOT_FINITE, Network, Runner
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


class Replaced(ServeError):
    """There is another network now where the one that is served was loaded from."""


@dataclass(frozen=True)
class Facts:
    """What a worker says of its network."""

    about: About | DenseAbout
    runtime: str
    """Format, precision and runtime."""
    explains: bool
    """Whether it answers ``EXPLAIN``."""
    checksum: str
    """Of its weights; of an export, of its files."""


Answer = Array | tuple[Array, int, int] | UnreadableImage
"""Of an image: as ``Task.run``; to ``ENCODED`` with the image's height and width, or why it cannot be decoded."""


class Worker(Protocol):
    """A network that is called from one thread at a time."""

    prepares: bool
    """Whether it decodes the images too (``ENCODED``). Where each worker has a core of its own, that is faster than
    decoding in the server, whose threads would interrupt the networks."""

    def start(self) -> Facts:
        """Open the network. Raises ``ServeError``."""

    def __call__(self, call: str, batch: Array | Sequence[Array], arguments: Sequence[Any]) -> Sequence[Answer]:
        """The answer for each image and its argument. The batch is as ``Task.run`` has it; for ``ENCODED`` a list of
        uint8 ``(bytes,)``. Raises ``Died`` or ``Failed``."""

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

    prepares = False

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
        try:  # as /predict calls it: loads and compiles what first use does
            self(PREDICT, np.zeros((1, height, width, channels), np.uint8), [(height, width, 0)])
        except Failed as error:
            raise ServeError(f"the network fails on a black image: {error}") from error
        explains = isinstance(network, Network) and network.about.members == 1
        return Facts(network.about, runtime, explains, network.checksum())

    def __call__(self, call: str, batch: Array | Sequence[Array], arguments: Sequence[Any]) -> Sequence[Answer]:
        try:
            if call == ENCODED:
                return self._decoded([data.tobytes() for data in batch], arguments)
            return self._finite(call, np.asarray(batch), arguments)
        except Failed:
            raise
        except Exception as error:
            traceback.print_exc()
            raise Failed(str(error).split("\n")[0]) from error

    def _decoded(self, files: Sequence[bytes], arguments: Sequence[Any]) -> list[Answer]:
        found: list[Answer] = []
        for data, (number, _) in zip(files, arguments, strict=True):
            try:
                found.append(self.task.prepare(data))
            except UnreadableImage as error:
                found.append(UnreadableImage(f"image {number}: {error}"))
        good = [(one, asked) for one, (_, asked) in zip(found, arguments, strict=True) if isinstance(one, tuple)]
        if good:
            images, sizes = np.stack([image for (image, *_), _ in good]), [(*size, asked) for (_, *size), asked in good]
            rows = iter(self._finite(PREDICT, images, sizes))
            found = [(next(rows), *one[1:]) if isinstance(one, tuple) else one for one in found]
        return found

    def _finite(self, call: str, batch: Array, arguments: Sequence[Any]) -> Sequence[Array]:
        rows = self.task.run(self.network, call, batch, arguments)
        if not all(np.isfinite(row).all() for row in rows):
            raise Failed(NOT_FINITE)
        return rows

    def kill(self) -> None:
        pass

    def stop(self) -> None:
        pass


class Process:
    """A network in a process of its own, forked from one that has imported torch and started no thread.

    ``opening``, which must pickle, opens it there: a ``partial`` of ``open_network``.
    """

    def __init__(self, opening: Callable[[], Runner | Finder], *, prepares: bool = False) -> None:
        self.opening, self.prepares = opening, prepares

    def start(self) -> Facts:
        with _starting:
            context = worker_context(__name__, "nextify.deploy.runners")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(
                target=_work, args=(theirs, self.opening, Image.MAX_IMAGE_PIXELS), daemon=True
            )
            self.process.start()
            theirs.close()
        try:
            told = json.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            raise ServeError("the worker died while opening the network; its last output is above") from None
        if "error" in told:
            raise ServeError(told["error"])
        return Facts(**told | {"about": any_from_json(told["about"], "the worker")})

    def __call__(self, call: str, batch: Array | Sequence[Array], arguments: Sequence[Any]) -> Sequence[Answer]:
        try:
            _send(self.pipe, [call, arguments], [*batch] if call == ENCODED else [np.asarray(batch)])
            said, rows = _receive(self.pipe)
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            raise Died(f"signal {-code}" if code < 0 else f"exit code {code}") from None
        if isinstance(said, str):
            raise Failed(said)
        if call != ENCODED:
            return rows
        left = iter(rows)
        return [UnreadableImage(one) if isinstance(one, str) else (next(left), *one) for one in said]

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        self.pipe.close()  # the end of its work
        self.process.join(5)
        self.process.kill()
        self.process.join()


def _work(pipe: Connection, opening: Callable[[], Runner], most_pixels: int | None) -> None:
    """What a worker process does until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server ends its workers itself
    Image.MAX_IMAGE_PIXELS = most_pixels
    keep_freed_memory()
    network = InProcess(opening)
    with suppress(EOFError, OSError), quiet():
        try:
            facts = network.start()
        except ServeError as error:
            pipe.send_bytes(json.dumps({"error": str(error)}).encode())
            return
        pipe.send_bytes(json.dumps({**vars(facts), "about": to_json(facts.about)}).encode())
        gc.freeze()  # as the server does
        while True:
            (call, arguments), batch = _receive(pipe)
            try:
                answers = network(call, batch if call == ENCODED else batch[0], arguments)
            except Failed as error:
                _send(pipe, str(error) or "the network failed", [])
                continue
            _send(pipe, *_reply(answers))


def _reply(answers: Sequence[Answer]) -> tuple[list[Any], list[Array]]:
    """What is sent of answers: of ``ENCODED`` also each image's size, or what is wrong with it."""
    said, rows = list[Any](), list[Array]()
    for one in answers:
        if isinstance(one, UnreadableImage):
            said.append(str(one))
        elif isinstance(one, tuple):
            said.append(one[1:])
            rows.append(one[0])
        else:
            rows.append(one)
    return said, rows


def _send(pipe: Connection, said: Any, arrays: Sequence[Array]) -> None:
    pipe.send_bytes(json.dumps([said, [(array.dtype.str, array.shape) for array in arrays]]).encode())
    for array in arrays:
        pipe.send_bytes(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _receive(pipe: Connection) -> tuple[Any, list[Array]]:
    said, arrays = json.loads(pipe.recv_bytes())
    return said, [np.frombuffer(bytearray(pipe.recv_bytes()), dtype).reshape(shape) for dtype, shape in arrays]
