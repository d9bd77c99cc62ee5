"""``--budget``: limits such as ``latency<20ms, memory<500MiB``, and the most accurate network within them.

Accuracies are those measured here on the user's data; where there are none, the paper's on ImageNet-1K, and the
sentence says which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nextify.report.text import count, percent

Results = Mapping[str, Any]
Row = Mapping[str, Any]

EXAMPLES = "latency<20ms, throughput>100, memory<500MiB, macs<5G, parameters<30M"


class BudgetError(ValueError):
    """An expression that is no budget; the message gives examples."""


@dataclass(frozen=True)
class Quantity:
    key: str
    """Of a row of results.json."""
    sign: str
    """``<`` or ``>``."""
    units: Mapping[str, float]
    """What one of each unit is in the row's own."""
    words: str


QUANTITIES = {
    "latency": Quantity("latency_ms_p50", "<", {"ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3}, "median latency"),
    "throughput": Quantity("images_per_second", ">", {"": 1.0, "images/s": 1.0, "img/s": 1.0, "/s": 1.0}, "throughput"),
    "memory": Quantity(
        "inference_mib", "<", {"MiB": 1.0, "GiB": 1024.0, "MB": 1e6 / 2**20, "GB": 1e9 / 2**20}, "memory"
    ),
    "macs": Quantity("macs", "<", {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}, "multiply-adds"),
    "parameters": Quantity("parameters", "<", {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}, "parameters"),
}
"""Throughput is that of the largest batch, memory the peak of inference in that batch."""
_LIMIT = re.compile(r"\s*([a-z]+)\s*([<>])=?\s*([0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?)\s*([a-zA-Zµ/]*)\s*")


@dataclass(frozen=True)
class Limit:
    """One limit."""

    name: str
    value: float
    """In the row's unit."""
    said: str
    """As it was written."""

    @property
    def quantity(self) -> Quantity:
        return QUANTITIES[self.name]

    def holds(self, row: Row) -> bool | None:
        """None where the row's figure was not measured."""
        found = figure(row, self.quantity.key)
        if found is None:
            return None
        return found < self.value if self.quantity.sign == "<" else found > self.value


def read(expression: str) -> tuple[Limit, ...]:
    """The limits of an expression. Raises ``BudgetError`` with examples."""
    limits = []
    for part in expression.split(","):
        found = _LIMIT.fullmatch(part)
        if found is None or found[1] not in QUANTITIES:
            raise BudgetError(f"--budget cannot be read at {part.strip()!r}; examples: {EXAMPLES}")
        name, sign, number, unit = found.groups()
        quantity = QUANTITIES[name]
        if sign != quantity.sign:
            raise BudgetError(f"--budget limits {name} by {quantity.sign}, not {sign}; examples: {EXAMPLES}")
        if unit not in quantity.units:
            units = ", ".join(u for u in quantity.units if u)
            raise BudgetError(
                f"--budget knows {name} in {units}, not in {unit or 'bare numbers'}; examples: {EXAMPLES}"
            )
        limits.append(Limit(name, float(number) * quantity.units[unit], part.strip()))
    return tuple(limits)


def figure(row: Row, key: str) -> float | None:
    """A figure of a row; throughput is that of the largest batch."""
    if key == "images_per_second":
        return row["throughput"][-1]["images_per_second"] if row["throughput"] else None
    found: float | None = row[key]
    return found


def recommend(results: Results, limits: Sequence[Limit]) -> str:
    """One sentence: the most accurate network within the limits, or why there is none."""
    said = ", ".join(limit.said for limit in limits)
    found = list(candidates(results))
    if not found:
        return (
            f"Within {said} nothing can be recommended: no accuracy is known at the sizes compared; give --data, or "
            "compare networks that the paper prints at 224 or 384 pixels."
        )
    verdicts = [(row, accuracy, [limit.holds(row) for limit in limits]) for row, accuracy in found]
    fitting = [(row, accuracy) for row, accuracy, held in verdicts if all(held)]
    if fitting:
        row, accuracy = max(fitting, key=lambda f: f[1])
        where = _source(results, row["model"])
        figures = ", ".join(_figure(row, limit) for limit in limits)
        return (
            f"Within {said} take {row['model']} at {row['image_size']}²: {percent(accuracy)} % {where}, with {figures}."
        )
    unknown = [limit for i, limit in enumerate(limits) if all(held[i] is None for _, _, held in verdicts)]
    if unknown:
        names = " and ".join(limit.name for limit in unknown)
        return f"Within {said} nothing can be recommended: {names} was not measured in this run."
    broken = next((i for i in range(len(limits)) if not any(held[i] for _, _, held in verdicts)), 0)
    first = limits[broken]
    measured = [row for row, _, _ in verdicts if figure(row, first.quantity.key) is not None]
    best = min if first.quantity.sign == "<" else max
    nearest = best(measured, key=lambda row: figure(row, first.quantity.key) or 0.0)
    return (
        f"Nothing compared here stays within {said}; nearest by {first.name} is {nearest['model']} at "
        f"{nearest['image_size']}² with {_figure(nearest, first)}."
    )


def candidates(results: Results) -> list[tuple[Row, float]]:
    """(Row, top-1 in percent) of what has an accuracy: measured ones where anything was trained or evaluated, at the
    size of the data; otherwise the paper's at 224² and 384²."""
    accuracy = results.get("accuracy")
    if accuracy:
        top1 = {r["model"]: r["top1_mean"] for r in accuracy["rows"] if r["top1_mean"] is not None}
        size = accuracy["image_size"]
        return [(r, top1[r["model"]]) for r in results["rows"] if r["image_size"] == size and r["model"] in top1]
    found = []
    published = {m["model"]: m["published"] or {} for m in results["models"]}
    for row in results["rows"]:
        key = {224: "top1", 384: "top1_384"}.get(row["image_size"])
        value = published[row["model"]].get(key) if key else None
        if value is not None:
            found.append((row, value))
    return found


def _source(results: Results, model: str) -> str:
    accuracy = results.get("accuracy")
    if not accuracy:
        return "top-1 on ImageNet-1K as the paper prints it, not measured here"
    n = next(row["n"] for row in accuracy["rows"] if row["model"] == model)
    return f"top-1 measured here on {accuracy['data']['name']} (n = {n})"


def _figure(row: Row, limit: Limit) -> str:
    found = figure(row, limit.quantity.key)
    assert found is not None
    shown = {
        "latency": f"{found:.3g} ms",
        "throughput": f"{found:.3g} images/s",
        "memory": f"{found:,.0f} MiB",
    }.get(limit.name) or count(found)
    return f"{limit.quantity.words} {shown}"
