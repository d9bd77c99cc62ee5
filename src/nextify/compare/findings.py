"""What a comparison found, in sentences: each from this run's own figures, with n and spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nextify.compare import table_12
from nextify.compare.growth import QUANTITIES, exponent
from nextify.compare.ratios import spread
from nextify.compare.why_findings import why_findings
from nextify.report.text import count, listing, signed

Results = Mapping[str, Any]
Row = Mapping[str, Any]


def findings(found: Results) -> Iterator[str]:
    """Sentences, each from this run's own figures, with n and spread."""
    rows, settings = found["rows"], found["settings"]
    yield from _attention_findings(rows)
    yield from _growth_findings(found["growth"])
    yield from _speed_findings(found["ratios"])
    yield from table_12.findings(found["table_12"], settings)
    yield from _work_findings(rows)
    yield from _accuracy_findings(found["accuracy"])
    yield from why_findings(found["why"], {m["model"]: m["family"] for m in found["models"]})
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
        said = spread(r)
        if r["n"] > 1 and r["low"] <= 1 <= r["high"]:
            yield f"{place} and {r['reference']} cannot be told apart in speed: ratio {r['ratio']:.2f} ({said})."
        else:
            yield f"{place} handles {r['ratio']:.2f} times the images/s of {r['reference']} ({said})."


def _accuracy_findings(accuracy: Row | None) -> Iterator[str]:
    """What the paired seeds say of each trained network against the reference."""
    for row in accuracy["rows"] if accuracy else ():
        if row["conclusion"]:
            ends = "" if row["change_low"] is None else f" [{signed(row['change_low'])}, {signed(row['change_high'])}]"
            assert accuracy is not None
            yield (
                f"{row['model']} against {row['compared_with']} on {accuracy['data']['name']}: "
                f"{signed(row['change'])}{ends} points of top-1. {row['conclusion']}"
            )


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
