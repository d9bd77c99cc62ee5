"""How often a study's verdicts are wrong, and how often they find a change: studies simulated, not trained.

A study has 14 steps of equal accuracy, except that half of them are better by ``--change`` points, so that one of its
13 comparisons has something to find. Whether a network gets an image right is a threshold on normal effects: of the
image, of the step on the image, of the training (step and seed), and the rest. The population's accuracy is then known
exactly.

Command: python benchmarks/verdicts.py [--studies 1000] [--seeds 6] [--images 360 1197 10000] [--change 0 0.5 1 2]
         [--spread 0.4] [--tails] [--until-decided]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from unittest import mock

import numpy as np
from scipy.stats import norm

from nextify.study import statistics
from nextify.study.looks import looks, more_seeds, share
from nextify.study.statistics import Scores, StepStatistics, conclude

STEPS = [f"step{i}" for i in range(14)]
BEFORE = dict(zip(STEPS, [None, *STEPS[:-1]], strict=True))
CHANGED = STEPS[7]
"""The first of the better half."""
IMAGE, STEP_IMAGE = 2.0, 0.7
"""Standard deviations of an image's effect and a step's on it, where the rest's is 1. Two trainings of neighbouring
steps at 97 % then disagree on 3 % of the images and their hits correlate by 0.4; on the digits it is 1 to 6 %, and 0.2
to 0.5."""


@dataclass(frozen=True)
class Simulation:
    """A kind of study."""

    seeds: int
    images: int
    change: float
    """Of ``CHANGED``, percentage points."""
    spread: float
    """Standard deviation of the population's accuracy over seeds, points."""
    tails: bool = False
    """Seeds by Student's t with 3 degrees of freedom, of the same standard deviation, and not a bell curve."""

    @property
    def accuracy(self) -> float:
        """Of the steps before ``CHANGED``, percent: the digits' where there are few images, CIFAR-10's where many."""
        return 97.0 if self.images < 5000 else 90.0

    def study(self, rng: np.random.Generator) -> Scores:
        """Which images each trial of one study gets right."""
        at = norm.ppf(self.accuracy / 100)
        without_seeds = math.sqrt(IMAGE**2 + STEP_IMAGE**2 + 1)
        seed_effect = self.spread / 100 * without_seeds / norm.pdf(at)
        whole = math.hypot(without_seeds, seed_effect)
        shape = (self.seeds, self.images)
        image = IMAGE * rng.standard_normal(self.images, np.float32)
        found: dict[str, dict[int, np.ndarray]] = {}
        for i, step in enumerate(STEPS):
            better = self.change if i >= STEPS.index(CHANGED) else 0.0
            seed = rng.standard_t(3, self.seeds) / math.sqrt(3) if self.tails else rng.standard_normal(self.seeds)
            level = whole * norm.ppf((self.accuracy + better) / 100) + seed_effect * seed
            likely = image + STEP_IMAGE * rng.standard_normal(self.images, np.float32)
            hits = rng.standard_normal(shape, np.float32) < likely + level[:, None].astype(np.float32)
            found[step] = dict(enumerate(hits))
        return found


def judged(
    right: Scores, seeds: Mapping[str, int], shares: Mapping[str, float] | None = None
) -> dict[str, StepStatistics]:
    """The verdicts of a study of which each step has so many seeds."""
    kept = {step: {s: hits for s, hits in of.items() if s < seeds[step]} for step, of in right.items()}
    accuracies = {step: {s: 100 * float(hits.mean()) for s, hits in of.items()} for step, of in kept.items()}
    with mock.patch.object(statistics, "DRAWS", 100):  # of the sign-flip test, which has no part in these verdicts
        return conclude(accuracies, BEFORE, scores=kept, shares=shares)


def until_decided(right: Scores, first: int, corrected: bool = True) -> tuple[dict[str, StepStatistics], int]:
    """The verdicts after all looks, and the trainings that they took; ``corrected``: for the looks."""
    seeds = dict.fromkeys(STEPS, first)
    while True:
        shares = {s: share(first, min(seeds[s], seeds[b])) for s, b in BEFORE.items() if b} if corrected else None
        found = judged(right, seeds, shares)
        more = more_seeds(found, seeds, first)
        if more is None:
            return found, sum(seeds.values())
        seeds = more


@dataclass(frozen=True)
class Rates:
    """Shares of the simulated studies or of their comparisons, 0 to 1."""

    single: float
    """Of the comparisons without a change, those whose own p is below 0.05."""
    family: float
    """Of the studies, those with a verdict on a comparison without a change, or the wrong one on the other."""
    found: float
    """Of the studies, those with the right verdict on the changed step."""
    trainings: float
    """Mean number in a study."""


def rates(kind: Simulation, studies: int, mode: str = "planned", seed: int = 0) -> Rates:
    """Simulate studies. ``mode``: ``planned``, ``until decided``, or ``uncorrected`` for its looks."""
    rng = np.random.default_rng(seed)
    singles, families, founds, counts = [], [], [], []
    for _ in range(studies):
        if mode == "planned":
            right = kind.study(rng)
            found, count = judged(right, dict.fromkeys(STEPS, kind.seeds)), kind.seeds * len(STEPS)
        else:
            most = Simulation(looks(kind.seeds)[-1], kind.images, kind.change, kind.spread, kind.tails)
            found, count = until_decided(most.study(rng), kind.seeds, mode == "until decided")
        compared = {step: s.comparison for step, s in found.items() if s.comparison and s.comparison.crossed}
        null = [c for step, c in compared.items() if step != CHANGED or kind.change == 0]
        verdict = compared[CHANGED].verdict
        singles.append(np.mean([c.crossed.p < 0.05 for c in null if c.crossed]))
        families.append(any(c.verdict != "no conclusion" for c in null) or verdict == "lower")
        founds.append(verdict == "higher")
        counts.append(count)
    return Rates(*(float(np.mean(values)) for values in (singles, families, founds, counts)))


def kinds(options: argparse.Namespace) -> Iterator[Simulation]:
    for images in options.images:
        for change in options.change:
            yield Simulation(options.seeds, images, change, options.spread, options.tails)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--images", type=int, nargs="+", default=[360, 1197, 10_000])
    parser.add_argument("--change", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0])
    parser.add_argument("--spread", type=float, default=0.4)
    parser.add_argument("--tails", action="store_true")
    parser.add_argument("--until-decided", action="store_true")
    options = parser.parse_args()
    modes = ["until decided", "uncorrected"] if options.until_decided else ["planned"]
    print(
        "| seeds | test images | change, points | p < 0.05, a comparison without change | a false verdict, per study "
        "| the change is found | trainings |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    began = time.monotonic()
    for kind in kinds(options):
        for mode in modes:
            r = rates(kind, options.studies, mode)
            named = f"{kind.seeds}" + (f", then {mode}" if options.until_decided else "")
            found = f"{r.found:.1%}" if kind.change else "–"
            print(
                f"| {named} | {kind.images:,} | {kind.change:g} | {r.single:.1%} | {r.family:.1%} | {found} | "
                f"{r.trainings:.0f} |", flush=True,
            )  # fmt: skip
    print(f"\n{options.studies} studies a line, spread {options.spread:g} points, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
