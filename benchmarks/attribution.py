"""How often intervals from pairs of random orders hold the true value: studies drawn from trained subsets.

``values.json`` of ``nextify attribute --every-subset`` has the accuracy of every subset of the decisions that an order
can meet. The mean of a subset's runs counts as the truth here, from which the true Shapley values follow; a simulated
run of the subset is one of its real runs, drawn at random.

    python benchmarks/attribution.py docs/results/digits-attribution/values.json [--studies 1000]

It also prints how many subsets failed to train. Results: docs/attribution.md.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from nextify.fitting.scale import scale
from nextify.paper.roadmap import roadmap
from nextify.study.attribution import legal, mirrored
from nextify.study.every_subset import EverySubset
from nextify.study.plan import make_plan
from nextify.training.trial import Data

POOL = 20_000
"""Pairs of orders from which studies are drawn."""


class Digits:
    """What planning needs to know of scikit-learn's digits."""

    train_images, num_classes, mirror_keeps_class = 600, 10, False


def plan() -> EverySubset:
    data = Data("digits", "simulated", Digits.num_classes, 16)
    return EverySubset(make_plan(roadmap("resnet50"), scale("tiny"), Digits(), data, seeds=0), Digits())


def read(path: Path) -> dict[int, list[float]]:
    """The accuracies of each subset, by its number."""
    runs = defaultdict(list)
    for name, (value, _) in json.loads(path.read_text()).items():
        found = re.match(r"subset-([0-9a-f]+)-seed", name)
        assert found is not None, name
        runs[int(found[1], 16)].append(value)
    return runs


def increments(made: EverySubset, runs: dict[int, list[float]], rng: np.random.Generator) -> np.ndarray:
    """What each decision adds in ``POOL`` pairs of orders, each the mean of its two orders: ``(POOL, decisions)``."""
    found = np.zeros((POOL, len(made.names)))
    for row in found:
        seen: dict[int, float] = {}  # the two orders of a pair share the runs of both ends

        def value(number: int, seen: dict[int, float] = seen) -> float:
            if number not in seen:
                seen[number] = float(rng.choice(runs[number]))
            return seen[number]

        order = legal([made.names[i] for i in rng.permutation(len(made.names))])
        for one in (order, mirrored(order)):
            number = 0
            for name in one:
                bit = 1 << made.names.index(name)
                row[made.names.index(name)] += (value(number | bit) - value(number)) / 2
                number |= bit
    return found


def failures(made: EverySubset, runs: dict[int, list[float]]) -> None:
    """How many first runs with the paper's recipe end low, of the kind of network that often does and of the others."""

    def is_of(number: int) -> bool:
        taken = made.subset(number)
        return {"fewer_norms", "layer_norm"} <= taken and not taken & {"fewer_activations", "separate_downsampling"}

    ends: dict[bool, list[float]] = {True: [], False: []}
    for number in made.numbers:
        if "training_technique" in made.subset(number):
            ends[is_of(number)].append(runs[number][0])
    for of_kind, name in (
        (True, "fewer norms, layer norm, all activations, no separate downsampling"),
        (False, "others"),
    ):
        below = {limit: sum(value < limit for value in ends[of_kind]) for limit in (90, 50)}
        print(f"{name}: of {len(ends[of_kind]):,} subsets {below[90]} end below 90 %, {below[50]} below 50 %")


def report(kind: str, low: np.ndarray, high: np.ndarray, truth: np.ndarray) -> None:
    """A row of the table, from intervals ``(studies, decisions)``."""
    held, half = 100 * ((low <= truth) & (truth <= high)).mean(0), (high - low) / 2
    widths = np.median(half, 0)
    print(
        f"| {kind} | {held.mean():.1f} | {held.min():.1f} | {widths.min():.2f} to {widths.max():.2f} | "
        f"{np.quantile(half.max(1), 0.95):.2f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("values", type=Path)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10, 20, 50, 100])
    options = parser.parse_args()
    rng, made, runs = np.random.default_rng(0), plan(), read(options.values)
    missing = len({*made.numbers} - {*runs})
    if missing:
        raise SystemExit(f"{missing:,} of {len(made.numbers):,} subsets have no run yet: go on with --every-subset")
    failures(made, runs)
    once = sum(len(runs[n]) == 1 for n in made.numbers)
    if once:
        print(f"{once:,} subsets have one run only: without noise here, so that intervals look better than they are")
    keys = {n: (made.subset(n), n) for n in made.numbers}
    exact = made.attribution({keys[n]: float(np.mean(runs[n])) for n in made.numbers})
    truth = np.array([worth.shapley.mean for worth in exact.worths])
    print(f"{options.studies:,} studies of each size\n")
    print("| pairs of orders | intervals that hold the truth, % | worst decision | half-width, points | widest, 95 % |")
    print("|---|--:|--:|--:|--:|")
    pool = increments(made, runs, rng)
    for pairs in options.pairs:
        drawn = pool[rng.integers(POOL, size=(options.studies, pairs))]
        half = stats.t.ppf(0.975, pairs - 1) * drawn.std(1, ddof=1) / pairs**0.5
        report(str(pairs), drawn.mean(1) - half, drawn.mean(1) + half, truth)


if __name__ == "__main__":
    main()
