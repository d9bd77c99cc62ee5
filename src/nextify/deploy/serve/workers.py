"""The network, in processes of its own: one that dies takes no request with it, and is started again.

A worker answers one call at a time. Arrays cross the pipe as raw bytes behind a JSON header, never as pickles.
"""

import json
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from nextify.data.preprocessing import Preprocessing, normalized
from nextify.deploy.explain import heat_map
from nextify.evaluation.runner import Network, Runner
from nextify.system.processes import worker_context
from nextify.weights import About
from nextify.weights.bundle import from_json, to_json

Array = npt.NDArray[Any]
LOGITS = "logits"
"""The call for ``(N, K)`` logits of a batch; the other one is ``explain K``, a heat map for the class K."""
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

    about: About
    runtime: str
    """Format, precision and runtime."""
    explains: bool
    """Whether it answers ``explain K``."""

    @property
    def preprocessing(self) -> Preprocessing:
        return self.about.preprocessing

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return (self.about.in_channels, *self.preprocessing.size)


class Worker(Protocol):
    """A network that is called from one thread at a time."""

    def start(self) -> Facts:
        """Open the network. Raises ``ServeError``."""

    def __call__(self, call: str, batch: Array) -> Array:
        """One row per image of ``batch``: uint8 ``(N, H, W, C)``, or normalized float32 ``(N, C, H, W)``. Raises
        ``Died`` or ``Failed``."""

    def kill(self) -> None:
        """End it at once, whatever it is doing; for use from another thread."""

    def stop(self) -> None:
        """End it once it is idle."""


class InProcess:
    """A network in the server's own process: less memory, and no protection. ``opening`` opens it."""

    def __init__(self, opening: Callable[[], Runner]) -> None:
        self.opening = opening

    def start(self) -> Facts:
        try:
            self.runner = self.opening()
        except (ValueError, OSError, ImportError) as error:
            raise ServeError(str(error)) from error
        about = replace(self.runner.about, preprocessing=self.runner.preprocessing)
        if isinstance(about.preprocessing.bands, int):
            raise ServeError(
                f"the server takes pictures, but this network takes {about.preprocessing.bands} channels: use nextify "
                f"predict"
            )
        facts = Facts(about, self.runner.name, isinstance(self.runner, Network))
        settings = facts.preprocessing  # as /predict calls it: loads and compiles what first use does
        self(LOGITS, np.zeros((1, *settings.size, settings.channels), np.uint8))
        return facts

    def __call__(self, call: str, batch: Array) -> Array:
        settings = self.runner.preprocessing
        try:
            if batch.dtype == np.uint8:
                x = normalized(torch.from_numpy(batch), torch.device("cpu"), settings.mean, settings.std)
                batch = x.numpy()
            if call == LOGITS:
                return self.runner(batch)
            assert isinstance(self.runner, Network)
            images = torch.from_numpy(batch).to(self.runner.device)
            index = int(call.removeprefix("explain "))
            return np.stack([heat_map(self.runner.model, image, index, "grad-cam") for image in images])
        except Exception as error:
            traceback.print_exc()
            raise Failed(str(error).split("\n")[0]) from error

    def kill(self) -> None:
        pass

    def stop(self) -> None:
        pass


class Process:
    """A network in a process of its own, forked from one that has imported torch and started no thread.

    ``opening``, which must pickle, opens it there: a ``partial`` of ``open_runner``.
    """

    def __init__(self, opening: Callable[[], Runner]) -> None:
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
        return Facts(from_json(told["about"], "the worker"), told["runtime"], told["explains"])

    def __call__(self, call: str, batch: Array) -> Array:
        try:
            _send(self.pipe, call, batch)
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
    network = InProcess(opening)
    with suppress(EOFError, OSError):
        try:
            facts = network.start()
        except (ServeError, Failed) as error:
            pipe.send_bytes(json.dumps({"error": str(error)}).encode())
            return
        told = {"about": to_json(facts.about), "runtime": facts.runtime, "explains": facts.explains}
        pipe.send_bytes(json.dumps(told).encode())
        while True:
            call, batch = _receive(pipe)
            try:
                _send(pipe, call, network(call, batch))
            except Failed as error:
                _send(pipe, str(error) or "the network failed", np.empty(0))


def _send(pipe: Connection, text: str, array: Array) -> None:
    array = np.ascontiguousarray(array)
    pipe.send_bytes(json.dumps([text, array.dtype.str, array.shape]).encode())
    pipe.send_bytes(array.reshape(-1).view(np.uint8).data if array.size else b"")


def _receive(pipe: Connection) -> tuple[str, Array]:
    text, dtype, shape = json.loads(pipe.recv_bytes())
    return text, np.frombuffer(bytearray(pipe.recv_bytes()), dtype).reshape(shape)
