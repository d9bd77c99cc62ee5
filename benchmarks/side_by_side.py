"""Trials side by side against one trial at a time with all threads.

The study's own engine runs the same trainings at its default scale (digits, tiny, the last row of the roadmap) in two
ways: as many at once as there are cores, with one thread each (A), and one after the other with all threads (B), in the
order A B A B. Images/s counts the training images of all trials over the wall time of their training. Workers are warm,
so neither includes imports and start-up.

Command:  python benchmarks/side_by_side.py --rounds 5 --epochs 5
Results:  docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from nextify.data import Images, open_images
from nextify.fitting.scale import scale
from nextify.paper.roadmap import roadmap
from nextify.study.engine import Event, Failed, Job, LocalEngine, Stopped
from nextify.study.plan import make_plan
from nextify.system.environment import cores, describe
from nextify.training.trial import Data, Runtime, Trial


def images_per_second(engine: LocalEngine, trials: list[Trial], images: Images, folder: str) -> float:
    """Training images of all trials over the wall time they take together."""

    def on_event(event: Event) -> None:
        if isinstance(event, Failed | Stopped):
            raise RuntimeError(event.error)

    with TemporaryDirectory() as root:
        jobs = [Job(f"{folder}-{i}", trial, images, Path(root) / str(i)) for i, trial in enumerate(trials)]
        start = time.perf_counter()
        engine.run(jobs, on_event)
        seconds = time.perf_counter() - start
    return len(trials) * trials[0].recipe.epochs * len(images.train) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="A B pairs")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of each trial")
    parser.add_argument("--step", default="separate_downsampling", help="row of the roadmap")
    options = parser.parse_args()

    images = open_images("digits")
    data = Data(images.name, images.fingerprint, images.num_classes, 16)
    plan = make_plan(roadmap(), scale("tiny"), images, data, seeds=(0,), steps=(options.step,))
    trial = plan.trials[0].trial
    trial = replace(trial, recipe=trial.recipe.with_(epochs=options.epochs, warmup_epochs=1.0))
    count = max(2, cores())
    trials = [replace(trial, seed=seed) for seed in range(count)]

    quick = Runtime(threads=1, evaluations=1, checkpoint_seconds=1e9)
    beside: list[float] = []
    alone: list[float] = []
    with (
        LocalEngine(quick, count) as many,
        LocalEngine(replace(quick, threads=cores()), 1) as one,
    ):
        for engine in (many, one):  # imports and first allocations
            engine.run([Job(f"warm-{i}", trial, images) for i in range(count)], lambda event: None)
        for _ in range(options.rounds):
            beside.append(images_per_second(many, trials, images, "a"))
            alone.append(images_per_second(one, trials, images, "b"))
            ratio = beside[-1] / alone[-1]
            print(f"  side by side {beside[-1]:7.0f}   one at a time {alone[-1]:7.0f}   ratio {ratio:.2f}", flush=True)

    here = describe()
    ratios = [a / b for a, b in zip(beside, alone, strict=True)]
    print(f"{options.step}, digits, tiny; {count} trials; n = {options.rounds} pairs")
    print(f"{here['cpu']}, {here['cores']} cores; torch {here['torch']}, python {here['python']}, {here['date']}")
    for name, found in ((f"{count} side by side, 1 thread each", beside), (f"1 at a time, {cores()} threads", alone)):
        print(f"{name:34s} median {statistics.median(found):7.0f} images/s ({min(found):.0f} to {max(found):.0f})")
    print(f"{'ratio':34s} median {statistics.median(ratios):7.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
