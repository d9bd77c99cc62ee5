"""What a comparison found, as plain data: the content of results.json.

docs/compare.md lists the keys. Every figure is of this run; what the paper prints stands under ``published``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from nextify.compare import table_12
from nextify.compare.budget import Limit, recommend
from nextify.compare.findings import findings
from nextify.compare.growth import QUANTITIES, Growth, fit
from nextify.compare.measure import Cell, Comparison
from nextify.compare.ratios import paired, undisturbed
from nextify.evaluation.profiling import median, quantile

SCHEMA = 1
Results = Mapping[str, Any]
Row = Mapping[str, Any]


def results(
    comparison: Comparison,
    command: str,
    started: datetime,
    finished: datetime,
    environment: Mapping[str, Any],
    *,
    accuracy: Mapping[str, Any] | None = None,
    why: Sequence[Mapping[str, Any]] = (),
    limits: Sequence[Limit] = (),
) -> dict[str, Any]:
    """The comparison as one JSON object; absent figures are None.

    Args:
        accuracy: of ``compare.accuracy``, where anything was trained or evaluated.
        why: of ``compare.why``.
        limits: of the budget that a network is recommended for.
    """
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
            "rounds": min(comparison.plan.rounds.values()) if comparison.plan else None,
            "minutes": settings.minutes,
            "expected_seconds": comparison.plan.seconds if comparison.plan else None,
            "seconds": (finished - started).total_seconds(),
            "passes": settings.passes,
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
        "table_12": list(table_12.table(comparison)),
        "accuracy": accuracy,
        "why": list(why),
    }
    budget = (
        {"limits": [limit.said for limit in limits], "recommendation": recommend(found, limits)} if limits else None
    )
    return {**found, "budget": budget, "findings": list(findings(found))}


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
                base_speeds = ours.get((what, batch))
                if base_speeds:
                    yield {
                        "model": label,
                        "reference": base,
                        "image_size": size,
                        "what": what,
                        "batch_size": batch,
                        **paired(speeds, base_speeds),
                        "ratio_undisturbed": undisturbed(speeds, base_speeds),
                    }


def _speeds(cell: Cell) -> dict[tuple[str, int], list[float]]:
    """``{(inference or training, batch size): images/s per round}``."""
    found = {("inference", batch): speeds for batch, speeds in cell.throughput.items()}
    return found | ({("training", 0): cell.training} if cell.training else {})
