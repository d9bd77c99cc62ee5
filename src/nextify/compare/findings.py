"""What a comparison found, in sentences: each from this run's own figures, with n and spread."""

from collections.abc import Iterator

from nextify.compare import why
from nextify.compare.growth import QUANTITIES
from nextify.compare.results import METRIC, Results
from nextify.report.text import count, interval, listing, signed


def findings(results: Results) -> Iterator[str]:
    """Sentences, in the order of the page."""
    yield from _attention(results)
    yield from _growth(results)
    yield from _speed(results)
    yield from _table_12(results)
    yield from _work(results)
    yield from _accuracy(results)
    for one in results.why:
        yield from why.findings(one, results.model(one.model).family)
    run = results.run
    if absent := [f"{r.model} at {r.image_size}²: {'; '.join(r.problems)}" for r in results.rows if r.problems]:
        yield f"Not everything could be measured: {'. '.join(absent)}."
    if not run.interleaved:
        yield "The networks did not fit into memory together and were measured one after the other: ratios may drift."
    load = results.environment.get("load_average_start")
    if isinstance(load, float) and load > 0.5 and run.settings.rounds and not run.settings.conditions.on_gpu:
        yield (
            f"Other processes were busy when this began (load average {load:.1f}): times may be too long, "
            "and the spread between rounds shows how evenly."
        )


def _attention(results: Results) -> Iterator[str]:
    for model in results.models:
        own = [(r.attention_share, r.image_size) for r in results.rows if r.model == model.model and r.attention_share]
        if len(own) > 1:
            (first, small), (last, large) = own[0], own[-1]
            yield (
                f"Attention's products are {100 * first:.1f} % of {model.model}'s multiply-adds at {small}² and "
                f"{100 * last:.1f} % at {large}²."
            )


def _growth(results: Results) -> Iterator[str]:
    said = ("macs", "attention_macs", "latency_ms_p50", "batch_ms_per_image", "training_ms_per_image")
    for model in results.models:
        own = {q: results.growth[model.model, q] for q in said if (model.model, q) in results.growth}
        if "macs" in own and own["macs"].n > 2:
            parts = [f"{QUANTITIES[q]} as pixels^{growth}" for q, growth in own.items()]
            yield f"{model.model} over {own['macs'].n} sizes: {listing(parts)}."


def _speed(results: Results) -> Iterator[str]:
    """At the smallest and the largest size: one image, the largest batch, and training."""
    sizes = [r.image_size for r in results.ratios]
    largest = max((r.batch_size for r in results.ratios), default=0)
    for r in results.ratios:
        if r.image_size not in (min(sizes), max(sizes)) or r.batch_size not in (0, 1, largest):
            continue
        doing = "in training" if r.what == "training" else f"in batches of {r.batch_size}"
        place = f"At {r.image_size}² {doing} {r.model}"
        if r.n > 1 and r.low <= 1 <= r.high:
            yield f"{place} and {r.reference} cannot be told apart in speed: ratio {r.ratio:.2f} ({r.spread})."
        else:
            yield f"{place} handles {r.ratio:.2f} times the images/s of {r.reference} ({r.spread})."


def _table_12(results: Results) -> Iterator[str]:
    given = results.run.settings.conditions
    for row in results.table_12:
        if row.ratio:
            yield (
                f"{row.model} over {row.swin} in images/s at {row.image_size}²: {row.ratio.ratio:.2f} here "
                f"({given.device}, {given.precision}, batches of {row.batch_size}, {row.ratio.spread}), "
                f"{row.published_ratio:.2f} in the paper (A100, TF32, channels-last)."
            )


def _work(results: Results) -> Iterator[str]:
    """Multiply-adds a second: how well the hardware likes each network's operators."""
    timed = [(r, r.macs / r.batch_ms_per_image * 1e3) for r in results.rows if r.batch_ms_per_image and r.macs]
    size = min((r.image_size for r, _ in timed), default=0)
    own = sorted(((rate, r) for r, rate in timed if r.image_size == size), key=lambda o: -o[0])
    if len(own) > 1:
        said = listing([f"{r.model} {count(rate)}" for rate, r in own])
        yield f"Multiply-adds per second at {size}² in batches of {own[0][1].batch_size}: {said}."


def _accuracy(results: Results) -> Iterator[str]:
    """What the paired seeds say of each trained network against the reference."""
    accuracy = results.accuracy
    for row in accuracy.rows if accuracy else ():
        if row.conclusion and accuracy:
            # A conclusion for new seeds and images has its interval; Student's beside it would be a second one.
            ends = (row.change_low, row.change_high) if row.interval_low is None else (None, None)
            change = f"{signed(row.change)} {interval(*ends)}".strip()
            yield (
                f"{row.model} against {row.compared_with} on {accuracy.data.name}: {change} points of {METRIC.title}. "
                f"{row.conclusion}"
            )
