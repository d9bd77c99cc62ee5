"""What a comparison found, as plain data: the content of results.json, and the sentences that follow from it.

docs/compare.md lists the keys. Every figure is of this run; what the paper prints stands under ``published``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from nextify.compare.growth import Growth, fit
from nextify.compare.measure import Cell, Comparison
from nextify.evaluation.profiling import median, quantile
from nextify.report.text import count, listing, signed

SCHEMA = 1
Results = Mapping[str, Any]
Row = Mapping[str, Any]

QUANTITIES = {
    "macs": "multiply-adds",
    "attention_macs": "attention's multiply-adds",
    "attention_share": "attention's share of the multiply-adds",
    "latency_ms_p50": "time of one image",
    "batch_ms_per_image": "time per image in batches",
    "training_ms_per_image": "time per image in training",
    "inference_mib": "memory in inference",
    "training_mib": "memory in training",
}
"""The keys of a row whose growth with the pixels is fitted, and their words."""


def results(
    comparison: Comparison, command: str, started: datetime, finished: datetime, environment: Mapping[str, Any]
) -> dict[str, Any]:
    """The comparison as one JSON object; absent figures are None."""
    settings = comparison.settings
    rows = [_row(cell, settings.training_batch_size) for cell in comparison.cells]
    found = {
        "schema": SCHEMA,
        "settings": {
            "models": list(settings.models),
            "sizes": list(settings.sizes),
            **asdict(settings.conditions),
            "threads": settings.threads,
            "batch_sizes": list(settings.batch_sizes),
            "training_batch_size": settings.training_batch_size,
            "calls": settings.calls,
            "rounds": comparison.plan.rounds if comparison.plan else None,
            "minutes": settings.minutes,
            "expected_seconds": comparison.plan.seconds if comparison.plan else None,
            "seconds": (finished - started).total_seconds(),
            "interleaved": comparison.interleaved,
            "complete": comparison.complete,
            "command": command,
            "started": started.isoformat(timespec="seconds"),
            "finished": finished.isoformat(timespec="seconds"),
        },
        "environment": dict(environment),
        "models": _models(comparison),
        "rows": rows,
        "growth": list(_growth(rows)),
        "ratios": list(_ratios(comparison)),
    }
    found["findings"] = list(findings(found))
    return found


def _models(comparison: Comparison) -> list[dict[str, Any]]:
    entries = list(dict.fromkeys(cell.entry for cell in comparison.cells))
    return [
        {
            "model": e.label,
            "name": e.name,
            "family": e.family,
            "published": asdict(e.published) if e.published else None,
        }
        for e in entries
    ]


def _row(cell: Cell, training_batch_size: int) -> dict[str, Any]:
    counts, memory = cell.counts, cell.memory
    calls = [1e3 * s for times in cell.latency for s in times]
    largest = max(cell.throughput, default=None)
    in_batches = None if largest is None else median(cell.throughput[largest])
    training = median(cell.training) if cell.training else None
    return {
        "model": cell.entry.label,
        "image_size": cell.image_size,
        "status": cell.status,
        "problems": list(cell.problems),
        "parameters": counts and counts.parameters,
        "macs": counts and counts.macs,
        "attention_macs": counts and counts.attention_macs,
        "attention_share": counts and counts.attention_share,
        "activations": counts and counts.activations,
        "latency_calls": len(calls),
        "latency_ms_p50": quantile(calls, 0.50) if calls else None,
        "latency_ms_p95": quantile(calls, 0.95) if calls else None,
        "latency_ms_p99": quantile(calls, 0.99) if calls else None,
        "latency_rounds_ms": [1e3 * median(times) for times in cell.latency],
        "throughput": [_speed(batch, speeds) for batch, speeds in sorted(cell.throughput.items())],
        "batch_size": largest,
        "batch_ms_per_image": in_batches and 1e3 / in_batches,
        "training": _speed(training_batch_size, cell.training) if cell.training else None,
        "training_ms_per_image": training and 1e3 / training,
        "start_mib": memory and memory.start,
        "inference_mib": memory and memory.inference,
        "training_mib": memory and memory.training,
    }


def _speed(batch_size: int, rounds: Sequence[float]) -> dict[str, Any]:
    return {
        "batch_size": batch_size,
        "images_per_second": median(rounds),
        "low": min(rounds),
        "high": max(rounds),
        "n": len(rounds),
        "rounds": list(rounds),
    }


def _growth(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        for quantity in QUANTITIES:
            points = [(r["image_size"] ** 2, r[quantity]) for r in own if r[quantity]]
            found: Growth | None = fit([p for p, _ in points], [c for _, c in points])
            if found is not None:
                yield {"model": model, "quantity": quantity, **asdict(found)}


def reference(names: Sequence[str]) -> str:
    """The network that others are compared with: ConvNeXt-T where it takes part, else the first ConvNeXt, else the
    first."""
    if "convnext_tiny" in names:
        return "convnext_tiny"
    return next((name for name in names if name.startswith("convnext")), names[0])


def _ratios(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Speed over the reference's, paired round by round; above 1 is faster than the reference."""
    labels = list(dict.fromkeys(cell.entry.label for cell in comparison.cells))
    base = reference(labels)
    for size in comparison.settings.sizes:
        cells = {cell.entry.label: cell for cell in comparison.at(size)}
        for label in labels:
            if label == base:
                continue
            ours, theirs = _speeds(cells[base]), _speeds(cells[label])
            for (what, batch), speeds in theirs.items():
                pairs = list(zip(speeds, ours.get((what, batch), ()), strict=False))
                if pairs:
                    found = [a / b for a, b in pairs]
                    yield {
                        "model": label,
                        "reference": base,
                        "image_size": size,
                        "what": what,
                        "batch_size": batch,
                        "ratio": median(found),
                        "low": min(found),
                        "high": max(found),
                        "n": len(found),
                    }


def _speeds(cell: Cell) -> dict[tuple[str, int], list[float]]:
    """``{(inference or training, batch size): images/s per round}``."""
    found = {("inference", batch): speeds for batch, speeds in cell.throughput.items()}
    return found | ({("training", 0): cell.training} if cell.training else {})


def findings(found: Results) -> Iterator[str]:
    """Sentences, each from this run's own figures, with n and range."""
    rows, settings = found["rows"], found["settings"]
    yield from _attention_findings(rows)
    yield from _growth_findings(found["growth"])
    yield from _speed_findings(found["ratios"])
    yield from _work_findings(rows)
    absent = [f"{r['model']} at {r['image_size']}²: {'; '.join(r['problems'])}" for r in rows if r["problems"]]
    if absent:
        yield f"Not everything could be measured: {'. '.join(absent)}."
    if not settings["interleaved"]:
        yield "The networks did not fit memory together and were measured one after the other: ratios may drift."
    load = found["environment"].get("load_average_start")
    if load is not None and settings["rounds"] and settings["device"] == "cpu" and load > 0.5:
        yield (
            f"Other processes were busy when this began (load average {load:.1f}): times may be too long, "
            "and the spread between rounds shows how evenly."
        )


def _attention_findings(rows: Sequence[Row]) -> Iterator[str]:
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [r for r in rows if r["model"] == model and r["attention_share"]]
        if len(own) > 1:
            first, last = own[0], own[-1]
            yield (
                f"Attention's products are {100 * first['attention_share']:.1f} % of {model}'s multiply-adds at "
                f"{first['image_size']}² and {100 * last['attention_share']:.1f} % at {last['image_size']}²."
            )


def _growth_findings(growth: Sequence[Row]) -> Iterator[str]:
    for model in dict.fromkeys(row["model"] for row in growth):
        own = {row["quantity"]: row for row in growth if row["model"] == model}
        parts = [
            f"{QUANTITIES[q]} as pixels^{exponent(own[q])}"
            for q in ("macs", "attention_macs", "latency_ms_p50", "batch_ms_per_image", "training_ms_per_image")
            if q in own
        ]
        if parts and own["macs"]["n"] > 2:
            yield f"{model} over {own['macs']['n']} sizes: {listing(parts)}."


def exponent(growth: Row) -> str:
    """``1.03 ± 0.02``."""
    error = growth["standard_error"]
    value = signed(growth["exponent"]).lstrip("+")
    return value if error is None else f"{value} ± {error:.2f}"


def _speed_findings(ratios: Sequence[Row]) -> Iterator[str]:
    if not ratios:
        return
    sizes = sorted({r["image_size"] for r in ratios})
    largest = max(r["batch_size"] for r in ratios)
    chosen = [
        r
        for r in ratios
        if r["image_size"] in (sizes[0], sizes[-1]) and (r["what"] == "training" or r["batch_size"] in (1, largest))
    ]
    for r in chosen:
        doing = "in training" if r["what"] == "training" else f"in batches of {r['batch_size']}"
        place = f"At {r['image_size']}² {doing} {r['model']}"
        spread = f"n = {r['n']} rounds, {r['low']:.2f} to {r['high']:.2f}"
        if r["n"] > 1 and r["low"] <= 1 <= r["high"]:
            yield f"{place} and {r['reference']} cannot be told apart in speed: ratio {r['ratio']:.2f} ({spread})."
        else:
            yield f"{place} handles {r['ratio']:.2f} times the images/s of {r['reference']} ({spread})."


def _work_findings(rows: Sequence[Row]) -> Iterator[str]:
    """Multiply-adds a second: how well the hardware likes each network's operators."""
    sized = [r for r in rows if r["batch_ms_per_image"] and r["macs"]]
    if not sized:
        return
    size = min(r["image_size"] for r in sized)
    own = [(r["model"], r["macs"] / r["batch_ms_per_image"] * 1e3, r["batch_size"]) for r in sized]
    own = [o for o, r in zip(own, sized, strict=True) if r["image_size"] == size]
    if len(own) > 1:
        own.sort(key=lambda o: -o[1])
        said = [f"{model} {count(rate)}" for model, rate, _ in own]
        yield f"Multiply-adds a second at {size}² in batches of {own[0][2]}: {listing(said)}."
