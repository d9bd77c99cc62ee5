"""The worth of each decision from all subsets: against exact values, with noise, and before all are trained."""

import functools
import itertools
from collections import Counter

import numpy as np
import pytest

from nextify.fitting.scale import scale
from nextify.paper.roadmap import roadmap
from nextify.report.attribution import Results, notes, page
from nextify.study.attribution import Subset, faith_shap, free_pairs, legal, mirrored, prefixes
from nextify.study.every_subset import TOGETHER, EverySubset
from nextify.study.plan import make_plan
from nextify.study.results import StudyData
from nextify.training.trial import Data
from tests.study.test_attribution import Facts, comes_before, game


@functools.cache
def planned(ends=2, regime="resnet50"):
    plan = make_plan(roadmap(regime), scale("tiny"), Facts(), Data("digits", "test", 10, 16), seeds=0)
    return EverySubset(plan, Facts(), ends)


def runs(made, passes=2):
    """The keys of so many passes, and of the ends."""
    most = passes * len(made.numbers)
    repeats = [(number, repeat) for number, repeat in made.sequence if repeat <= passes][:most]
    return [(made.subset(number), made._seed(number, repeat)) for number, repeat in repeats]


@pytest.mark.parametrize("regime", ["resnet50", "resnet200"])
def test_the_subsets_are_those_that_orders_meet(regime):
    made = planned(regime=regime)
    met, rng = {made.subset(number) for number in made.numbers}, np.random.default_rng(0)
    for _ in range(200):
        order = legal([made.names[i] for i in rng.permutation(len(made.names))])
        assert met >= {Subset(), *prefixes(order), Subset(order)}
    assert len(made.numbers) == 2880  # 9 of the depthwise's group, 5 of the training technique's, 2⁶ of the others


def test_every_run_is_planned_once_with_a_seed_of_its_own():
    made = planned()
    assert len(made.sequence) == len({*made.sequence}) == 2 * len(made.numbers) + 2 * 6  # both ends: 8 seeds, not 2
    assert [sum(number == end for number, _ in made.sequence) for end in (0, 2**13 - 1, 1)] == [8, 8, 2]
    assert [number for number, _ in made.sequence[: len(made.numbers)]] != made.numbers
    fresh = EverySubset(made.plan, Facts(), 2)
    fresh.extend(1)
    fresh.extend(2)
    assert len(fresh.trials) == 2 * TOGETHER == len({p.folder for p in fresh.trials})
    assert len({planned.trial.seed for planned in fresh.trials}) == 2 * TOGETHER
    assert fresh.counted(2) == f"{2 * TOGETHER} of 5,772 runs"


def test_values_of_a_game_with_one_pair_are_exact():
    made = planned()
    found = made.attribution({(s, seed): game(s) for s, seed in runs(made)})
    worth = {w.decision: w for w in found.worths}
    assert worth["width"].shapley.mean == pytest.approx(-1.0)
    assert worth["gelu"].shapley.mean == pytest.approx(3.5)
    assert worth["patchify"].shapley.mean == pytest.approx(1.75)
    assert (
        worth["gelu"].quantiles == pytest.approx((2.0, 2.0, 5.0, 5.0, 5.0), abs=1e-9) or worth["gelu"].quantiles[0] == 2
    )
    assert worth["gelu"].last.mean == pytest.approx(5.0)
    assert worth["gelu"].in_papers_order.mean == pytest.approx(5.0)
    assert worth["kernel_7"].alone.mean is None
    assert found.gap == pytest.approx(0, abs=1e-9)
    assert {found.interactions[0].first, found.interactions[0].second} == {"gelu", "patchify"}
    assert found.interactions[0].mean == pytest.approx(3.0, abs=1e-6)
    assert found.interactions[0].certain
    results = Results(found, "resnet50", StudyData("digits"), "tiny", 16, "top-1", "%", 99, 1.0, "nextify", "", "", {})
    said = " ".join(notes(results))
    assert "All 2,880 subsets" in said
    assert "new orders" not in said
    assert "too narrow" not in said
    assert "Opposite sign to the paper's: Depthwise conv, Increase width" in said
    assert "all 2,880 subsets" in page(results)


def test_interactions_are_those_that_many_pairs_of_orders_come_to():
    made, rng = planned(), np.random.default_rng(0)
    names, three = made.names, {"patchify", "width", "gelu"}  # which only bring something all together
    met = Counter()
    for _ in range(4000):
        order = legal([names[i] for i in rng.permutation(len(names))])
        met.update(s for each in (order, mirrored(order)) for s in (Subset(), *prefixes(each), Subset(each)))
    columns, weight = faith_shap(np.array([[name in s for name in names] for s in met], float), free_pairs(names))
    weight *= [*met.values()]
    values = np.array([10.0 * (three <= s) for s in met])
    expected = np.linalg.solve(columns.T @ (weight[:, None] * columns), columns.T @ (weight * values))[1 + len(names) :]
    found = made.attribution({(s, seed): 10.0 * (three <= s) for s, seed in runs(made)}).interactions
    means = {(i.first, i.second): i.mean for i in found}
    pairs = [(names[i], names[j]) for i, j in free_pairs(names)]
    assert [means[pair] for pair in pairs] == pytest.approx(expected.tolist(), abs=0.15)
    assert means["patchify", "width"] == pytest.approx(5.0, abs=0.5)  # Faith-Shap's, if no order were against the rule


def exact(made, pairwise):
    before = functools.cache(comes_before)
    return {
        a: pairwise[a, a] + sum(before(b, a) * (pairwise[a, b] + pairwise[b, a]) for b in made.names if b != a)
        for a in made.names
    }


def test_intervals_hold_the_true_values_where_some_runs_fail():
    made, rng = planned(ends=6), np.random.default_rng(3)
    drawn = rng.normal(0, 1, len(made.names) ** 2).tolist()
    pairwise = dict(zip(itertools.product(made.names, made.names), drawn, strict=True))
    true = exact(made, pairwise)
    keys = [(made.subset(n), made._seed(n, r)) for n, r in made.sequence]
    level = np.array([sum(pairwise[a, b] for a in s for b in s) for s, _ in keys])
    fragile = {"fewer_activations", "separate_downsampling"}
    fails = np.array([{"fewer_norms", "layer_norm"} <= s and not fragile & s for s, _ in keys])
    held, halves = [], []
    for _ in range(20):
        noisy = level + rng.normal(0, 0.7, len(keys)) + fails * rng.normal(0, 20, len(keys))
        worths = made.attribution(dict(zip(keys, noisy.tolist(), strict=True))).worths
        held += [worth.shapley.low <= true[worth.decision] <= worth.shapley.high for worth in worths]
        halves.append([(worth.shapley.high - worth.shapley.low) / 2 for worth in worths])
    assert 0.9 <= np.mean(held) <= 0.99
    assert np.min(halves) > 0.08
    assert np.mean(halves, 0).max() < 0.5


def test_nothing_follows_before_every_subset_has_a_run():
    made = planned()
    values = {(s, seed): game(s) for s, seed in runs(made, passes=1)}
    whole = made.attribution(values)
    assert whole.subsets == 2880
    assert whole.worths[0].shapley.low is None  # no subset was trained twice
    for key in runs(made, passes=1)[5:8]:
        del values[key]
    found = made.attribution(values)
    assert (found.worths, found.missing) == ((), 3)
