"""Images/s and peak memory of a study's steps, for each row of the roadmap: this build beside another checkout.

Each round starts one process per build and walks through the rows; the two take turns on each (A B B A …), a few
steps each, so that both see a machine whose speed changes. A step is all that a trial does between two evaluations:
its batch, augmentation, forward and backward pass, optimizer. On one thread, time is the process's own, which other
programs disturb less than the clock's; on several (``--threads 2``), it is the clock's. Ratios are paired by turn;
the medians' geometric mean over the rows, and the peak memory of a process that has run all rows, stand last.

    python benchmarks/trials.py ../nextify-33f1e40/src --rounds 3 --turns 12 --json trials.json

Results: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

OWN = Path(__file__).resolve().parent.parent / "src"
WARM_UP = 3
"""Steps that include first allocations and the choice of kernels."""
MEMORY = "peak-memory"
"""In place of a row: MiB that the process has held at most."""


def serve(scale_name: str, kernels: str, threads: int) -> None:
    """Answer each line ``ROW STEPS`` on standard input with the images/s of that row, or with ``MEMORY``."""
    import torch

    from nextify.data import open_images
    from nextify.study.plan import make_plan
    from nextify.training.trial import Data, Runtime

    try:
        from nextify.fitting.scale import scale
        from nextify.paper.roadmap import roadmap
        from nextify.system.allocator import keep_freed_memory
        from nextify.training.trainer import Trainer
    except ImportError:  # of checkouts before November 27
        from nextify.memory import keep_freed_memory  # type: ignore[import-not-found,no-redef]
        from nextify.roadmap import roadmap  # type: ignore[import-not-found,no-redef]
        from nextify.scale import scale  # type: ignore[import-not-found,no-redef]
        from nextify.training.training import Training as Trainer  # type: ignore[import-not-found,no-redef]

    keep_freed_memory()
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    images, size = open_images("digits"), scale(scale_name)
    data = Data(images.name, images.fingerprint, images.num_classes, size.image_size(8))
    trials = {p.step: p.trial for p in make_plan(roadmap(), size, images, data, seeds=(0,)).trials}
    print(json.dumps(list(trials)), flush=True)
    current = ""
    for line in sys.stdin:
        row, steps = line.split()
        if row == MEMORY:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)  # KiB on Linux
            continue
        fresh, current = row != current, row
        if fresh:
            trainer = Trainer(
                trials[row], images, Runtime(threads=threads, **({} if kernels == "auto" else {"kernels": kernels}))
            )
            batches = trainer.batches.iterate(0, trials[row].recipe.epochs * trainer.batches.steps_per_epoch)
        seconds = []
        before = clock()
        for batch in islice(batches, fresh * WARM_UP + int(steps)):
            float(trainer.train_step(*batch))
            now = clock()
            seconds.append(now - before)
            before = now
        print(trials[row].recipe.batch_size / statistics.median(seconds[-int(steps) :]), flush=True)


class Build:
    """A process that measures one checkout."""

    def __init__(self, source: Path, options: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--serve", "--scale", options.scale, "--kernels", options.kernels]
        command += ["--threads", str(options.threads)]
        given = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
        self.process = subprocess.Popen(
            *(command,), env={**os.environ, **given, "PYTHONPATH": str(source)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.rows: list[str] = self._answer()

    def _answer(self) -> object:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a measuring process ended with code {self.process.wait()}; its error is above")
        return json.loads(line)

    def measured(self, row: str, steps: int) -> float:
        """Images/s of a row, or ``MEMORY``."""
        assert self.process.stdin is not None
        print(row, steps, file=self.process.stdin, flush=True)
        return self._answer()

    def end(self) -> None:
        self.process.communicate()


def commit(source: Path) -> str:
    """The commit of a checkout, given its src folder; with ``-dirty`` where files differ from it."""
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description="images/s of a study's steps, this build beside another checkout")
    parser.add_argument("other", type=Path, nargs="?", default=OWN, help="src folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=1, help="of each build on a row, in each round")
    parser.add_argument("--steps", type=int, default=9, help="measured in each turn")
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", nargs="+", help="only these")
    parser.add_argument("--json", type=Path, help="write every measurement there")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.scale, options.kernels, options.threads)

    sources = OWN, options.other
    commits = [commit(source) for source in sources]
    found: dict[str, list[tuple[float, float]]] = {}  # images/s: this build, the other
    memory: list[tuple[float, float]] = []  # MiB
    for number in range(options.rounds):
        with contextlib.ExitStack() as ending:
            builds = []
            for source in sources:
                builds.append(Build(source, options))
                ending.callback(builds[-1].end)
            for row in options.rows or builds[0].rows:
                for turn in range(options.turns):
                    order = (0, 1) if (number + turn) % 2 == 0 else (1, 0)
                    speeds = {at: builds[at].measured(row, options.steps) for at in order}
                    found.setdefault(row, []).append((speeds[0], speeds[1]))
            memory.append((builds[0].measured(MEMORY, 0), builds[1].measured(MEMORY, 0)))

    from nextify.system.environment import describe

    here = describe()
    print(f"{here['cpu']}, threads: {options.threads}; torch {here['torch']}, python {here['python']}, {here['date']}")
    print(f"digits, {options.scale}, kernels {options.kernels}; {options.rounds} rounds of {options.turns} turns of "
          f"{options.steps} steps\n")  # fmt: skip
    print("| row | images/s | other | ratio | range |\n|---|--:|--:|--:|---|")
    medians = []
    for row, pairs in found.items():
        ratios = [own / other for own, other in pairs]
        medians.append(statistics.median(ratios))
        own, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"| {row} | {own:.0f} | {other:.0f} | {medians[-1]:.2f} | {min(ratios):.2f} to {max(ratios):.2f} |")
    print(f"| geometric mean | | | **{math.prod(medians) ** (1 / len(medians)):.3f}** | |")
    ratios = [own / other for own, other in memory]
    own, other = (statistics.median(column) for column in zip(*memory, strict=True))
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    print(f"| peak memory, MiB | {own:.0f} | {other:.0f} | {statistics.median(ratios):.3f} | {spread} |")
    if options.json:
        content = {"environment": here, "commits": commits, "images_per_second": found, "peak_memory_mib": memory}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
