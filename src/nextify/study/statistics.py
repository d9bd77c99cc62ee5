"""What a handful of seeds can tell, and what it cannot.

Accuracies are percent; differences are percentage points. Seeds are paired: the same seed draws the same data order and
augmentations at every step, so a step is compared with its reference seed by seed, and what the seeds share cancels.

Sources: Fisher's randomization test on paired differences (*The Design of Experiments*, 1935, section 21: every sign
of every difference is equally likely when the step does nothing); Student's interval for a mean (1908); Holm, "A simple
sequentially rejective multiple test procedure" (Scand. J. Statist. 6, 1979).

Pure functions on numbers. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Verdict = Literal["higher", "lower", "no conclusion"]
Accuracies = Mapping[str, Mapping[int, float | None]]
"""``{step: {seed: top-1 in percent}}``; a failed trial is None or NaN, an unfinished one is absent or None."""

EXACT_UP_TO = 20
"""Pairs up to which every sign pattern is counted (2^20 of them); above it patterns are drawn."""
DRAWS = 200_000
"""Sign patterns drawn above ``EXACT_UP_TO``; the standard error of a p of 0.05 is then 0.0005."""


@dataclass(frozen=True)
class Summary:
    """The accuracies of one step."""

    n: int
    """Trials with an accuracy."""
    mean: float | None
    """Percent; None when n = 0."""
    std: float | None
    """Sample standard deviation over seeds (n − 1 below the line), percentage points; None when n < 2."""
    binomial_standard_error: float | None
    """What the number of test images alone leaves open in one accuracy, percentage points; see
    :func:`binomial_standard_error`. None without a mean or a number of test images."""


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
    """Ends of the confidence interval (Student's t on the differences); None with fewer than 2 pairs."""
    p_value: float | None
    """Two-sided sign-flip test; None without a pair."""
    p_holm: float | None
    """``p_value`` after Holm's correction over all steps that were compared; at least ``p_value``."""
    smallest_possible_p: float | None
    """The least ``p_value`` this many pairs could give, 2 / 2^n; None without a pair."""
    seeds_needed: int
    """Paired seeds from which ``p_value`` could go below alpha at all."""
    verdict: Verdict
    """By ``p_value`` of this step alone; ``conclusion`` says where Holm's correction takes it back."""
    conclusion: str
    """The verdict as one plain sentence."""

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.seeds)


@dataclass(frozen=True)
class StepStatistics:
    """Everything that is concluded about one step; ``comparison`` is None for the step others start from."""

    summary: Summary
    comparison: Comparison | None


def summarize(values: Mapping[int, float | None], test_images: int | None = None) -> Summary:
    """Mean and spread over the seeds of one step. Trials without an accuracy are left out."""
    found = list(_finished(values).values())
    if not found:
        return Summary(n=0, mean=None, std=None, binomial_standard_error=None)
    mean = math.fsum(found) / len(found)
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in found) / (len(found) - 1)) if len(found) > 1 else None
    error = binomial_standard_error(mean, test_images) if test_images else None
    return Summary(n=len(found), mean=mean, std=std, binomial_standard_error=error)


def binomial_standard_error(top1: float, test_images: int) -> float:
    """Standard error of an accuracy of ``top1`` percent counted on ``test_images`` images, in percentage points.

    sqrt(p (1 − p) / N): how far the figure would move on other test images of the same kind. Other seeds on the same
    images do not show it, and it cancels in part between two networks tested on the same images.
    """
    if test_images < 1:
        raise ValueError(f"test_images must be 1 or more, got {test_images}")
    if not 0 <= top1 <= 100:
        raise ValueError(f"top1 must be a percentage from 0 to 100, got {top1}")
    p = top1 / 100
    return 100 * math.sqrt(p * (1 - p) / test_images)


def confidence_interval(differences: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's interval for the mean of paired differences, or None with fewer than 2 of them.

    It takes the differences as normal, which few seeds can neither show nor refute. With no spread it has no width.
    """
    n = len(differences)
    if n < 2:
        return None
    from scipy.special import stdtrit  # Student's quantiles without the weight of scipy.stats

    mean = math.fsum(differences) / n
    variance = math.fsum((d - mean) ** 2 for d in differences) / (n - 1)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * math.sqrt(variance / n)
    return mean - half, mean + half


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of "the step does nothing", from flipping the signs of the paired differences.

    The share of sign patterns whose sum is at least as far from zero as the observed one: all 2^n of them up to
    ``EXACT_UP_TO`` differences, above it ``DRAWS`` drawn with a fixed seed, the observed pattern counted among them.
    It assumes nothing of the differences' distribution but symmetry around zero. None without a difference.
    """
    n = len(differences)
    if n == 0:
        return None
    observed = abs(math.fsum(differences))
    # Sums of the same numbers in another order differ in their last bits and must count as equal.
    least = observed - 1e-9 * math.fsum(abs(d) for d in differences)
    if n <= EXACT_UP_TO:
        # The first sign stays: a pattern and its mirror image are equally far from zero.
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
    """The least two-sided p-value that ``n`` paired seeds can give: only the all-equal patterns, 2 of 2^n."""
    return 2 / 2**n if n > 0 else None


def seeds_needed(alpha: float = 0.05, comparisons: int = 1) -> int:
    """The smallest number of paired seeds with which a two-sided sign-flip test can go below ``alpha``: 6 for 0.05.

    ``comparisons`` above 1 asks it of the strictest of that many tests under Holm's correction, alpha / comparisons.
    """
    if not 0 < alpha < 1 or comparisons < 1:
        raise ValueError(f"alpha must be between 0 and 1 and comparisons 1 or more, got {alpha} and {comparisons}")
    n = 1
    while 2 / 2**n >= alpha / comparisons:
        n += 1
    return n


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's correction: p-values that may each be held against alpha without the number of tests inflating the error.

    The k-th smallest of m is multiplied by m − k + 1, never below the one before it nor above 1. A step without a
    p-value is not a test and is not counted.
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
    alpha: float = 0.05,
    test_images: int | None = None,
) -> dict[str, StepStatistics]:
    """What the trials say of each step in ``references``, in its order.

    ``references`` names for each step the one it is compared with, None for a start. A step or reference without
    trials (unfinished, all failed) is no error: its figures are None and its sentence says what is missing.
    """
    differences: dict[str, dict[int, float]] = {}
    for step, reference in references.items():
        if reference is not None:
            own, other = _finished(accuracies.get(step, {})), _finished(accuracies.get(reference, {}))
            differences[step] = {seed: own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())}
    p_values = {step: sign_flip_p(list(d.values())) for step, d in differences.items()}
    p_holm = holm(p_values)
    tests = sum(p is not None for p in p_values.values())
    result = {}
    for step, reference in references.items():
        summary = summarize(accuracies.get(step, {}), test_images)
        comparison = None
        if reference is not None:
            comparison = _compare(
                reference, differences[step], p_values[step], p_holm[step], tests, alpha, summary, test_images
            )
        result[step] = StepStatistics(summary, comparison)
    return result


def compare(
    values: Mapping[int, float | None], reference_values: Mapping[int, float | None], *, alpha: float = 0.05
) -> Comparison:
    """One step against one other, as :func:`conclude` does it for all of them."""
    comparison = conclude({"step": values, "reference": reference_values}, {"step": "reference"}, alpha=alpha)[
        "step"
    ].comparison
    assert comparison is not None
    return comparison


def _finished(values: Mapping[int, float | None]) -> dict[int, float]:
    return {seed: float(v) for seed, v in values.items() if v is not None and math.isfinite(v)}


def _compare(
    reference: str,
    differences: Mapping[int, float],
    p: float | None,
    p_holm: float | None,
    tests: int,
    alpha: float,
    summary: Summary,
    test_images: int | None,
) -> Comparison:
    values = list(differences.values())
    change = math.fsum(values) / len(values) if values else None
    interval = confidence_interval(values, 1 - alpha)
    verdict: Verdict = "no conclusion"
    if p is not None and p < alpha and change:
        verdict = "higher" if change > 0 else "lower"
    return Comparison(
        reference=reference,
        seeds=tuple(differences),
        change=change,
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
        p_value=p,
        p_holm=p_holm,
        smallest_possible_p=smallest_possible_p(len(values)),
        seeds_needed=seeds_needed(alpha),
        verdict=verdict,
        conclusion=_sentence(verdict, values, p, p_holm, tests, alpha, summary, test_images),
    )


def _sentence(
    verdict: Verdict,
    differences: Sequence[float],
    p: float | None,
    p_holm: float | None,
    tests: int,
    alpha: float,
    summary: Summary,
    test_images: int | None,
) -> str:
    """The verdict in words; the figures stand beside it in the table and are not repeated."""
    n = len(differences)
    needed = seeds_needed(alpha)
    if p is None or p_holm is None:
        return "No conclusion: no seed has finished both this step and the one it is compared with."
    if n == 1:
        images = ""
        if summary.binomial_standard_error is not None:
            error = summary.binomial_standard_error
            images = f", and {test_images:,} test images alone leave a standard error of {error:.2f} points"
        return f"No conclusion: one paired seed shows nothing of the spread between seeds{images}; {needed} would do."
    if n < needed:
        same = _agreement(differences)
        return (
            f"No conclusion: with {n} paired seeds a two-sided sign-flip test cannot go below "
            f"p = {_p(2 / 2**n)}{same}; {needed} paired seeds would do."
        )
    if verdict == "no conclusion":
        return f"No conclusion: the change of {n} paired seeds is within what their signs give by chance (p = {_p(p)})."
    text = f"{verdict.capitalize()}: {n} paired seeds, sign-flip p = {_p(p)}"
    if tests > 1 and p_holm < alpha:
        return f"{text}, and p = {_p(p_holm)} after Holm's correction over the {tests} comparisons."
    if tests > 1:
        return (
            f"{text}, but p = {_p(p_holm)} after Holm's correction over the {tests} comparisons, so among that many "
            f"it may be chance."
        )
    return f"{text}."


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
