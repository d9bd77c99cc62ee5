"""Two builds of nextify in turn: does a change make ConvNeXt-T slower on a CPU?

Each build runs in a process of its own, which keeps its network between the rounds; one of the two works at a time
(A B B A A B …), so that a machine whose speed drifts treats both alike. Reported is the older build's time over this
one's, round by round: above 1, this build is faster.

Command:  git worktree add ../older COMMIT
          python benchmarks/builds.py ../older --rounds 7
Runtime:  6 to 20 minutes on 2 cores, most of it for compiling. Results: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

CASES = list(itertools.product((16, 1), ("fp32", "bf16"), ("training", "inference"), ("eager", "compiled")))
HERE = Path(__file__).resolve().parents[1]
KEEPING = {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_MAX_": "0"}
"""Freed memory is kept, as our commands keep it: else page faults make processes of one build differ by up to 10 %."""


def work(batch: int, precision: str, mode: str, how: str, clock: str) -> None:
    """Do one step for every line of stdin and print its seconds."""
    import torch
    import torch.nn.functional as F

    import nextify

    torch.manual_seed(0)
    model = nextify.create_model("convnext_tiny").train(mode == "training")
    try:
        from nextify.kernels import install
    except ImportError:
        pass  # builds before `kernels/` choose inside the network
    else:
        install(model, "auto")
    images, labels = torch.randn(batch, 3, 224, 224), torch.randint(1000, (batch,))
    forward = torch.compile(model) if how == "compiled" else model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")

    def step() -> None:
        if mode == "inference":
            with torch.inference_mode(), autocast:
                forward(images)
            return
        with autocast:
            loss = F.cross_entropy(forward(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    repeats = 1 if mode == "training" or batch > 4 else 5
    now = time.process_time if clock == "processor" else time.perf_counter
    print("ready", flush=True)
    for _ in sys.stdin:
        start = now()
        for _ in range(repeats):
            step()
        print((now() - start) / repeats, flush=True)


def start(build: Path, case: tuple[object, ...], clock: str) -> subprocess.Popen[str]:
    """Start a worker of the build at this folder."""
    command = [sys.executable, __file__, "--clock", clock, "--case", *map(str, case)]
    environment = os.environ | KEEPING | {"PYTHONPATH": str(build / "src")}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def answer(worker: subprocess.Popen[str]) -> str:
    """Return the worker's next line."""
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit("a worker ended early; its message is above")
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("older", type=Path, nargs="?", help="a checkout of the other build")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=[], help="words that a case must hold, such as 1 bf16 eager")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall", help="processor: on a busy machine")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        batch, *words = options.case
        work(int(batch), *words, options.clock)
        return
    if options.older is None or not (options.older / "src" / "nextify").is_dir():
        raise SystemExit("give the folder of the other build's checkout")

    sys.path.insert(0, str(HERE / "src"))
    from nextify.system.environment import describe

    here = describe()
    print(f"ConvNeXt-T, 224²; {here['cpu']}, {here['date']}; python {here['python']}, torch {here['torch']}")
    print(f"{options.clock} time, {os.environ.get('OMP_NUM_THREADS', 'all')} threads, n = {options.rounds} rounds")
    print(f"{'case':36s}{'older ms':>10s}{'this ms':>10s}{'median ratio':>14s}{'range':>14s}", flush=True)
    for case in CASES:
        if not set(options.only) <= set(map(str, case)):
            continue
        builds = {"older": options.older.resolve(), "this": HERE}
        workers = {}
        for name, build in builds.items():  # one after the other: compiling disturbs nothing
            workers[name] = start(build, case, options.clock)
            answer(workers[name])
        seconds: dict[str, list[float]] = {name: [] for name in builds}
        for i in range(options.rounds):
            for name in list(builds)[:: -1 if i % 2 else 1]:
                print(file=workers[name].stdin, flush=True)
                seconds[name].append(float(answer(workers[name])))
        for worker in workers.values():
            worker.communicate()
        ratios = [a / b for a, b in zip(seconds["older"], seconds["this"], strict=True)]
        old, new = (1e3 * statistics.median(seconds[name]) for name in builds)
        name = f"batch {case[0]}, {', '.join(map(str, case[1:]))}"
        spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
        print(f"{name:36s}{old:10.1f}{new:10.1f}{statistics.median(ratios):14.2f}{spread:>14s}", flush=True)


if __name__ == "__main__":
    main()
