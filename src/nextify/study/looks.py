"""Adding seeds to a study until every step is decided, without deciding by chance (docs/study.md).

Each look at a step may spend a fixed share of the error rate (Bonferroni over the looks, unequally weighted), and the
p-value of a look divided by its share enters Holm's correction over the steps. Which step gets seeds next depends on
what was found so far; that does no harm, since the union bound holds for all looks of all steps, made or not.
"""

import math
from collections.abc import Mapping

from nextify.study.statistics import ALPHA, StepStatistics

LOOKS = 5
FIRST_SHARE = 0.5
"""Share of the error rate spent at the first look, which every step gets; the later looks share the rest equally."""


def looks(first: int) -> tuple[int, ...]:
    """The paired seeds of each look: 6, 9, 14, 21 and 32 after 6."""
    found = [first]
    while len(found) < LOOKS:
        found.append(math.ceil(1.5 * found[-1]))
    return tuple(found)


def share(first: int, pairs: int) -> float:
    """The share of the error rate that the look at ``pairs`` paired seeds may spend."""
    return FIRST_SHARE if pairs <= first else (1 - FIRST_SHARE) / (LOOKS - 1)


def more_seeds(found: Mapping[str, StepStatistics], seeds: Mapping[str, int], first: int) -> dict[str, int] | None:
    """The seeds of each step at the next look, or None where every step is decided or has had its last look.

    Each undecided step is projected: the seeds of the first later look that would decide it if its change and its
    variances were as estimated. The steps with the fewest go on to their next look; where none can be projected, the
    one with the smallest p-value does. The step that it is compared with gets the same seeds, as they are paired.

    Args:
        found: conclusions of all steps.
        seeds: of each step so far.
        first: seeds of the first look.
    """
    compared = {step: s.comparison for step, s in found.items() if s.comparison is not None}
    undecided = {step: c for step, c in compared.items() if c.verdict == "no conclusion"}
    later = {
        step: [n for n in looks(first) if n > min(seeds[step], seeds[c.reference])] for step, c in undecided.items()
    }
    order: dict[str, tuple[float, float]] = {}
    for step, c in undecided.items():
        if later[step]:
            enough = (
                n
                for n in later[step]
                if c.crossed and c.crossed.with_seeds(n).p < ALPHA * share(first, n) / len(undecided)
            )
            order[step] = next(enough, math.inf), c.crossed.p if c.crossed else 1.0
    if not order:
        return None
    best = min(order.values())
    chosen = [step for step, key in order.items() if key == best or (key[0] == best[0] < math.inf)]
    more = dict(seeds)
    for step in chosen:
        for each in (step, undecided[step].reference):
            more[each] = max(more[each], later[step][0])
    return more
