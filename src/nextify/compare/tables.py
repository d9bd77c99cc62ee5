"""A comparison's tables. The columns are named once, and drive the CSV, Markdown, the terminal and the HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from nextify.compare.growth import QUANTITIES
from nextify.compare.ratios import Beside, SpeedRatio
from nextify.compare.records import Accuracy, AccuracyRow, Model, Row
from nextify.compare.results import METRIC, Results
from nextify.report.columns import TABLES, Column, Value, of_metric, shown
from nextify.report.tables import csv_of, markdown_of, table_of, terminal_of
from nextify.report.template import Table
from nextify.report.text import (
    ABSENT,
    count,
    interval,
    mean_std,
    on_other_images,
    percent,
    signed,
    three_digits,
    whole,
)
from nextify.system.text import plural

if TYPE_CHECKING:
    from rich.table import Table as RichTable


def _column(
    key: str,
    title: str,
    show: Callable[[Any], str],
    narrow: str = "",
    css: str = "",
    value: Callable[[Any], Value] | None = None,
) -> Column[Any]:
    """A column of every table; ``key`` is empty where the CSV has none."""
    return Column(key, title, "", show, TABLES, value, narrow, css)


def _short(value: float | None) -> str:
    return count(value).replace(" ", "")


def _rate(value: float | None) -> str:
    return ABSENT if value is None else three_digits(value)


def _size(record: Row | SpeedRatio | Beside) -> str:
    return f"{record.image_size}²"


def _problems(row: Row) -> str:
    return "; ".join(row.problems)


COSTS: tuple[Column[Row], ...] = (
    _column("model", "model", lambda r: r.model, css="text"),
    _column("image_size", "size", _size),
    Column("status"),
    _column("parameters", "parameters", lambda r: _short(r.parameters), "param-\neters"),
    _column("macs", "multadds", lambda r: _short(r.macs), "mult-\nadds"),
    Column("attention_macs"),
    _column(
        "attention_share", "attention %", lambda r: percent(100 * (r.attention_share or 0) or None, 1), "atten-\ntion %"
    ),
    _column("activations", "activations", lambda r: _short(r.activations), "activa-\ntions"),
    Column("latency_calls"),
    _column("latency_ms_p50", "ms p50 batch 1", lambda r: percent(r.latency_ms_p50, 1), "ms p50\nbatch 1"),
    _column("latency_ms_p95", "p95", lambda r: percent(r.latency_ms_p95, 1)),
    _column("latency_ms_p99", "p99", lambda r: percent(r.latency_ms_p99, 1)),
    Column("what"),
    Column("batch_size"),
    _column("images_per_second", "img/s", lambda r: _rate(r.images_per_second)),
    _column("", "train img/s", lambda r: _rate(r.training and r.training.images_per_second), "train\nimg/s"),
    *map(Column, ("low", "high", "n", "start_mib")),
    _column("inference_mib", "MiB infer", lambda r: whole(r.inference_mib), "MiB\ninfer"),
    _column("training_mib", "MiB train", lambda r: whole(r.training_mib), "MiB\ntrain"),
    _column("problems", "problems", _problems, css="wrap", value=_problems),
)
_ACCURACY: tuple[Column[AccuracyRow], ...] = (
    _column("model", "network", lambda r: r.model + ("" if r.how == "trained" else " (as given)"), css="text"),
    Column("how"),
    _column(
        "{key}_mean",
        "{title} {unit}, mean ± std",
        lambda r: mean_std(r.mean, r.std),
        "{title} {unit}",
        value=lambda r: r.mean,
    ),
    Column("{key}_std", getter=lambda r: r.std),
    _column("{key}_low", "95 % interval", lambda r: _plain_interval(r.low, r.high), "interval", value=lambda r: r.low),
    Column("{key}_high", getter=lambda r: r.high),
    _column("n", "n", lambda r: str(r.n)),
    *map(Column, ("binomial_standard_error", "compared_with")),
    _column("change", "difference", lambda r: signed(r.change)),
    _column("change_low", "95 % interval", lambda r: interval(*r.interval) or ABSENT, "interval"),
    *map(Column, ("change_high", "p_value", "p_value_holm")),
    *map(Column, ("interval_low", "interval_high", "p_crossed", "p_crossed_holm", "image_error")),
    _column("verdict", "verdict", lambda r: r.verdict or ABSENT),
    _column("training_images_per_second", "training images/s", lambda r: whole(r.training_images_per_second)),
    *map(Column, ("training_seconds", "weights", "image_size")),
)
ACCURACY = of_metric(_ACCURACY, METRIC)
RATIOS: tuple[Column[SpeedRatio], ...] = (
    _column("", "network", lambda r: r.model, css="text"),
    _column("", "size", _size),
    _column("", "what", lambda r: r.what if r.what == "training" else f"{r.what}, batch {r.batch_size}", css="text"),
    _column("", "ratio", lambda r: f"{r.ratio:.3f}"),
    _column("", "95 % interval", lambda r: f"{r.low:.3f} – {r.high:.3f}"),
    _column("", "rounds", lambda r: str(r.n)),
)
TABLE_12: tuple[Column[Beside], ...] = (
    _column("", "network", lambda r: r.model, css="text"),
    _column("", "size", _size),
    _column("", "images/s here", lambda r: f"{r.images_per_second:,.0f}"),
    _column("", "A100, paper", lambda r: f"{r.published:,.1f}"),
    _column("", "here / paper", lambda r: f"{r.images_per_second / r.published:.2f}"),
    _column("", "over the Swin of its size, here", lambda r: r.ratio.brief if r.ratio else ABSENT),
    _column("", "n", lambda r: str(r.ratio.n) if r.ratio else ABSENT),
    _column("", "paper", lambda r: percent(r.published_ratio)),
)


def _plain_interval(low: float | None, high: float | None) -> str:
    return ABSENT if low is None else f"[{percent(low, 1)}, {percent(high, 1)}]".replace("-", "−")


@dataclass(frozen=True)
class Section:
    """A table with the words around it."""

    name: str
    heading: str
    lead: str
    table: Table
    notes: Sequence[str] = ()


def sections(results: Results) -> Iterator[Section]:
    """Every table that has rows, in the order of the page."""

    def made(name: str, heading: str, lead: str, caption: str, columns: Any, rows: Any, notes: Any = ()) -> Section:
        return Section(name, heading, lead, table_of(caption, shown(columns, "html"), [("", rows)]), notes)

    if accuracy := results.accuracy:
        lead, caption = f"{accuracy_title(accuracy)}.", "Accuracy of each network"
        yield made("accuracy", "Accuracy", lead, caption, ACCURACY, accuracy.rows, accuracy_notes(accuracy))
    lead, caption = f"{conditions_line(results)}.", "Cost of each network at each size"
    yield made("results", "Results", lead, caption, COSTS, results.rows, cost_notes(results))
    if quantities := [q for q in QUANTITIES if any(key == q for _, key in results.growth)]:
        lead = (
            "The exponent k of cost = c · pixels^k, a least-squares line through the logarithms; ± is its standard "
            "error. 1 is growth in proportion to the pixels, 2 is quadratic."
        )
        columns = [_column("", "network", lambda m: m.model, css="text")]
        columns += [_column("", QUANTITIES[q], partial(_exponent, results, q)) for q in quantities]
        yield made("growth", "Growth with the pixels", lead, "Exponents of cost", columns, results.models)
    if results.ratios:
        lead = (
            f"Images/s relative to {results.ratios[0].reference}: the ratio of mean speeds, each round weighted by the "
            "square of its rank, so that the fastest count most. The 95 % interval comes from bootstrap draws of the "
            "shared rounds; with fewer than 6 rounds, it is their range."
        )
        yield made("ratios", "Speed against one network", lead, "Speed ratios", RATIOS, results.ratios)
    if results.table_12:
        lead = "Inference in the largest batches. The paper's figures are for an A100, TF32, channels-last."
        yield made("table-12", "Beside the paper's Table 12", lead, "Table 12", TABLE_12, results.table_12)


def _exponent(results: Results, quantity: str, model: Model) -> str:
    return str(results.growth.get((model.model, quantity), ABSENT))


def csv_text(results: Results) -> str:
    """One line per throughput (``what``: inference or training), unrounded; a row without any has one line."""
    lines = []
    for row in results.rows:
        plain = vars(row) | dict.fromkeys(("what", "batch_size", "images_per_second", "low", "high", "n"))
        speeds = [{**vars(speed), "what": what} for (what, _), speed in row.speeds().items()]
        lines += [SimpleNamespace(**plain | speed) for speed in speeds or [{}]]
    columns: Sequence[Column[Any]] = COSTS
    return csv_of(columns, lines)


def accuracy_csv_text(accuracy: Accuracy) -> str:
    """One line per network, unrounded."""
    return csv_of(ACCURACY, accuracy.rows)


def markdown_counts(results: Results) -> str:
    """Counted beside published, for the docs."""

    def difference(row: Row) -> str:
        gflops = results.model(row.model).printed_gflops(row.image_size)
        return f"{row.macs / gflops / 1e7 - 100:+.1f} %".replace("-", "−") if gflops and row.macs else ABSENT

    parameters, macs = _printed(results)
    columns: list[Column[Row]] = [
        *COSTS[:2],
        _column("", "parameters", lambda r: _counted(r.parameters, 1e6, "M") if r.parameters else _problems(r)),
        parameters,
        _column("", "multiply-adds", lambda r: _counted(r.macs, 1e9, "G") if r.macs else ABSENT),
        macs,
        _column("", "difference", difference),
    ]
    return markdown_of(table_of("Counts", columns, [("", results.rows)])) + "\n"


def _counted(value: float, size: float, unit: str) -> str:
    """With the decimals of the paper's unit; three significant digits of what is less than one of it."""
    return f"{value / size:.2f}{unit}" if value >= size else _short(value)


def _printed(results: Results) -> tuple[Column[Row], Column[Row]]:
    """The paper's parameters and multiply-adds."""

    def parameters(row: Row) -> str:
        published = results.model(row.model).published
        return f"{published.parameters_millions:g}M" if published and published.parameters_millions else ABSENT

    def macs(row: Row) -> str:
        gflops = results.model(row.model).printed_gflops(row.image_size)
        return f"{gflops:g}G" if gflops else ABSENT

    return (
        _column("", "paper param.", parameters, "paper\nparam."),
        _column("", "paper GFLOPs", macs, "paper\nGFLOPs"),
    )


def terminal(results: Results) -> Iterator[RichTable]:
    """For the terminal: what was counted, what was measured, and the accuracies."""
    keys = ("model", "parameters", "macs", "attention_share", "activations")
    counted = [column for column in COSTS if column.key in keys]
    groups = [(f"{s}×{s}", [r for r in results.rows if r.image_size == s]) for s in results.run.settings.sizes]
    yield terminal_of("counted, for one image", [*counted, *_printed(results)], groups)
    if results.run.settings.rounds:
        left_out = (*keys[1:], "image_size", "problems")
        measured = [column for column in COSTS if column.shown and column.key not in left_out]
        yield terminal_of(conditions_line(results), measured, groups)
    if results.accuracy:
        columns = [column for column in ACCURACY if column.shown][:6]
        yield terminal_of(accuracy_title(results.accuracy), columns, [("", results.accuracy.rows)])


def cost_notes(results: Results) -> list[str]:
    """What the columns of costs mean."""
    run = results.run.settings
    said = ["mult-adds: of convolutions, linear layers and attention's products, per image; activations: their outputs"]
    if run.head:
        said.append(
            f"Each network is the backbone of the same {run.head} head, whose costs are included. Untrained weights "
            "find hardly any object; with trained ones, the work after the head takes longer."
        )
    if run.rounds:
        said.append(
            f"img/s: inference in batches of {max(run.batch_sizes)}, training in batches of {run.training_batch_size}, "
            f"medians of {_rounds(results)}. MiB: peak beyond the process before the network is built, same batches"
            + (", not compiled." if run.conditions.compile and not run.conditions.on_gpu else ".")
        )
        calls = min((row.latency_calls for row in results.rows if row.latency_calls), default=0)
        if 0 < calls < 100:
            said.append(f"p95 and p99 are of {calls} calls: with fewer than 100, p99 is close to the slowest.")
    return said


def accuracy_notes(accuracy: Accuracy) -> list[str]:
    """What the columns of accuracies mean, and how little few seeds can show."""
    said = []
    crossed = any(row.interval_low is not None for row in accuracy.rows)
    of_seeds = "Intervals are Student's 95 % intervals over the seeds, and do not cover other test images."
    of_new_images = (
        "Their intervals and the verdicts are for new seeds and new test images, the verdicts with Holm's correction "
        "over all networks; the interval of a mean is Student's over the seeds."
    )
    if base := next((row.compared_with for row in accuracy.rows if row.compared_with), None):
        said.append(
            f"Differences are to {base}, paired: one seed draws the same images in the same order for every network. "
            f"{of_new_images if crossed else of_seeds}"
        )
    if errors := [row.binomial_standard_error for row in accuracy.rows if row.binomial_standard_error]:
        said.append(f"{on_other_images(accuracy.data.test_images, max(errors))}.")
    return said + [f"{row.model}: {problem}" for row in accuracy.rows for problem in row.problems]


def accuracy_title(accuracy: Accuracy) -> str:
    """``top-1 on cifar10, 10 epochs of the convnext recipe, 3 seeds``."""
    if all(row.how == "evaluated" for row in accuracy.rows):
        return f"{METRIC.title} on {accuracy.data.name}"
    epochs, seeds = accuracy.recipe["epochs"], len(accuracy.seeds)
    of = f"{plural(epochs, 'epoch')} of the {accuracy.recipe_name} recipe"
    return f"{METRIC.title} on {accuracy.data.name}, {of}, {plural(seeds, 'seed')}"


def conditions_line(results: Results) -> str:
    """``cpu · fp32 · channels last · 2 threads · 5 to 9 rounds in turn``."""
    run, settings = results.run, results.run.settings
    given, rounds = settings.conditions, "counted only"
    if settings.rounds:
        rounds = f"{_rounds(results)} {'in turn' if run.interleaved else 'one network after the other'}"
    threads = plural(settings.threads, "thread")
    parts = [f"{settings.head} head"] if settings.head else []
    parts += [given.device, given.precision, given.layout.replace("_", " "), threads, rounds]
    parts += ["compiled"] if given.compile else []
    parts += [] if run.complete or not settings.rounds else ["stopped before the end"]
    return "  ·  ".join(parts)


def _rounds(results: Results) -> str:
    """``7 rounds``, or ``5 to 9 rounds`` where sizes differ."""
    found = {speed.n for row in results.rows for speed in row.throughput} or {results.run.settings.rounds or 0}
    fewest, most = min(found), max(found)
    return plural(fewest, "round") if fewest == most else f"{fewest} to {most} rounds"


def provenance(results: Results) -> str:
    """The machine, the versions and the date."""
    e = results.environment
    machine = e.get("gpu" if results.run.settings.conditions.on_gpu else "cpu")
    parts = [machine, *(f"{k} {e[k]}" for k in ("torch", "timm", "nextify") if e.get(k)), e.get("date")]
    return "  ·  ".join(str(part) for part in parts if part)
