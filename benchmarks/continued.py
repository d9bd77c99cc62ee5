"""Top-1 after ``--continue`` by where its cosine starts, on the digits: python benchmarks/continued.py [SEEDS]."""

from __future__ import annotations

import sys
import tempfile
from statistics import fmean, stdev

import nextify
from nextify.system.environment import describe
from nextify.weights import load_bundle

SHARES, EPOCHS, MORE = (0.1, 0.3, 1.0), 6, 3


def main(seeds: int) -> None:
    found: dict[str, list[float]] = {"before": [], **{f"{share:g}": [] for share in SHARES}}
    with tempfile.TemporaryDirectory() as out:
        for seed in range(seeds):
            done = nextify.train(
                "convnext_atto", "digits", out=out, epochs=EPOCHS, scale="tiny", seed=seed, device="cpu", threads=1
            )
            found["before"].append(done.top1)
            run = done.bundle.parent
            recipe = load_bundle(run).about.recipe
            assert recipe is not None
            for share in SHARES:
                more = nextify.continue_training(
                    run, MORE, device="cpu", threads=1, settings={"learning_rate": share * recipe.learning_rate}
                )
                found[f"{share:g}"].append(more.top1)
    place = describe()
    print(f"digits, convnext_atto tiny, {EPOCHS} epochs and {MORE} more; n = {seeds} seeds; {place['cpu']}, 1 thread,")
    print(f"nextify {place['nextify']} ({place['git_commit']}), torch {place['torch']}, {place['date']}")
    for name, values in found.items():
        changes = [value - before for value, before in zip(values, found["before"], strict=True)]
        print(f"{name:>7}  top-1 {fmean(values):.2f} ± {stdev(values):.2f} %  change {fmean(changes):+.2f} points")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
