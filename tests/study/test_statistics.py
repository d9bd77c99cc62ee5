"""The statistics against hand-computed values, scipy, and the edges where few seeds say nothing."""

import itertools
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from nextify.study import statistics as S


def compare(values, reference):
    return S.conclude({"step": values, "reference": reference}, {"step": "reference"})["step"].comparison


def test_summary_by_hand():
    summary = S.summarize({0: 94.0, 1: 95.0, 2: 96.0}, test_images=1197)
    assert (summary.n, summary.mean, summary.std) == (3, 95.0, 1.0)
    assert summary.binomial_standard_error == pytest.approx(100 * math.sqrt(0.95 * 0.05 / 1197))


@pytest.mark.parametrize(
    ("values", "n"), [({}, 0), ({0: None}, 0), ({0: math.nan, 1: None}, 0), ({0: 90.0, 1: None}, 1)]
)
def test_summary_leaves_out_failed_and_unfinished(values, n):
    summary = S.summarize(values)
    assert summary.n == n
    assert summary.std is None
    assert (summary.mean is None) == (n == 0)


def test_binomial_standard_error_refuses_nonsense():
    assert S.binomial_standard_error(100.0, 10) == 0
    for top1, images in ((101, 10), (-1, 10), (50, 0)):
        with pytest.raises(ValueError, match="must be"):
            S.binomial_standard_error(top1, images)


def test_interval_by_hand_and_as_scipy():
    low, high = S.confidence_interval([1.0, 2.0, 3.0])
    assert low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)
    differences = np.random.default_rng(1).normal(size=9)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert S.confidence_interval(list(differences)) == pytest.approx((expected.low, expected.high))
    assert S.confidence_interval([0.5]) is None
    assert S.confidence_interval([0.5, 0.5]) == (0.5, 0.5)


def test_sign_flip_by_hand():
    assert S.sign_flip_p([]) is None
    assert S.sign_flip_p([0.7]) == 1
    assert S.sign_flip_p([1, 1, 1]) == 0.25
    assert S.sign_flip_p([1, 2, -3]) == 1
    assert S.sign_flip_p([3, 2, -1]) == 0.5  # |sum| 4 or more: ±(3, 2, 1) and ±(3, 2, −1)
    assert S.sign_flip_p([0, 0, 0]) == 1
    assert S.sign_flip_p([0.1] * 6) == 2 / 64
    assert S.sign_flip_p([-0.1] * 6) == 2 / 64


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_sign_flip_refuses_what_is_not_finite(wrong):
    with pytest.raises(ValueError, match="must be finite"):
        S.sign_flip_p([0.1, wrong])


def test_sign_flip_counts_every_pattern():
    generator = np.random.default_rng(0)
    for n in range(1, 11):
        d = np.round(generator.normal(0.3, 1, n), 1)  # rounded, so that sums tie
        sums = np.array([abs(np.dot(s, d)) for s in itertools.product((1, -1), repeat=n)])
        assert S.sign_flip_p(list(d)) == np.mean(sums >= abs(d.sum()) - 1e-9)


def test_sign_flip_as_scipy():
    d = list(np.random.default_rng(2).normal(0.4, 1, 11))
    result = stats.permutation_test(
        (np.array(d), np.zeros(11)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert S.sign_flip_p(d) == pytest.approx(result.pvalue)


def test_sign_flip_of_many_pairs_is_drawn_reproducibly_and_near_the_exact_one(monkeypatch):
    assert 0 < S.sign_flip_p([1.0] * S.EXACT_UP_TO) < 1e-5  # the largest exact one
    many = list(np.random.default_rng(3).normal(0.3, 1, 30))
    assert S.sign_flip_p(many) == S.sign_flip_p(many)
    d = list(np.random.default_rng(4).normal(0.4, 1, 16))
    exact = S.sign_flip_p(d)
    monkeypatch.setattr(S, "EXACT_UP_TO", 10)
    drawn = S.sign_flip_p(d)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=5 * math.sqrt(exact / S.DRAWS))
    assert S.sign_flip_p([1.0] * 60) == 1 / (1 + S.DRAWS)  # never 0


def test_seeds_needed():
    assert [S.smallest_possible_p(n) for n in (0, 1, 2, 3, 6)] == [None, 1, 0.5, 0.25, 0.03125]
    assert S.seeds_needed() == 6
    assert S.seeds_needed(0.01) == 8
    assert S.seeds_needed(0.25) == 4  # below alpha, not at it
    assert S.seeds_needed(0.05, comparisons=13) == 10
    for wrong in ({"alpha": 0.0}, {"alpha": 1.0}, {"comparisons": 0}):
        with pytest.raises(ValueError, match="alpha"):
            S.seeds_needed(**wrong)


def test_holm_by_hand():
    assert S.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert S.holm({"a": 0.9, "b": None, "c": 0.6}) == {"a": 1.0, "b": None, "c": 1.0}
    assert list(S.holm({"z": 0.5, "a": 0.1})) == ["z", "a"]
    assert S.holm({}) == {}


def test_three_seeds_conclude_nothing_and_say_how_many_would_do():
    c = compare({0: 96.0, 1: 97.0, 2: 96.5}, {0: 95.0, 1: 95.5, 2: 95.6})
    assert c.n == 3
    assert c.change == pytest.approx((1.0 + 1.5 + 0.9) / 3)
    assert c.low < c.change < c.high
    assert (c.p_value, c.smallest_possible_p, c.seeds_needed, c.verdict) == (0.25, 0.25, 6, "no conclusion")
    assert c.conclusion == (
        "No conclusion: with 3 paired seeds a two-sided sign-flip test cannot go below p = 0.25, though all 3 were "
        "higher; 6 paired seeds would do."
    )


def test_three_seeds_conclude_nothing_even_where_the_interval_has_no_width():
    c = compare({0: 2.0, 1: 2.0, 2: 2.0}, {0: 1.0, 1: 1.0, 2: 1.0})
    assert (c.low, c.high, c.verdict) == (1.0, 1.0, "no conclusion")


@pytest.mark.parametrize(("sign", "verdict"), [(1, "higher"), (-1, "lower")])
def test_six_seeds_can_conclude(sign, verdict):
    reference = {s: 90.0 + s / 10 for s in range(6)}
    c = compare({s: v + sign * (1 + s / 20) for s, v in reference.items()}, reference)
    assert c.p_value == 2 / 64
    assert c.verdict == verdict
    assert c.conclusion == f"{verdict.capitalize()}: 6 paired seeds, sign-flip p = 0.031."


def test_six_seeds_need_not_conclude():
    c = compare({s: 90.0 + (-1) ** s for s in range(6)}, dict.fromkeys(range(6), 90.0))
    assert (c.change, c.verdict) == (0, "no conclusion")
    assert c.conclusion.startswith("No conclusion: the change of 6 paired seeds is within")
    c = compare(dict.fromkeys(range(8), 90.0), dict.fromkeys(range(8), 90.0))
    assert (c.change, c.low, c.high, c.p_value, c.verdict) == (0, 0, 0, 1, "no conclusion")


def test_one_seed():
    result = S.conclude({"a": {0: 95.0}, "b": {0: 96.0}}, {"a": None, "b": "a"}, test_images=1197)
    assert result["a"].comparison is None
    c = result["b"].comparison
    assert (c.change, c.low, c.high, c.p_value, c.verdict) == (1.0, None, None, 1.0, "no conclusion")
    assert "1,197 test images alone leave a standard error of 0.57 points" in c.conclusion
    assert c.conclusion.endswith("; 6 would do.")


def test_seeds_are_paired_and_gaps_are_no_error():
    result = S.conclude(
        {"a": {0: 90.0, 1: 91.0, 2: 92.0}, "b": {1: 91.5, 2: None, 3: 99.0, 0: 90.5}, "c": {5: 80.0}},
        {"a": None, "b": "a", "c": "a", "never run": "b", "after it": "never run"},
    )
    assert list(result) == ["a", "b", "c", "never run", "after it"]
    b = result["b"].comparison
    assert (b.seeds, b.change) == ((0, 1), 0.5)
    assert result["b"].summary.n == 3  # seed 3 counts for the mean, not for the pairs
    for step in ("c", "never run", "after it"):
        c = result[step].comparison
        assert (c.n, c.change, c.p_value, c.p_holm, c.verdict) == (0, None, None, None, "no conclusion")
        assert "no seed has finished both" in c.conclusion
    json.dumps({step: asdict(s) for step, s in result.items()}, allow_nan=False)


def test_holm_over_the_steps_is_said():
    start = dict.fromkeys(range(6), 90.0)
    accuracies = {"start": start} | {f"step{i}": {s: 91.0 + s / 10 for s in range(6)} for i in range(3)}
    result = S.conclude(accuracies, {"start": None} | {f"step{i}": "start" for i in range(3)})
    c = result["step0"].comparison
    assert (c.p_value, c.p_holm, c.verdict) == (2 / 64, 6 / 64, "higher")
    assert "but p = 0.094 after Holm's correction over the 3 comparisons" in c.conclusion
    many = S.conclude(
        {k: dict(enumerate([next(iter(v.values())) + i / 9 for i in range(12)])) for k, v in accuracies.items()},
        {"start": None} | {f"step{i}": "start" for i in range(3)},
    )
    assert "and p = 0.0015 after Holm's correction" in many["step0"].comparison.conclusion
