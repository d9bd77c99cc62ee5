"""``--budget``: limits such as ``latency<20ms, memory<500MiB``, and the most accurate network within them.

Accuracies are those measured here on the user's data; where there are none, the paper's on ImageNet-1K, and the
sentence says which. No torch, so that the command line refuses at once what is no budget.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nextify.report.text import count, percent, three_digits
from nextify.study.statistics import conclude
from nextify.system.text import plural
from nextify.tasks.metric_specs import ACCURACY

if TYPE_CHECKING:
    from nextify.compare.records import Row
    from nextify.compare.results import Results

EXAMPLES = "latency<20ms, throughput>100, memory<500MiB, macs<5G, parameters<30M"
SEARCH_EXAMPLES = "latency<10ms, macs<20M, parameters<1M"


class BudgetError(ValueError):
    """An expression that is not a budget; the message gives examples."""


@dataclass(frozen=True)
class Quantity:
    """What a limit can be set on: a field of :class:`Row`, limited by ``sign``, ``<`` or ``>``."""

    key: str
    sign: str
    units: Mapping[str, float]
    """``{unit: its size in that of the row}``."""
    words: str
    unit: str = ""
    """The row's own, as shown; empty for a count."""


_COUNT = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_RATE = {"": 1.0, "images/s": 1.0, "img/s": 1.0, "/s": 1.0}
_TIME = {"ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3}
_SIZE = {"MiB": 1.0, "GiB": 1024.0, "MB": 1e6 / 2**20, "GB": 1e9 / 2**20}
QUANTITIES = {
    "latency": Quantity("latency_ms_p50", "<", _TIME, "median latency", " ms"),
    "throughput": Quantity("images_per_second", ">", _RATE, "throughput", " images/s"),
    "memory": Quantity("inference_mib", "<", _SIZE, "memory", " MiB"),
    "macs": Quantity("macs", "<", _COUNT, "multiply-adds"),
    "parameters": Quantity("parameters", "<", _COUNT, "parameters"),
}
"""Throughput is that of the largest batch, memory the peak of inference in that batch."""
SEARCHED = ("latency", "macs", "parameters")
"""What a search can be limited by."""
_LIMIT = re.compile(r"\s*([a-z]+)\s*([<>])(=?)\s*([0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?)\s*([a-zA-Zµ/]*)\s*")


@dataclass(frozen=True)
class Limit:
    """One limit, in the unit of a row, and as it was written."""

    name: str
    value: float
    said: str
    inclusive: bool = False
    """Written with ``=``: a network may take all of it."""

    def share(self, row: Row) -> float | None:
        """What the row takes of the limit: 1 or less keeps it, 2 is twice too much. None: it was not measured."""
        quantity = QUANTITIES[self.name]
        found: float | None = getattr(row, quantity.key)
        if found is None:
            return None
        part, whole = (found, self.value) if quantity.sign == "<" else (self.value, found)
        if math.isclose(part, whole, rel_tol=1e-9):  # 28.59 * 1e6 may be off by its last bit
            return 1.0 if self.inclusive else math.nextafter(1, 2)
        return part / whole if whole else math.inf

    def shown(self, row: Row) -> str:
        """``median latency 18.3 ms``."""
        quantity = QUANTITIES[self.name]
        found = getattr(row, quantity.key)
        digits = f"{found:,.0f}" if self.name == "memory" else three_digits(found) if quantity.unit else count(found)
        return f"{quantity.words} {digits}{quantity.unit}"


def read(expression: str, examples: str = EXAMPLES) -> tuple[Limit, ...]:
    """The limits of an expression. Raises ``BudgetError`` with examples."""
    limits = []
    for part in expression.split(","):
        found = _LIMIT.fullmatch(part)
        if found is None or found[1] not in QUANTITIES:
            raise BudgetError(f"--budget cannot be read at {part.strip()!r}; examples: {examples}")
        name, sign, equal, number, unit = found.groups()
        quantity = QUANTITIES[name]
        if sign != quantity.sign:
            raise BudgetError(f"--budget limits {name} by {quantity.sign}, not {sign}; examples: {examples}")
        if unit not in quantity.units:
            units = ", ".join(u for u in quantity.units if u)
            raise BudgetError(
                f"--budget knows {name} in {units}, not in {unit or 'bare numbers'}; examples: {examples}"
            )
        limits.append(Limit(name, float(number) * quantity.units[unit], part.strip(), bool(equal)))
    return tuple(limits)


def limits(budget: str) -> tuple[Limit, ...]:
    """The limits of a search's budget. Raises ``BudgetError`` for one that cannot be read, or that names another
    quantity."""
    found = read(budget, SEARCH_EXAMPLES)
    for limit in found:
        if limit.name not in SEARCHED:
            raise BudgetError(
                f"a search is limited by {', '.join(SEARCHED)}, and --budget names {limit.name}; examples: "
                f"{SEARCH_EXAMPLES}"
            )
        if not limit.value:
            raise BudgetError(f"--budget {limit.said} leaves no room for any network: give more than 0")
    return found


def recommend(results: Results) -> str | None:
    """One sentence: the most accurate network within the results' limits, or why there is none; None without limits."""
    said = ", ".join(results.limits)
    if not said:
        return None
    limits, found = read(said), results.candidates()
    rows = [row for row, _ in found] or results.rows
    if unknown := [limit.name for limit in limits if all(limit.share(row) is None for row in rows)]:
        return f"Within {said}, nothing can be recommended: this run did not measure {' and '.join(unknown)}."
    measured = [(worst, row) for row in rows if (worst := _worst(row, limits))]
    if not measured:
        return f"Within {said}, nothing can be recommended: no network was measured in all of these."
    (share, broken), nearest = min(measured, key=lambda each: each[0][0])
    if share > 1:
        figures = ", ".join(limit.shown(nearest) for limit in limits)
        most = f", which breaks {broken.said} most" if len(limits) > 1 else ""
        return (
            f"Nothing compared here stays within {said}; nearest is {nearest.model} at {nearest.image_size}² with "
            f"{figures}{most}."
        )
    if not found:
        return (
            f"Within {said}, nothing can be recommended: no accuracy is known at the sizes compared; give --data, or "
            "compare networks that the paper prints at 224 or 384 pixels."
        )
    fitting = [(value, row) for row, value in found if (worst := _worst(row, limits)) and worst[0] <= 1]
    (value, row), *others = sorted(fitting, key=lambda each: -each[0])
    figures = ", ".join(limit.shown(row) for limit in limits)
    where, lead = _source(results, row.model), _lead(results, row.model, *others[0]) if others else ""
    return f"Within {said}, take {row.model} at {row.image_size}²: {percent(value)} % {where}, with {figures}{lead}."


def _worst(row: Row, limits: Sequence[Limit]) -> tuple[float, Limit] | None:
    """The largest share that a network takes of a limit, and of which; None where one was not measured."""
    shares = [(share, limit) for limit in limits if (share := limit.share(row)) is not None]
    return max(shares, key=lambda each: each[0]) if len(shares) == len(limits) else None


def _lead(results: Results, best: str, value: float, rival: Row) -> str:
    """That the ``best`` cannot be told from the ``rival`` that comes next, where it cannot: by the table's verdict if
    it compares these two, else by the signs of the paired seeds."""
    if results.accuracy is None:
        return ""
    rows, pair = {row.model: row for row in results.accuracy.rows}, {best, rival.model}
    told = next((row for row in map(rows.get, pair) if row and {row.model, row.compared_with} == pair), None)
    if told is not None:
        verdict, n = told.verdict, told.n
    else:
        values: dict[str, dict[int, float | None]] = {}
        for trial in results.accuracy.trials:
            values.setdefault(trial["model"], {})[trial["seed"]] = trial.get(ACCURACY[0].key)
        found = conclude(values, {best: rival.model})[best].comparison
        verdict, n = (found.verdict, found.n) if found else (None, 0)
    if not n or verdict != "no conclusion":
        return ""
    seeds = plural(n, "paired seed")
    return f"; its lead over the next, {rival.model} ({percent(value)} %), cannot be told from chance with {seeds}"


def _source(results: Results, model: str) -> str:
    if not results.accuracy:
        return "top-1 on ImageNet-1K as the paper prints it, not measured here"
    n = next(row.n for row in results.accuracy.rows if row.model == model)
    return f"{ACCURACY[0].title} measured here on {results.accuracy.data.name} (n = {n})"
