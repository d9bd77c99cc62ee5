"""What a handful of seeds can tell, and what it cannot.

Accuracies, which stand for the main metric of any task, are percent, differences percentage points. The same seed draws
the same order of images and augmentations at every step, so each step is compared with its reference seed by seed, and
what the seeds share cancels.

Sources: Fisher's randomization test on paired differences (*The Design of Experiments*, 1935, section 21: every sign of
every difference is equally likely if the step does nothing); Student's interval for a mean (1908); Holm, "A simple
sequentially rejective multiple test procedure" (Scand. J. Statist. 6, 1979). Where each test image has a score in each
trial, the verdict is that of :mod:`nextify.study.crossed`, for new seeds and new images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

from nextify.study.crossed import Crossed
from nextify.study.results import Json
from nextify.tasks.metric_specs import ACCURACY, MetricSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Verdict = Literal["higher", "lower", "no conclusion"]
Accuracies = Mapping[str, Mapping[int, float | None]]
"""``{step: {seed: the main metric in percent}}``; None or NaN for a failed trial, None or no entry for an unfinished
one."""
Scores = Mapping[str, Mapping[int, "npt.NDArray[np.bool_] | npt.NDArray[np.float64]"]]
"""``{step: {seed: (I,) which test images are right, or a score of each in percent}}``, of the trials of which this is
known; the mean of the scores is the metric."""

EXACT_UP_TO = 20
"""Pairs up to which all 2^n sign patterns are counted; patterns of more pairs are sampled."""
ALPHA = 0.05
"""Error rate of the verdicts."""
DRAWS = 200_000
"""Sign patterns sampled above ``EXACT_UP_TO``: a p of 0.05 then has a standard error of 0.0005."""


@dataclass(frozen=True)
class Summary:
    """The accuracies of one step."""

    n: int
    """Trials with an accuracy."""
    mean: float | None
    """Percent; None when n = 0."""
    std: float | None
    """Sample standard deviation over seeds (n − 1), percentage points; None when n < 2."""
    binomial_standard_error: float | None
    """Of the mean, percentage points (:func:`binomial_standard_error`); None without a mean or test images."""


@dataclass(frozen=True)
class Comparison:
    """One step against its reference, over the seeds that both have."""

    reference: str
    seeds: tuple[int, ...]
    """The seeds that both steps finished, ascending."""
    change: float | None
    """Mean paired difference, percentage points; None without a pair."""
    low: float | None
    high: float | None
    """Ends of the confidence interval for new seeds (Student's t on the differences); None with fewer than 2 pairs."""
    p_value: float | None
    """Two-sided sign-flip test; None without a pair."""
    p_holm: float | None
    """``p_value`` after Holm's correction over all compared steps; at least ``p_value``."""
    smallest_possible_p: float | None
    """The smallest ``p_value`` that this many pairs can give, 2 / 2^n; None without a pair."""
    seeds_needed: int
    """The fewest paired seeds with which ``p_value`` can fall below alpha."""
    verdict: Verdict
    """By ``p_crossed_holm`` where it is known which images are right. Otherwise by the ``p_value`` of this step alone;
    ``conclusion`` says whether it survives Holm's correction."""
    crossed: Crossed | None = None
    """The change for new seeds and new images."""
    p_crossed_holm: float | None = None
    """The p of ``crossed`` after the corrections for the looks at the data and, by Holm, for all compared steps."""
    conclusion: str = ""
    """The verdict as one plain sentence."""

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.seeds)


@dataclass(frozen=True)
class StepStatistics:
    """Everything concluded about one step; ``comparison`` is None for the step that others start from."""

    summary: Summary
    comparison: Comparison | None

    def figures(self) -> Json:
        """The figures under the names of a ``StepResult``."""
        s, c = self.summary, self.comparison
        found: Json = {"n": s.n, "mean": s.mean, "std": s.std, "binomial_standard_error": s.binomial_standard_error}
        if c:
            found |= {"compared_with": c.reference, "change": c.change, "change_low": c.low, "change_high": c.high}
            found |= {"p_value": c.p_value, "p_value_holm": c.p_holm, "seeds_needed": c.seeds_needed}
            found |= {"verdict": c.verdict, "conclusion": c.conclusion}
        if c and c.crossed:
            found["interval_low"], found["interval_high"] = c.crossed.interval()
            found |= {"p_crossed": c.crossed.p, "p_crossed_holm": c.p_crossed_holm}
            found["image_error"] = c.crossed.image_error
        return found


def summarize(values: Mapping[int, float | None], test_images: int | None = None) -> Summary:
    """Mean and spread over the seeds of one step, without the trials that have no accuracy."""
    found = list(_finished(values).values())
    if not found:
        return Summary(0, None, None, None)
    mean = fmean(found)
    error = binomial_standard_error(mean, test_images) if test_images else None
    return Summary(len(found), mean, stdev(found) if len(found) > 1 else None, error)


def binomial_standard_error(accuracy: float, test_images: int) -> float:
    """Standard error of an ``accuracy`` in percent counted on ``test_images`` images, in percentage points.

    sqrt(p (1 − p) / N): how far the accuracy would move on other test images of the same kind. Seeds do not show it,
    since they share the test images; between two networks tested on the same images it partly cancels.
    """
    if test_images < 1:
        raise ValueError(f"test_images must be 1 or more, got {test_images}")
    if not 0 <= accuracy <= 100:
        raise ValueError(f"accuracy must be a percentage from 0 to 100, got {accuracy}")
    p = accuracy / 100
    return 100 * math.sqrt(p * (1 - p) / test_images)


def confidence_interval(differences: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's interval for the mean of paired differences, or None with fewer than 2 of them.

    It assumes normally distributed differences, which few seeds can neither show nor refute.
    """
    n = len(differences)
    return None if n < 2 else _interval(differences, confidence, stdev(differences) / math.sqrt(n))


def _interval(values: Sequence[float], confidence: float, error: float) -> tuple[float, float]:
    """Student's interval of the mean, by its standard error."""
    from scipy.special import stdtrit  # Student's quantiles without the weight of scipy.stats

    mean, half = fmean(values), float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * error
    return mean - half, mean + half


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of "the step does nothing", from flipping the signs of the paired differences.

    It is the share of sign patterns whose sum is at least as far from zero as the observed sum: of all 2^n patterns up
    to ``EXACT_UP_TO`` differences, of ``DRAWS`` patterns sampled with a fixed seed and the observed one above that. It
    assumes only that the differences are symmetric around zero. None without a difference. Raises ``ValueError`` where
    a difference is NaN or infinite."""
    # scipy.stats.permutation_test gives the same p, but refuses a single pair and takes a thousand times as long.
    import numpy as np

    n = len(differences)
    if not all(map(math.isfinite, differences)):
        raise ValueError(f"differences must be finite numbers, got {list(differences)}; leave failed trials out")
    if n == 0:
        return None
    observed = abs(math.fsum(differences))
    # Sums of the same numbers in another order differ in their last bits and must count as equal.
    least = observed - 1e-9 * math.fsum(abs(d) for d in differences)
    if n <= EXACT_UP_TO:
        # The first sign is fixed: a pattern and its mirror image are equally far from zero.
        sums = np.array([differences[0]], dtype=np.float64)
        for difference in differences[1:]:
            sums = np.concatenate((sums + difference, sums - difference))
        return float(np.mean(np.abs(sums) >= least))
    generator = np.random.default_rng(0)
    values = np.asarray(differences, dtype=np.float64)
    as_far = 0
    for start in range(0, DRAWS, 10_000):
        signs = generator.integers(0, 2, size=(min(10_000, DRAWS - start), n)) * 2 - 1
        as_far += int(np.count_nonzero(np.abs(signs @ values) >= least))
    return (1 + as_far) / (1 + DRAWS)


def smallest_possible_p(n: int) -> float | None:
    """The smallest two-sided p-value that ``n`` paired seeds can give: 2 of the 2^n patterns have equal signs."""
    return 2 / 2**n if n > 0 else None


def seeds_needed(alpha: float = ALPHA, comparisons: int = 1) -> int:
    """The fewest paired seeds with which a two-sided sign-flip test can fall below ``alpha``: 6 for 0.05.

    With ``comparisons`` above 1, the strictest of that many tests under Holm's correction: alpha / comparisons.
    """
    if not 0 < alpha < 1 or comparisons < 1:
        raise ValueError(f"alpha must be between 0 and 1 and comparisons 1 or more, got {alpha} and {comparisons}")
    n = 1
    while 2 / 2**n >= alpha / comparisons:
        n += 1
    return n


@dataclass(frozen=True)
class McNemar:
    """An exact test of two classifiers on the same images (McNemar 1947)."""

    images: int
    only_before: int
    """Images that only the first gets right; the others tell nothing about a difference."""
    only_after: int
    p: float
    """Two-sided, of "each such image is as likely to be won as lost"."""


def mcnemar(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> McNemar:
    """Compare two classifiers by which images ``(N,)`` each gets right."""
    from scipy.stats import binomtest

    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    return McNemar(len(before), lost, won, p)


def corrected_interval(
    values: Sequence[float], confidence: float = 0.95, least_error: float = 0.0
) -> tuple[float, float] | None:
    """The interval for the mean over the folds of a cross-validation, or None with fewer than 2 of them.

    Any two of k folds share k − 2 of their k − 1 parts of training images, so that their results are not independent
    and Student's interval is too narrow. Nadeau and Bengio 2003 (https://doi.org/10.1023/A:1024068626366) replace its
    variance / k by variance · (1 / k + tested / trained), where tested / trained is 1 / (k − 1) here.

    The standard deviation over the folds is taken for at least ``least_error``, such as one image's share of a fold: a
    few folds come out equal by chance.
    """
    k = len(values)
    if k < 2:
        return None
    return _interval(values, confidence, max(stdev(values), least_error) * math.sqrt(1 / k + 1 / (k - 1)))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's correction: p-values such that the chance of even one false claim stays below alpha.

    The k-th smallest of m is multiplied by m − k + 1, but never falls below the one before it nor exceeds 1. A step
    without a p-value does not count as a test.
    """
    tested = sorted((p, step) for step, p in p_values.items() if p is not None)
    corrected: dict[str, float | None] = dict.fromkeys(p_values)
    running = 0.0
    for rank, (p, step) in enumerate(tested):
        running = max(running, min(1.0, p * (len(tested) - rank)))
        corrected[step] = running
    return corrected


def conclude(
    accuracies: Accuracies,
    references: Mapping[str, str | None],
    *,
    test_images: int | None = None,
    scores: Scores | None = None,
    shares: Mapping[str, float] | None = None,
    names: Mapping[str, str] | None = None,
    metric: MetricSpec = ACCURACY[0],
) -> dict[str, StepStatistics]:
    """Conclude what the trials say about each step of ``references``, in the same order.

    A step or reference without results is no error: its figures are None, and its sentence says what is missing.

    Args:
        references: the step that each step is compared with, None for a start.
        test_images: of an accuracy, on how many it was counted.
        scores: of the test images in each trial. Verdicts are then for new seeds and new images and hold for all steps
            together.
        shares: of ``ALPHA``, what each step's present look at the data may spend; absent ones all of it.
        names: of the steps in sentences; the keys where absent.
        metric: what ``accuracies`` are, for sentences.
    """
    differences: dict[str, dict[int, float]] = {}
    for step, reference in references.items():
        if reference is not None:
            own, other = _finished(accuracies.get(step, {})), _finished(accuracies.get(reference, {}))
            differences[step] = {seed: own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())}
    p_values = {step: sign_flip_p(list(d.values())) for step, d in differences.items()}
    p_holm, tests = holm(p_values), sum(p is not None for p in p_values.values())
    crossed: dict[str, Crossed | None] = {}
    if scores is not None:
        crossed = {step: _crossed(scores, step, str(references[step]), seeds) for step, seeds in differences.items()}
    share = shares or {}
    p_looks = {step: None if c is None else min(1.0, c.p / share.get(step, 1.0)) for step, c in crossed.items()}
    p_crossed_holm, crossed_tests = holm(p_looks), sum(p is not None for p in p_looks.values())
    result = {}
    for step, reference in references.items():
        summary = summarize(accuracies.get(step, {}), test_images)
        comparison = None
        if reference is not None:
            comparison = _compared(reference, differences[step], p_values[step], p_holm[step])
            if (found := crossed.get(step)) is not None:
                name, p = (names or {}).get(step, step), p_crossed_holm[step]
                assert p is not None
                verdict = _direction(found.change) if p < ALPHA else "no conclusion"
                comparison = replace(comparison, verdict=verdict, crossed=found, p_crossed_holm=p)
                sentence = _in_words(name, metric.title, found, p, crossed_tests, share.get(step, 1.0) < 1)
            elif scores is not None and comparison.n > 1:
                comparison = replace(comparison, verdict="no conclusion")
                sentence = (
                    f"No conclusion: evaluated again, networks of these steps do not give the {metric.noun} in their "
                    "result.json, or there is one test image. Delete their folders in trials/ to train them again."
                )
            else:
                sentence = _sentence(comparison, list(differences[step].values()), tests, summary, test_images)
            comparison = replace(comparison, conclusion=sentence)
        result[step] = StepStatistics(summary, comparison)
    return result


def _crossed(scores: Scores, step: str, reference: str, seeds: Mapping[int, float]) -> Crossed | None:
    """Over the ``seeds`` of which the images' scores are known of both steps."""
    import numpy as np

    own, other = scores.get(step, {}), scores.get(reference, {})
    known = [seed for seed in seeds if seed in own and seed in other]
    return Crossed.of(*(np.stack([of[seed] for seed in known]) for of in (own, other))) if known else None


def _direction(change: float) -> Verdict:
    return "higher" if change > 0 else "lower"


def _finished(values: Mapping[int, float | None]) -> dict[int, float]:
    return {seed: float(v) for seed, v in values.items() if v is not None and math.isfinite(v)}


def _compared(reference: str, differences: Mapping[int, float], p: float | None, p_holm: float | None) -> Comparison:
    values = list(differences.values())
    change = fmean(values) if values else None
    low, high = confidence_interval(values, 1 - ALPHA) or (None, None)
    verdict: Verdict = "no conclusion"
    if p is not None and p < ALPHA and change:
        verdict = _direction(change)
    least = smallest_possible_p(len(values))
    return Comparison(reference, tuple(differences), change, low, high, p, p_holm, least, seeds_needed(), verdict)


def _in_words(name: str, metric: str, c: Crossed, p: float, tests: int, looked: bool) -> str:
    """The verdict for new seeds and images; where its interval alone says something else, why."""
    low, high = c.interval(1 - ALPHA)
    n, confidence = f"{c.seeds} seeds, {c.images:,} images", f"{100 * (1 - ALPHA):.0f} %"
    if p < ALPHA:
        raises = c.change > 0
        least, most = (low, high) if raises else (-high, -low)
        return (
            f"{name} {'raises' if raises else 'lowers'} {metric} by {abs(c.change):.2f} points ({confidence} interval "
            f"{_points(least)} to {_points(most)}; {n})."
        )
    seen = f"{_points(c.change)} points, {confidence} interval {_points(low)} to {_points(high)}; {n}"
    if low <= 0 <= high:
        return f"No conclusion about {name}: {seen}. It may raise or lower {metric}, or do nothing."
    reasons = [f"{tests} comparisons"] if tests > 1 else []
    reasons += ["several looks at the data"] if looked else []
    return (
        f"No conclusion about {name}: {seen}. The interval by itself leaves 0 out, but with {' and '.join(reasons)} "
        f"one such interval may be chance: p = {_p(c.p)} becomes {_p(p)}."
    )


def _points(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _sentence(
    c: Comparison, differences: Sequence[float], tests: int, summary: Summary, test_images: int | None
) -> str:
    """The verdict in words."""
    if c.p_value is None or c.p_holm is None:
        return "No conclusion: no seed has finished both this step and the one it is compared with."
    if c.n == 1:
        images, error = "", summary.binomial_standard_error
        if error is not None:
            images = f", and {test_images:,} test images alone leave a standard error of {error:.2f} points"
        return (
            f"No conclusion: one paired seed shows nothing of the spread between seeds{images}; {c.seeds_needed} would "
            "do."
        )
    if c.n < c.seeds_needed:
        return (
            f"No conclusion: with {c.n} paired seeds a two-sided sign-flip test cannot go below "
            f"p = {_p(2 / 2**c.n)}{_agreement(differences)}; {c.seeds_needed} paired seeds would do."
        )
    if c.verdict == "no conclusion":
        return (
            f"No conclusion: the change of {c.n} paired seeds is within what their signs give by chance "
            f"(p = {_p(c.p_value)})."
        )
    text = f"{c.verdict.capitalize()}: {c.n} paired seeds, sign-flip p = {_p(c.p_value)}"
    if tests == 1:
        return f"{text}."
    corrected = f"p = {_p(c.p_holm)} after Holm's correction over the {tests} comparisons"
    if c.p_holm < ALPHA:
        return f"{text}, and {corrected}."
    return f"{text}, but {corrected}, so among that many it may be chance."


def _agreement(differences: Sequence[float]) -> str:
    count = {2: "both", 3: "all 3"}.get(len(differences), f"all {len(differences)}")
    if all(d > 0 for d in differences):
        return f", though {count} were higher"
    if all(d < 0 for d in differences):
        return f", though {count} were lower"
    return ""


def _p(p: float) -> str:
    """Two significant digits, and never a bare 0."""
    return f"{p:.2g}" if p >= 1e-4 else "under 0.0001"
