"""What each decision of a roadmap is worth, from every subset of the decisions that an order can meet.

Where a run is short, all subsets can be trained. Nothing is left to the choice of orders then: a Shapley value is a sum
over the subsets with known weights, and only the noise of each run remains. Each run has a seed of its own, so runs are
independent, and the variance within subsets that were trained more than once gives the interval (docs/attribution.md).
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from scipy import stats

from nextify.study.attribution import (
    CONFIDENCE,
    QUANTILES,
    Attributed,
    Attribution,
    Estimate,
    Floats,
    Interaction,
    Subset,
    Values,
    Worth,
    faith_shap,
    free_pairs,
    lawful,
    prefixes,
)

TOGETHER = 24
"""Runs that are planned at a time."""
PASSES = 2
"""Runs of each subset in all: with one, nothing says how much runs of a subset differ."""
BOTH_ENDS = 4
"""Times as many seeds for no decision and for all as for the other ends: every order meets them, so they weigh most."""


@dataclass
class EverySubset(Attributed):
    """The runs of all subsets, in random order: once each, then those of the ends with further seeds, then once more.

    Each decision alone, each left out and the paper's order get ``ends`` seeds, no decision and all of them four times
    as many. ``pairs`` counts portions of ``TOGETHER`` runs.
    """

    @cached_property
    def numbers(self) -> list[int]:
        """The subsets that an order can meet; bit i says whether decision i is taken."""
        return [number for number in range(1 << len(self.names)) if lawful(self.subset(number))]

    def subset(self, number: int) -> Subset:
        return Subset(name for i, name in enumerate(self.names) if number >> i & 1)

    @cached_property
    def sequence(self) -> list[tuple[int, int]]:
        """Number and repeat of every run, in the order in which they are trained."""
        first, *others = (
            [(int(n), repeat) for n in np.random.default_rng([2201, 3545, repeat]).permutation(self.numbers)]
            for repeat in range(1, PASSES + 1)
        )
        ends = [(n, repeat) for repeat in range(2, self.ends + 1) for n in self._ends]
        further = range(self.ends + 1, BOTH_ENDS * self.ends + 1)
        both = [(n, repeat) for repeat in further for n in (0, self.number(Subset(self.names)))]
        return [*dict.fromkeys(itertools.chain(first, ends, both, *others))]

    @cached_property
    def _ends(self) -> list[int]:
        """Each decision alone, each left out, the paper's order, and both ends."""
        every = Subset(self.names)
        found = [Subset(), every, *prefixes(self.names)]
        found += [Subset({name}) for name in self.names] + [every - {name} for name in self.names]
        met = set(self.numbers)
        return [n for n in dict.fromkeys(map(self.number, found)) if n in met]

    def _seed(self, number: int, repeat: int) -> int:
        return (repeat << len(self.names)) + number

    @cached_property
    def most(self) -> int:
        return math.ceil(len(self.sequence) / TOGETHER)

    @property
    def trainings_of_a_pair(self) -> int:
        return TOGETHER

    def extend(self, pairs: int) -> None:
        """Plan further runs, up to ``pairs`` portions in all."""
        for number, repeat in self.sequence[self.pairs * TOGETHER : pairs * TOGETHER]:
            subset, seed = self.subset(number), self._seed(number, repeat)
            self.keyed[subset, seed] = self.trial(subset, seed)
        self.pairs = max(self.pairs, min(pairs, self.most))

    @property
    def described(self) -> str:
        return f"{len(self.numbers):,} subsets that an order can meet"

    def counted(self, pairs: int) -> str:
        return f"{min(pairs * TOGETHER, len(self.sequence)):,} of {len(self.sequence):,} runs"

    def attribution(self, values: Values, failed: Iterable[tuple[Subset, int]] = ()) -> Attribution:
        """What follows from the runs that have ended: nothing before every subset has one."""
        runs = _Runs.of(self.numbers, {(self.number(s), seed): value for (s, seed), value in values.items()})
        left_out = len({*failed})
        if runs is None:
            missing = len({*self.numbers} - {self.number(s) for s, _ in values})
            return Attribution((), (), 0, Estimate.of([]), None, left_out, missing=missing)
        ends = np.zeros(len(runs.means))
        ends[0], ends[-1] = -1.0, 1.0  # the numbers of no decision and of all
        whole = runs.estimate(ends)
        worths = tuple(self._worth(i, runs, values) for i in range(len(self.names)))
        total = sum(w.shapley.mean or 0.0 for w in worths)
        gap = total - (whole.mean or 0.0)
        return Attribution(worths, self._pairs_of_decisions(runs), 0, whole, gap, left_out, subsets=len(self.numbers))

    def _worth(self, i: int, runs: "_Runs", values: Values) -> Worth:
        row, name, every, bit = self.decisions[i], self.names[i], (1 << len(self.names)) - 1, 1 << i
        shares = self._shares[i]
        weights = np.zeros(len(runs.means))
        share = np.array([*shares.values()])
        without, taken = ([runs.place[number | add] for number in shares] for add in (0, bit))
        weights[taken], weights[without] = share, -share
        added = runs.means[taken] - runs.means[without]
        before = self.number(Subset(self.names[:i]))
        here = self._repeated(before, before | bit, values)
        order = np.argsort(added, kind="stable")
        reached = np.cumsum(share[order])
        places = np.minimum(np.searchsorted(reached, QUANTILES), len(order) - 1)
        return Worth(
            *(name, row.title.split(" = ")[0], row.group),
            runs.estimate(weights),
            self._repeated(0, bit, values),
            self._repeated(every ^ bit, every, values),
            here,
            tuple(added[order][places].tolist()),
            None if here.mean is None else float(share[added < here.mean].sum()),
            row.published_change,
        )

    def _repeated(self, without: int, taken: int, values: Values) -> Estimate:
        """What the repeats of two subsets differ by; nothing for a subset that no order meets."""
        pairs = [
            [(self.subset(number), self._seed(number, repeat)) for number in (without, taken)]
            for repeat in range(1, max(1, self.ends) + 1)
        ]
        return Estimate.of([values[b] - values[a] for a, b in pairs if a in values and b in values])

    @cached_property
    def _shares(self) -> list[dict[int, float]]:
        """For each decision, the share of all orders in which it comes right after each subset."""
        (ways, left), met = self._orders_of, set(self.numbers)
        return [
            {n: ways[n] * left[n | 1 << i] / left[0] for n in self.numbers if not n >> i & 1 and n | 1 << i in met}
            for i in range(len(self.names))
        ]

    @cached_property
    def _orders_of(self) -> tuple[dict[int, int], dict[int, int]]:
        """By subset: the orders of its own decisions, and those of the decisions that it lacks."""
        count, met = len(self.names), set(self.numbers)
        ways = {0: 1}
        for n in self.numbers[1:]:
            ways[n] = sum(ways[n ^ 1 << i] for i in range(count) if n >> i & 1 and n ^ 1 << i in met)
        left = {(1 << count) - 1: 1}
        for n in reversed(self.numbers[:-1]):
            left[n] = sum(left[n | 1 << i] for i in range(count) if not n >> i & 1 and n | 1 << i in met)
        return ways, left

    def _pairs_of_decisions(self, runs: "_Runs") -> tuple[Interaction, ...]:
        """As ``Attributed`` fits them, to the means of all subsets, each with the share of the orders that meet it."""
        count, both = len(self.names), free_pairs(self.names)
        taken = np.array([[number >> i & 1 for i in range(count)] for number in self.numbers], float)
        columns, weight = faith_shap(taken, both)
        ways, left = self._orders_of
        weight *= np.array([ways[number] * left[number] / left[0] for number in self.numbers])
        fitted = np.linalg.solve(columns.T @ (weight[:, None] * columns), columns.T * weight)[1 + count :]
        found = []
        for (i, j), weights in zip(both, fitted, strict=True):
            loose, strict = runs.estimate(weights), runs.estimate(weights, 1 - (1 - CONFIDENCE) / len(both))
            if loose.mean is None or loose.low is None or loose.high is None:
                return ()
            certain = strict.low is not None and strict.high is not None and (strict.low > 0 or strict.high < 0)
            found.append(Interaction(self.names[i], self.names[j], loose.mean, loose.low, loose.high, certain))
        return tuple(sorted(found, key=lambda each: -abs(each.mean)))


@dataclass
class _Runs:
    """The means of all subsets, and how far the runs of a subset differ."""

    place: dict[int, int]
    means: Floats
    counts: Floats
    variances: Floats
    """Of one run; 0 where there is only one."""
    total: int

    @classmethod
    def of(cls, numbers: list[int], values: dict[tuple[int, int], float]) -> Self | None:
        """None where a subset has no run."""
        runs: dict[int, list[float]] = {number: [] for number in numbers}
        for (number, _), value in values.items():
            runs[number].append(value)
        if not all(runs.values()):
            return None
        return cls(
            {number: i for i, number in enumerate(numbers)},
            np.array([np.mean(each) for each in runs.values()]),
            np.array([len(each) for each in runs.values()], float),
            np.array([np.var(each, ddof=1) if len(each) > 1 else 0.0 for each in runs.values()]),
            len(values),
        )

    def estimate(self, weights: Floats, confidence: float = CONFIDENCE) -> Estimate:
        """The weighted sum of the means; without an interval where a subset has one run only. Degrees of freedom after
        Satterthwaite (Biometrics Bulletin 2, 1946)."""
        mean, used = float(weights @ self.means), weights != 0
        counts = self.counts[used]
        if counts.min() < 2:
            return Estimate(mean, None, None, self.total)
        parts = weights[used] ** 2 * self.variances[used] / counts
        if not (variance := parts.sum()):
            return Estimate(mean, mean, mean, self.total)
        freedom = variance**2 / (parts**2 / (counts - 1)).sum()
        half = float(stats.t.ppf(0.5 + confidence / 2, freedom) * math.sqrt(variance))
        return Estimate(mean, mean - half, mean + half, self.total)
