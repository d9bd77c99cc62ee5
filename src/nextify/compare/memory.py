"""Peak memory of one network in a process of its own.

``python -m nextify.compare.memory`` imports the libraries and forks for each JSON object on its stdin, so that they are
imported once; where there is no safe fork each network has a fresh process. That process loads what is loaded on first
use (by training a small network of the same library for a step), notes its size, builds the network, runs inference,
notes the peak, trains two steps, and notes the peak again, a JSON line each; so a process that the system ends for want
of memory has said how far it came. Inference runs before training, so that its peak is its own.

On a CUDA device the figures are the allocator's, which can be reset: one process measures all, since each would take
seconds to find the device.
"""

from __future__ import annotations

import functools
import gc
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nextify.compare.entries import Entry, build, find
from nextify.compare.settings import Settings
from nextify.evaluation.profiling import Conditions

MIB = 2**20
FORKS = sys.platform == "linux"
"""Elsewhere a process that has loaded torch is not safe to fork, or cannot."""
COMMAND = [sys.executable, "-m", "nextify.compare.memory"]
ENDED = "ended "
"""Begins the line after the last of a measurement; how it failed follows, in JSON: null for well."""


@dataclass(frozen=True)
class Memory:
    """In MiB; None where it was not reached, and ``problem`` says why."""

    start: float | None = None
    """The process with its libraries, before the network is built; on CUDA what its allocator holds by then."""
    inference: float | None = None
    """Peak of a forward pass, beyond ``start``: weights and activations."""
    training: float | None = None
    """Peak of two training steps, beyond ``start``: also gradients and optimizer state."""
    problem: str | None = None


class Processes:
    """Starts the processes; to be used as a context, at whose end nothing is left running."""

    def __init__(self) -> None:
        self._forking: subprocess.Popen[str] | None = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._forking is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._forking.pid, signal.SIGKILL)  # the forks as well
            self._forking.communicate()
            self._forking = None

    def measure(self, entry: Entry, image_size: int, settings: Settings, timeout: float = 600.0) -> Memory:
        """Peak memory of one network at one size; never raises for a network that fails. ``timeout``: seconds."""
        request = {
            "name": entry.name,
            "image_size": image_size,
            "conditions": asdict(settings.conditions),
            "threads": settings.threads,
            "batch_size": max(settings.batch_sizes),
            "training_batch_size": settings.training_batch_size,
            "num_classes": settings.num_classes,
            "fitted_to": settings.fitted_to,
            "timeout": timeout,
        }
        return read(*(self._forked(request) if FORKS else _fresh(request)))

    def _forked(self, request: dict[str, Any]) -> tuple[str, str | None]:
        """What the fork printed, and how it failed."""
        if self._forking is None:
            pipe = subprocess.PIPE
            self._forking = subprocess.Popen(
                COMMAND, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, start_new_session=True
            )
        requests, answers = self._forking.stdin, self._forking.stdout
        assert requests is not None
        assert answers is not None
        printed: list[str] = []
        with suppress(BrokenPipeError):
            requests.write(json.dumps(request) + "\n")
            requests.flush()
            for line in answers:
                if line.startswith(ENDED):
                    return "".join(printed), json.loads(line.removeprefix(ENDED))
                printed.append(line)
        self.__exit__()
        return "".join(printed), "the process that measures memory ended"


def _fresh(request: dict[str, Any]) -> tuple[str, str | None]:
    """What a process that is started for this request printed, and how it failed."""
    try:
        done = subprocess.run(
            COMMAND,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=request["timeout"],
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        partial = late.stdout or b""
        return partial.decode() if isinstance(partial, bytes) else partial, _late(request)
    return done.stdout, _why(done.returncode, done.stderr) if done.returncode else None


def read(output: str, failure: str | None) -> Memory:
    """The figures of a process that printed ``output``; ``failure`` says how it ended, None for well."""
    found: dict[str, Any] = {}
    for line in output.splitlines():
        with suppress(json.JSONDecodeError):
            found |= json.loads(line)
    start = found.get("start")
    beyond = {k: None if found.get(k) is None else (found[k] - start) / MIB for k in ("inference", "training")}
    problem = found.get("problem") or failure
    if problem is not None and "problem" not in found:
        problem = f"{found.get('doing', 'starting')}: {problem}"
    return Memory(None if start is None else start / MIB, **beyond, problem=problem)


def _late(request: dict[str, Any]) -> str:
    return f"took longer than {request['timeout']:.0f} s"


def _why(code: int, complaint: str) -> str:
    if code == -9:
        return "does not fit memory (the system ended the process)"
    last = complaint.strip().splitlines()[-1:] or [f"exit code {code}"]
    return last[0]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has no class of its own for that on CPUs."""
    import torch

    words = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def describe_failure(error: BaseException) -> str:
    """One line."""
    first = (str(error).strip().splitlines() or [""])[0]
    return "does not fit memory" if out_of_memory(error) else f"{type(error).__name__}: {first}"[:300]


def main() -> None:
    """Measures what stdin asks for: a JSON object a line where it forks, else one."""
    if not FORKS:
        _work(json.load(sys.stdin))
        return
    import timm  # noqa: F401  (what every fork needs, and starts no thread)

    import nextify.networks.zoo  # noqa: F401
    from nextify.evaluation import profiling  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        of_device = request["conditions"]["device"].startswith("cuda")
        print(ENDED + json.dumps((_in_this_process if of_device else _in_fork)(request)), flush=True)


def _in_this_process(request: dict[str, Any]) -> str | None:
    """How the measurement failed, or None. After the timeout the process ends, and the next request finds another."""
    signal.alarm(math.ceil(request["timeout"]))
    try:
        _work(request)
    except Exception as error:
        return describe_failure(error)
    finally:
        signal.alarm(0)
        _free()
    return None


def _in_fork(request: dict[str, Any]) -> str | None:
    """How the measurement failed, or None."""
    with tempfile.TemporaryFile("w+", errors="replace") as complaint:
        child = os.fork()
        if not child:
            code = 1
            try:
                os.dup2(complaint.fileno(), 2)
                _work(request)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                with suppress(OSError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        deadline = time.monotonic() + request["timeout"]
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return _late(request)
            time.sleep(0.02)
        code = os.waitstatus_to_exitcode(ended[1])
        complaint.seek(0)
        return _why(code, complaint.read()) if code else None


def _work(request: dict[str, Any]) -> None:
    import torch

    from nextify.evaluation import profiling

    given = Conditions(**request["conditions"])
    torch.set_num_threads(request["threads"])
    with suppress(OSError):  # where memory runs out, the system should end this process and not the comparison
        Path("/proc/self/oom_score_adj").write_text("1000")
    entry = find(request["name"])
    cuda = given.device.startswith("cuda")

    def peak() -> int:
        return torch.cuda.max_memory_allocated(given.device) if cuda else profiling.resident_bytes()[1]

    def now() -> int:
        return torch.cuda.memory_allocated(given.device) if cuda else profiling.resident_bytes()[0]

    def tried(step: Callable[[], None]) -> None:
        """A call that on a GPU does not count: what its libraries need once."""
        step()
        if cuda:
            profiling.synchronize(given.device)
            torch.cuda.reset_peak_memory_stats(given.device)

    def say(**values: Any) -> None:
        print(json.dumps(values), flush=True)

    _load_libraries(entry, given)
    say(start=now(), doing="building")
    doing = "building"
    try:
        with profiling.conditions(given):
            with torch.device(given.device):
                model = build(entry, request["image_size"], request["num_classes"], request["fitted_to"])
            model = profiling.place(model, given)
            doing = "inference"
            say(doing=doing)
            images = profiling.random_images(request["batch_size"], request["image_size"], given)
            step = profiling.inference(model, images, given)
            if cuda:
                tried(step)
            step()
            profiling.synchronize(given.device)
            say(inference=peak(), doing="training")
            doing = "training"
            images = profiling.random_images(request["training_batch_size"], request["image_size"], given)
            step = profiling.training(model, images, given)
            tried(step)
            step()
            profiling.synchronize(given.device)
            say(training=peak())
    except Exception as error:
        say(problem=f"{doing}: {describe_failure(error)}")


def _load_libraries(entry: Entry, given: Conditions) -> None:
    """So that what torch loads on first use is not taken for the network's."""
    _train_small("timm:test_vit" if entry.name.startswith("timm:") else "convnextv2_atto", given)
    if given.device.startswith("cuda"):
        import torch

        _free()
        torch.cuda.reset_peak_memory_stats(given.device)


def _free() -> None:
    """Gives what networks took of a GPU's memory back to it, where others need it."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


@functools.cache
def _train_small(name: str, given: Conditions) -> None:
    """One training step of a small network."""
    from nextify.evaluation import profiling

    model = profiling.place(build(find(name), 64), given)
    profiling.training(model, profiling.random_images(1, 64, given), given)()


if __name__ == "__main__":
    main()
