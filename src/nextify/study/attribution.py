"""What each decision of a roadmap is worth whatever the order: Shapley values from real trainings.

A *subset* of the decisions is a network between the first and the last row, with some of the decisions taken; its value
is what the network reaches on the test images. Shapley values ("A value for n-person games", 1953) are estimated by
random orders (Castro, Gómez and Tejada, Computers & Operations Research 36, 2009) in antithetic pairs (Mitchell,
Cooper, Frank and Holmes, JMLR 23, 2022). Every pair has a seed of its own, so the pairs are independent samples
(docs/attribution.md).

Some decisions only make sense after another one, and come after it in every order, as ``AFTER`` says (Faigle and Kern,
"The Shapley value for cooperative games under precedence constraints", 1992).
"""

import itertools
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import stats

from nextify.fitting.fit import Facts, fit_design
from nextify.networks.layout import cost
from nextify.paper.design import Design
from nextify.paper.recipe import Recipe
from nextify.paper.roadmap import Row
from nextify.study.plan import Plan, PlannedTrial
from nextify.study.statistics import confidence_interval
from nextify.system.text import plural
from nextify.training.trial import Trial

Subset = frozenset[str]
Order = tuple[str, ...]
Floats = npt.NDArray[np.float64]
Values = Mapping[tuple[Subset, int], float]
"""``{(subset, seed): value}`` of the trainings that have ended."""

AFTER = {
    "depthwise": ("inverted_bottleneck", "move_up", "kernel_7"),
    "training_technique": ("fewer_norms", "layer_norm"),
}
"""Decisions, each with those that come after it in every order: without the depthwise convolution, these would make
convolutions too dear to train; with the original recipe, most networks that have taken these do not train well."""
DEAREST = 4.0
"""Multiply-adds of a network, in those of the roadmap's dearest row, up to which it is trained."""
CONFIDENCE = 0.95
RESAMPLES = 1000
"""Bootstrap samples of the pairs, for the intervals of the interactions."""
PAIRS_FOR_INTERACTIONS = 10
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FAR_PAIR = 10**6
"""Number of a pair that stands for all those beyond the first ``ends``, whose trainings are counted for estimates."""


@dataclass(frozen=True)
class Estimate:
    """A mean over independent samples, in points of the metric."""

    mean: float | None
    low: float | None
    high: float | None
    """Ends of the 95 % interval (Student's t); None with fewer than 2 samples."""
    n: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Self:
        """The mean of ``samples`` with its interval."""
        low, high = confidence_interval(samples, CONFIDENCE) or (None, None)
        return cls(fmean(samples) if samples else None, low, high, len(samples))


@dataclass(frozen=True)
class Worth:
    """What a decision is worth, each in points of the metric."""

    decision: str
    title: str
    group: str
    shapley: Estimate
    alone: Estimate
    """Taken alone by the first row."""
    last: Estimate
    """Taken last, by the last row without it."""
    in_papers_order: Estimate
    """In the paper's order, here."""
    quantiles: tuple[float, ...] = ()
    """The 5, 25, 50, 75 and 95 % quantiles of what it adds, over the orders."""
    papers_place: float | None = None
    """Share of the orders in which it adds less than in the paper's, 0 to 1."""
    published: float | None = None
    """The paper's change, in its order and on its images."""


@dataclass(frozen=True)
class Interaction:
    """How much more two decisions bring together than each by itself, in points of the metric."""

    first: str
    second: str
    mean: float
    low: float
    high: float
    certain: bool
    """Whether it can be told from nothing with all pairs of decisions considered (Bonferroni)."""


@dataclass(frozen=True)
class Attribution:
    """Everything that was found."""

    worths: tuple[Worth, ...]
    """In the paper's order."""
    interactions: tuple[Interaction, ...]
    """By size; none with fewer than ``PAIRS_FOR_INTERACTIONS`` pairs of orders."""
    pairs: int
    """Pairs of orders whose trainings have all ended."""
    whole: Estimate
    """From the first row to the last."""
    gap: float | None
    """Sum of the Shapley values minus ``whole``: 0 but for rounding."""
    left_out: int
    """Pairs, or runs of single subsets, in which a training failed; they count nowhere."""
    subsets: int = 0
    """Subsets that were trained, where all were; ``pairs`` is 0 then."""
    missing: int = 0
    """Subsets that are still to be trained, before anything follows from all of them."""

    @property
    def basis(self) -> str:
        """What it was found from, in words."""
        return f"all {self.subsets:,} subsets" if self.subsets else f"{plural(self.pairs, 'pair')} of orders"


@dataclass
class Attributed:
    """The trainings of an attribution, pair by pair."""

    plan: Plan
    """Of the roadmap whose decisions are attributed; its trials are not used."""
    facts: Facts
    ends: int = 6
    """Pairs, from the first on, with whose seeds every decision is also taken alone, last, and in the paper's order."""
    pairs: int = field(default=0, init=False)
    keyed: dict[tuple[Subset, int], PlannedTrial] = field(default_factory=dict, init=False)
    """The trainings by subset and seed, pair by pair."""

    @cached_property
    def most(self) -> int:
        """Pairs that can be planned."""
        return sys.maxsize

    @property
    def described(self) -> str:
        """What is trained, in words."""
        return f"{self.trainings_of_a_pair} runs per pair of orders"

    def counted(self, pairs: int) -> str:
        """So many pairs, in words."""
        return f"{plural(pairs, 'pair')} of orders"

    @cached_property
    def decisions(self) -> tuple[Row, ...]:
        """The adopted ones, in the paper's order."""
        return tuple(row for row in self.plan.roadmap.rows[1:] if row.adopted)

    @cached_property
    def names(self) -> Order:
        return tuple(row.name for row in self.decisions)

    @property
    def trials(self) -> tuple[PlannedTrial, ...]:
        """Pair by pair, each training once."""
        return tuple(self.keyed.values())

    def extend(self, pairs: int) -> None:
        """Plan further pairs, up to ``pairs`` in all."""
        for pair in range(self.pairs, pairs):
            self.keyed |= {(subset, pair): self.trial(subset, pair) for subset in self.subsets(pair)}
        self.pairs = max(self.pairs, pairs)

    def trial(self, taken: Subset, seed: int) -> PlannedTrial:
        """The training of a subset."""
        plan = self.plan
        recipe = self._recipe(taken)
        name = f"subset-{self.number(taken):0{(len(self.names) + 3) // 4}x}"
        return PlannedTrial(name, Trial(self.design(taken), recipe, plan.data, seed), name)

    def number(self, taken: Subset) -> int:
        """Bit i says whether decision i is taken."""
        return sum(1 << i for i, name in enumerate(self.names) if name in taken)

    def _recipe(self, taken: Subset) -> Recipe:
        changed = any(step.recipe is not None for step in self.plan.roadmap.steps if step.name in taken)
        return self.plan.modern if changed else self.plan.original

    def design(self, taken: Subset) -> Design:
        """The network of a subset, fitted as the study's rows are."""
        plan, recipe = self.plan, self._recipe(taken)
        changes = {k: v for step in plan.roadmap.steps if step.name in taken for k, v in step.after.items()}
        design = plan.roadmap.design.with_(**changes)
        steps = recipe.epochs * (self.facts.train_images // recipe.batch_size)
        return fit_design(plan.scale.shrink(design), image_size=plan.data.image_size, steps=steps)[0]

    def orders(self, pair: int) -> tuple[Order, Order]:
        """A random order and its mirror image, always the same of one number."""
        shuffled = np.random.default_rng([2201, 3545, pair]).permutation(len(self.names))
        order = legal([self.names[i] for i in shuffled])
        return order, mirrored(order)

    def subsets(self, pair: int) -> tuple[Subset, ...]:
        """What is trained with the seed of a pair: both ends, then the way of each order, then, with the seeds of the
        first ``ends``, each decision alone, each left out, and the paper's order; without what would cost too much."""
        every, found = Subset(self.names), self._ways(pair)
        if pair < self.ends:
            found += [Subset({name}) for name in self.names if self.trainable(Subset({name}))]
            found += [every - {name} for name in self.names if self.trainable(every - {name})]
            found += prefixes(self.names)
        return tuple(dict.fromkeys(found))

    @cached_property
    def trainings_of_a_pair(self) -> int:
        """How many it takes, beyond the first ``ends`` pairs."""
        return len(self.subsets(FAR_PAIR))

    def trainable(self, taken: Subset) -> bool:
        """Whether the network is not too dear."""
        return self._macs(taken) <= DEAREST * self._dearest

    @cached_property
    def _dearest(self) -> int:
        return max(self._macs(subset) for subset in prefixes(self.names))

    def _macs(self, taken: Subset) -> int:
        return cost(self.design(taken), self.plan.data.image_size, self.plan.data.num_classes).macs

    def attribution(self, values: Values, failed: Iterable[tuple[Subset, int]] = ()) -> Attribution:
        """What follows from the trainings that have ended. Pairs that are not complete count nowhere."""
        every, broken = Subset(self.names), {seed for _, seed in failed}
        whole = [p for p in range(self.pairs) if all((s, p) in values for s in self._ways(p))]
        added = {p: [_added(order, p, values) for order in self.orders(p)] for p in whole}
        ends = [p for p in range(min(self.pairs, self.ends)) if all((s, p) in values for s in self.subsets(p))]
        paper = {p: _added(self.names, p, values) for p in ends}
        worths = []
        for row in self.decisions:
            name = row.name
            spread = [way[name] for ways in added.values() for way in ways]
            here = Estimate.of([way[name] for way in paper.values()])
            alone = [values[Subset({name}), p] - values[Subset(), p] for p in ends if (Subset({name}), p) in values]
            last = [values[every, p] - values[every - {name}, p] for p in ends if (every - {name}, p) in values]
            worths.append(
                Worth(
                    *(name, row.title.split(" = ")[0], row.group),
                    Estimate.of([fmean(way[name] for way in ways) for ways in added.values()]),
                    Estimate.of(alone if self.trainable(Subset({name})) else []),
                    Estimate.of(last if self.trainable(every - {name}) else []),
                    here,
                    tuple(map(float, np.quantile(spread, QUANTILES))) if spread else (),
                    None if here.mean is None or not spread else fmean(float(s < here.mean) for s in spread),
                    row.published_change,
                )
            )
        total = Estimate.of([values[every, p] - values[Subset(), p] for p in whole])
        found = [w.shapley.mean for w in worths if w.shapley.mean is not None]
        gap = None if total.mean is None else sum(found) - total.mean
        return Attribution(
            tuple(worths), self._interactions(values, whole), len(whole), total, gap, len(broken - set(whole))
        )

    def _ways(self, pair: int) -> list[Subset]:
        return [Subset(), Subset(self.names), *(s for order in self.orders(pair) for s in prefixes(order))]

    def _interactions(self, values: Values, pairs: Sequence[int]) -> tuple[Interaction, ...]:
        """By least squares: the value as a sum over decisions and pairs of decisions, each subset weighted as in
        Faith-Shap (Tsai, Yeh and Ravikumar, JMLR 24, 2023), both ends held. Intervals by bootstrap over ``pairs``.

        What a decision adds to the one it always follows is part of its own worth, so such a pair has no interaction.
        """
        if len(pairs) < PAIRS_FOR_INTERACTIONS:
            return ()
        count, both = len(self.names), free_pairs(self.names)
        squares, products = [], []
        for p in pairs:
            subsets = sorted({*self._ways(p)}, key=lambda s: (len(s), sorted(s)))
            columns, weight = faith_shap(np.array([[name in s for name in self.names] for s in subsets], float), both)
            target = np.array([values[s, p] for s in subsets])
            squares.append(columns.T @ (weight[:, None] * columns))
            products.append(columns.T @ (weight * target))
        a, b = np.array(squares), np.array(products)
        a += 1e-9 * np.eye(a.shape[-1])  # for bootstrap samples of few different pairs
        found = np.linalg.solve(a.sum(0), b.sum(0))[1 + count :]
        times = np.random.default_rng(2201).multinomial(len(pairs), [1 / len(pairs)] * len(pairs), RESAMPLES)
        sums = np.tensordot(times, a, 1), np.tensordot(times, b, 1)
        errors = np.linalg.solve(sums[0], sums[1][..., None])[:, 1 + count :, 0].std(0, ddof=1)
        quantile = stats.t.ppf(0.5 + CONFIDENCE / 2, len(pairs) - 1)
        strict = stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / len(both), len(pairs) - 1)
        interactions = [
            Interaction(
                *(self.names[i], self.names[j], float(mean)),
                *(float(mean - quantile * error), float(mean + quantile * error), bool(abs(mean) > strict * error)),
            )
            for (i, j), mean, error in zip(both, found, errors, strict=True)
        ]
        return tuple(sorted(interactions, key=lambda each: -abs(each.mean)))


def legal(order: Sequence[str]) -> Order:
    """The order with the decisions of ``AFTER`` where they belong, each group on the places that its members have.

    Of a uniformly random order it makes a uniformly random one of those that keep the rule."""
    found = list(order)
    for first, others in AFTER.items():
        places = [i for i, name in enumerate(found) if name == first or name in others]
        members = sorted((found[i] for i in places), key=first.__ne__)  # stable: the others keep their order
        for place, name in zip(places, members, strict=True):
            found[place] = name
    return tuple(found)


def lawful(taken: Collection[str]) -> bool:
    """Whether an order that keeps the rule leads to these decisions."""
    return all(first in taken or not {*taken} & {*others} for first, others in AFTER.items())


def mirrored(order: Sequence[str]) -> Order:
    """The reverse order, made legal again: the mirror image of its mirror image is itself."""
    return legal(tuple(reversed(order)))


def free_pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    """The pairs of decisions of which neither has to come before the other."""
    tied = {frozenset((first, name)) for first, others in AFTER.items() for name in others}
    return [(i, j) for i, j in itertools.combinations(range(len(names)), 2) if {names[i], names[j]} not in tied]


def faith_shap(taken: Floats, both: Sequence[tuple[int, int]]) -> tuple[Floats, Floats]:
    """The columns and weights (S,) of a fit by least squares to the subsets ``taken`` (S, K), of 0 and 1: a column of
    ones, one per decision, and one per pair in ``both``."""
    count, size = taken.shape[1], taken.sum(1)
    inside = (size > 0) & (size < count)
    weight = np.where(inside, 1 / np.maximum(size * (count - size), 1), 1e3)
    return np.column_stack([np.ones(len(taken)), taken, *(taken[:, i] * taken[:, j] for i, j in both)]), weight


def prefixes(order: Sequence[str]) -> list[Subset]:
    """The subsets on the way, without the empty and the whole one."""
    return [Subset(order[:i]) for i in range(1, len(order))]


def _added(order: Order, seed: int, values: Values) -> dict[str, float]:
    """What each decision adds in an order."""
    pairs = itertools.pairwise([Subset(), *prefixes(order), Subset(order)])
    return {name: values[b, seed] - values[a, seed] for name, (a, b) in zip(order, pairs, strict=True)}
