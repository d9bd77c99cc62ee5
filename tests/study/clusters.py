"""Help for the tests of engines: a small study, a count of every step that any process takes, and a killer."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import defaultdict
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nextify.data import open_images
from nextify.fitting.scale import scale
from nextify.paper.roadmap import roadmap
from nextify.study.plan import make_plan
from nextify.study.store import Store
from nextify.study.study import Study
from nextify.training.trial import Data, Runtime

RUNTIME = Runtime("cpu", 1, checkpoint_seconds=0.0)
COUNT = '''
import importlib.util, os, sys

class Counting:
    """Writes a line for every step that a process trains."""

    def find_spec(self, name, path=None, target=None):
        if name != "nextify.training.trainer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def counting(module):
            execute(module)
            step = module.Trainer.train_step

            def counted(self, *arguments):
                found = step(self, *arguments)
                with open(os.environ["COUNTED"], "a") as file:
                    file.write(f"{self.trial.fingerprint} {os.getpid()}\\n")
                return found

            module.Trainer.train_step = counted

        spec.loader.exec_module = counting
        return spec

sys.meta_path.insert(0, Counting())
'''


def small_study(root: Path, epochs: int, side_by_side: int = 2, shared: bool = True) -> Study:
    images = open_images("digits")
    data = Data(images.name, images.fingerprint, 10, 16)
    steps = ("training_technique", "separate_downsampling")
    plan = make_plan(roadmap("resnet50"), scale("tiny"), images, data, seeds=(0,), epochs=epochs, steps=steps)
    return Study(plan, Store(root, shared), images, RUNTIME, side_by_side)


def figures(study: Study) -> object:
    """The results without times."""
    found = asdict(study.results(datetime.now(UTC)))
    for row in found["rows"]:
        row.pop("images_per_second", None)
    timed = ("seconds", "images_per_second", "peak_memory_mib")
    trials = [{k: v for k, v in trial.items() if k not in timed} for trial in found["trials"]]
    return found["rows"], trials


class Steps:
    """What was trained, and by whom, from the lines of all processes."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "sitecustomize.py").write_text(COUNT)
        self.path = folder / "steps"
        self.path.touch()
        monkeypatch.setenv("COUNTED", str(self.path))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def by_trial(self) -> dict[str, list[int]]:
        """The process that took each step, by fingerprint."""
        found = defaultdict(list)
        for line in self.path.read_text().splitlines():
            fingerprint, pid = line.split()
            found[fingerprint].append(int(pid))
        return found

    @contextlib.contextmanager
    def killed(self, times: int, steps: int, seed: int = 0, how: int = signal.SIGKILL):
        """Kill the worker of every trial ``times`` times, each after a random number of its ``steps``; gives the
        list of kills."""
        ended, kills, chance = threading.Event(), [], random.Random(seed)
        due: dict[str, list[int]] = {}
        dead: set[int] = set()

        def watch() -> None:
            while not ended.wait(0.02):
                for fingerprint, pids in self.by_trial().items():
                    moments = due.setdefault(fingerprint, sorted(chance.sample(range(3, steps - 8), times)))
                    if moments and len(pids) >= moments[0] and pids[-1] not in dead:
                        moments.pop(0)
                        dead.add(pids[-1])
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pids[-1], how)
                            kills.append(fingerprint)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield kills
        finally:
            ended.set()
            thread.join()


def wait_until(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
