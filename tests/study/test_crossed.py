"""Verdicts for new seeds and images: the estimate by hand and against scipy, its words, and how often it errs."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from benchmarks.verdicts import Simulation, rates
from nextify.study.crossed import SMALLEST_P, Crossed
from nextify.study.looks import LOOKS, looks, more_seeds, share
from nextify.study.statistics import StepStatistics, conclude, summarize


def hits(*rows: str) -> np.ndarray:
    return np.array([[letter == "1" for letter in row] for row in rows])


def random_pair(seed: int, seeds: int = 5, images: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    easy = rng.random(images)
    return rng.random((seeds, images)) < easy, rng.random((seeds, images)) < easy**2


def test_mean_squares_by_hand():
    found = Crossed.of(hits("11", "10"), hits("00", "00"))  # differences: 100 100 / 100 0
    assert (found.seeds, found.images, found.change) == (2, 2, 75)
    assert (found.by_seed, found.by_image, found.rest) == (2500, 2500, 2500)
    assert found.error == pytest.approx(math.sqrt(2500 / 4))
    assert found.image_error == 0
    assert found.half_width(0.05) == pytest.approx(12.7062 * 25, rel=1e-5)
    assert Crossed.of(hits("10"), hits("01")) is None
    assert Crossed.of(hits("1", "0"), hits("0", "0")) is None


@pytest.mark.parametrize("seed", range(5))
def test_interval_is_never_narrower_than_that_of_the_seeds_alone(seed: int):
    own, other = random_pair(seed)
    found, d = Crossed.of(own, other), 100.0 * (own.astype(int) - other)
    assert found.change == pytest.approx(d.mean())
    assert found.error >= stats.sem(d.mean(1)) - 1e-12
    low, high = found.interval()
    assert high - low >= 2 * stats.t.ppf(0.975, 4) * stats.sem(d.mean(1)) - 1e-9
    sums = found.by_seed * 4 + found.by_image * 39 + found.rest * 4 * 39
    assert sums == pytest.approx(np.square(d - d.mean()).sum())
    assert (low > 0 or high < 0) == (found.p < 0.05), "interval and p say the same"


def test_scores_in_percent_are_like_hits() -> None:
    own, other = random_pair(3, 4, 50)
    assert Crossed.of(own, other) == Crossed.of(100.0 * own, 100.0 * other)


def test_images_that_differ_alike_in_all_seeds_leave_only_their_own_error():
    own, other = np.tile(random_pair(0)[0][:1], (6, 1)), np.tile(random_pair(0)[1][:1], (6, 1))
    found, d = Crossed.of(own, other), 100.0 * (own[0].astype(int) - other[0])
    expected = stats.ttest_1samp(d, 0)
    assert found.by_seed == found.rest == 0
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval() == pytest.approx(tuple(expected.confidence_interval()))


def test_seeds_alone_where_all_images_go_the_same_way():
    """With as many images as one likes, it is Student's t over the seeds."""
    rng = np.random.default_rng(0)
    own, other = (rng.random((6, 50_000)) < p for p in (np.full((6, 1), 0.9) + rng.normal(0, 0.03, (6, 1)), 0.9))
    found = Crossed.of(own, other)
    expected = stats.ttest_1samp(100 * (own.mean(1) - other.mean(1)), 0)
    assert found.p == pytest.approx(expected.pvalue, rel=0.02)


def test_no_difference_anywhere():
    same = random_pair(1)[0]
    found = Crossed.of(same, same)
    assert (found.change, found.error, found.p, found.interval()) == (0, 0, 1, (0, 0))
    for own, other in ((("10", "10"), ("01", "01")), (("10", "01", "11"), ("01", "10", "11"))):
        assert Crossed.of(hits(*own), hits(*other)).p == 1
    all_better = Crossed.of(np.ones((3, 4), bool), np.zeros((3, 4), bool))
    assert (all_better.p, all_better.interval()) == (SMALLEST_P, (100, 100))


def test_more_seeds_narrow_the_interval_down_to_what_the_images_leave():
    found = Crossed.of(*random_pair(2, 6, 200))
    errors = [found.with_seeds(n).error for n in (6, 12, 100, 10**6)]
    assert errors == sorted(errors, reverse=True)
    assert found.with_seeds(6).error == pytest.approx(found.error)
    assert errors[-1] == pytest.approx(found.image_error, rel=1e-3)


def studied(better: float, seeds: int = 6, images: int = 400, steps: int = 3, share: float = 1.0, seed: int = 0):
    """Verdicts where each step has ``better`` more of the images right than the one before."""
    rng = np.random.default_rng(seed)
    easy = rng.random(images)
    right = {
        f"s{i}": {s: rng.random(images) < np.clip(easy + better * i, 0, 1) for s in range(seeds)} for i in range(steps)
    }
    accuracies = {step: {s: 100 * r.mean() for s, r in of.items()} for step, of in right.items()}
    references = {f"s{i}": f"s{i - 1}" if i else None for i in range(steps)}
    shares = dict.fromkeys(references, share)
    found = conclude(accuracies, references, scores=right, shares=shares, names={"s1": "2 × 2"}, test_images=images)
    return {step: statistics.comparison for step, statistics in found.items()}


@pytest.mark.parametrize(("better", "verb", "verdict"), [(0.15, "raises", "higher"), (-0.15, "lowers", "lower")])
def test_a_verdict_in_plain_words(better: float, verb: str, verdict: str):
    c = studied(better)["s1"]
    assert c.verdict == verdict
    low, high = sorted(abs(end) for end in c.crossed.interval())
    interval = f"95 % interval {low:.2f} to {high:.2f}"
    assert c.conclusion == f"2 × 2 {verb} top-1 by {abs(c.change):.2f} points ({interval}; 6 seeds, 400 images)."
    assert c.p_value == 2 / 64, "the sign-flip test stays"
    assert c.p_crossed_holm >= c.crossed.p


def test_an_interval_around_zero_is_no_conclusion():
    c = studied(0.0)["s1"]
    low, high = c.crossed.interval()
    assert low < 0 < high
    assert c.verdict == "no conclusion"
    assert c.conclusion.startswith("No conclusion about 2 × 2: ")
    assert c.conclusion.endswith("6 seeds, 400 images. It may raise or lower top-1, or do nothing.")


@pytest.mark.parametrize("share", [1.0, 0.125])
def test_no_verdict_contradicts_its_interval_without_saying_why(share: float):
    seen = set()
    for seed in range(30):
        for c in studied(0.045, share=share, seed=seed).values():
            if c is None:
                continue
            low, high = c.crossed.interval()
            seen.add((c.verdict, low <= 0 <= high))
            if c.verdict == "no conclusion" and not low <= 0 <= high:
                assert "The interval by itself leaves 0 out, but with 2 comparisons" in c.conclusion
                assert ("several looks at the data" in c.conclusion) == (share < 1)
    assert ("no conclusion", False) in seen
    assert ("no conclusion", True) in seen
    assert ("higher", True) not in seen
    assert ("lower", True) not in seen


def test_unknown_hits_and_single_seeds_conclude_nothing():
    accuracies = {"a": dict.fromkeys(range(6), 90.0), "b": {s: 95.0 + s / 10 for s in range(6)}}
    references = {"a": None, "b": "a"}
    c = conclude(accuracies, references, scores={})["b"].comparison
    assert (c.verdict, c.crossed, c.p_value) == ("no conclusion", None, 2 / 64)
    assert c.conclusion == (
        "No conclusion: evaluated again, networks of these steps do not give the accuracy in their "
        "result.json, or there is one test image. Delete their folders in trials/ to train them again."
    )
    one = {step: {0: np.ones(9, bool)} for step in accuracies}
    c = conclude({"a": {0: 100.0}, "b": {0: 100.0}}, references, scores=one)["b"].comparison
    assert c.verdict == "no conclusion"
    assert c.conclusion.startswith("No conclusion: one paired seed")


def test_looks_spend_no_more_than_the_whole_error_rate():
    assert looks(6) == (6, 9, 14, 21, 32)
    for first in (2, 6, 10):
        assert len(set(looks(first))) == LOOKS
        assert sum(share(first, n) for n in looks(first)) == 1


def found_for(changes: dict[str, float]) -> dict[str, StepStatistics]:
    """Undecided steps of which each is compared with the one before; their seeds' standard deviation is 1 point."""
    found = {}
    for step, reference in zip(changes, [None, *changes], strict=False):
        comparison = None
        if reference is not None:
            crossed = Crossed(6, 1000, changes[step], 1000.0, 0.0, 0.0)
            comparison = replace(studied(0.0)["s1"], reference=reference, crossed=crossed, verdict="no conclusion")
        found[step] = StepStatistics(summarize({}), comparison)
    return found


def test_seeds_go_to_the_step_that_needs_the_fewest_and_to_the_one_it_is_compared_with():
    found = found_for({"a": 0, "b": 0.1, "c": 3.5, "d": 1.2})
    seeds = dict.fromkeys("abcd", 6)
    assert more_seeds(found, seeds, 6) == {"a": 6, "b": 9, "c": 9, "d": 6}
    hopeless = found_for({"a": 0, "b": 0.02, "c": 0.01})
    assert more_seeds(hopeless, dict.fromkeys("abc", 6), 6) == {"a": 9, "b": 9, "c": 6}
    assert more_seeds(hopeless, {"a": 32, "b": 32, "c": 9}, 6) == {"a": 32, "b": 32, "c": 14}
    assert more_seeds(hopeless, dict.fromkeys("abc", 32), 6) is None


def few(rate: float, studies: int) -> float:
    """The largest share that chance makes of a true ``rate`` once in a thousand times."""
    return float(stats.binom.ppf(0.999, studies, rate)) / studies


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("seeds", "images", "studies"), [(6, 360, 200), (6, 10_000, 60), (2, 360, 200), (3, 360, 200)])
def test_verdicts_without_a_change_are_rare(seeds: int, images: int, studies: int, spread: float):
    found = rates(Simulation(seeds, images, 0.0, spread), studies)
    assert found.family <= few(0.05, studies)
    assert found.single <= few(0.05, 13 * studies)


@pytest.mark.slow
def test_a_change_is_found_the_more_often_the_larger_it_is():
    powers = [rates(Simulation(6, 10_000, change, 0.2), 40).found for change in (0.5, 1.0, 2.0)]
    assert powers == sorted(powers)
    assert powers[-1] > 0.9


@pytest.mark.slow
def test_adding_seeds_until_decided_does_not_add_false_verdicts():
    found = rates(Simulation(6, 360, 0.0, 0.4), 60, "until decided")
    assert found.family <= few(0.05, 60)
    assert found.trainings > 14 * 6


@pytest.mark.parametrize("seeds", [2, 6])
def test_seeds_that_happen_to_agree_are_not_certain(seeds: int) -> None:
    """Each seed gains one image, another each time: the seeds' means are equal, by chance."""
    other = np.zeros((seeds, 360), bool)
    own = other.copy()
    own[np.arange(seeds), np.arange(seeds)] = True
    found = Crossed.of(own, other)
    assert found is not None
    assert found.by_seed == pytest.approx(0, abs=1e-12)
    assert found.change == pytest.approx(100 / 360)
    assert found.error >= 0.9 * 100 / 360 / math.sqrt(seeds)  # of a count of so many
    assert found.p > 0.02
