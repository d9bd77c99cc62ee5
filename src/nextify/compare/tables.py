"""A comparison's tables. The columns are named once, and drive the CSV, Markdown, the terminal and the HTML page."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from nextify.compare.growth import QUANTITIES
from nextify.compare.ratios import SpeedRatio
from nextify.compare.records import Accuracy, AccuracyRow, Row
from nextify.compare.results import Results
from nextify.compare.table_12 import Beside
from nextify.report.template import Line, Table
from nextify.report.text import ABSENT, count, interval, mean_std, percent, signed, whole

if TYPE_CHECKING:
    from rich.table import Table as RichTable

T = TypeVar("T")


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column: ``key`` in the CSV, unrounded; ``title`` and ``show`` elsewhere. Either may be absent."""

    key: str
    title: str = ""
    """A break in it is one in the terminal."""
    show: Callable[[T], str] = str
    css: str = ""

    @property
    def heading(self) -> str:
        """The title on one line."""
        return self.title.replace("-\n", "").replace("\n", " ")


def _short(value: float | None) -> str:
    return count(value).replace(" ", "")


def _rate(value: float | None) -> str:
    """Three digits."""
    return ABSENT if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


COSTS: tuple[Column[Row], ...] = (
    Column("model", "model", lambda r: r.model),
    Column("image_size", "size", lambda r: f"{r.image_size}²"),
    Column("status"),
    Column("parameters", "param-\neters", lambda r: _short(r.parameters)),
    Column("macs", "mult-\nadds", lambda r: _short(r.macs)),
    Column("attention_macs"),
    Column("attention_share", "atten-\ntion %", lambda r: percent(100 * (r.attention_share or 0) or None, 1)),
    Column("activations", "activa-\ntions", lambda r: _short(r.activations)),
    Column("latency_calls"),
    Column("latency_ms_p50", "ms p50\nbatch 1", lambda r: percent(r.latency_ms_p50, 1)),
    Column("latency_ms_p95", "p95", lambda r: percent(r.latency_ms_p95, 1)),
    Column("latency_ms_p99", "p99", lambda r: percent(r.latency_ms_p99, 1)),
    Column("what"),
    Column("batch_size"),
    Column("images_per_second", "img/s", lambda r: _rate(r.images_per_second)),
    Column("", "train\nimg/s", lambda r: _rate(r.training.images_per_second if r.training else None)),
    *(Column[Row](key) for key in ("low", "high", "n", "start_mib")),
    Column("inference_mib", "MiB\ninfer", lambda r: whole(r.inference_mib)),
    Column("training_mib", "MiB\ntrain", lambda r: whole(r.training_mib)),
    Column("problems", "problems", lambda r: "; ".join(r.problems), "wrap"),
)
ACCURACY: tuple[Column[AccuracyRow], ...] = (
    Column("model", "network", lambda r: r.model + ("" if r.how == "trained" else " (as given)")),
    Column("how"),
    Column("top1_mean", "top-1 %, mean ± std", lambda r: mean_std(r.top1_mean, r.top1_std)),
    Column("top1_std"),
    Column("top1_low", "95 % interval", lambda r: _plain_interval(r.top1_low, r.top1_high)),
    Column("top1_high"),
    Column("n", "n", lambda r: str(r.n)),
    *(Column[AccuracyRow](key) for key in ("binomial_standard_error", "compared_with")),
    Column("change", "difference", lambda r: signed(r.change)),
    Column("change_low", "95 % interval", lambda r: interval(r.change_low, r.change_high) or ABSENT),
    *(Column[AccuracyRow](key) for key in ("change_high", "p_value", "p_value_holm")),
    Column("verdict", "verdict", lambda r: r.verdict or ABSENT),
    Column("training_images_per_second", "training images/s", lambda r: whole(r.training_images_per_second)),
    *(Column[AccuracyRow](key) for key in ("training_seconds", "weights")),
)
RATIOS: tuple[Column[SpeedRatio], ...] = (
    Column("", "network", lambda r: r.model),
    Column("", "size", lambda r: f"{r.image_size}²"),
    Column("", "what", lambda r: r.what if r.what == "training" else f"{r.what}, batch {r.batch_size}", "text"),
    Column("", "ratio", lambda r: f"{r.ratio:.3f}"),
    Column("", "95 % interval", lambda r: f"{r.low:.3f} – {r.high:.3f}"),
    Column("", "rounds", lambda r: str(r.n)),
)
TABLE_12: tuple[Column[Beside], ...] = (
    Column("", "network", lambda r: r.model),
    Column("", "size", lambda r: f"{r.image_size}²"),
    Column("", "images/s here", lambda r: f"{r.images_per_second:,.0f}"),
    Column("", "A100, paper", lambda r: f"{r.published:,.1f}"),
    Column("", "here / paper", lambda r: f"{r.images_per_second / r.published:.2f}"),
    Column(
        "",
        "over the Swin of its size, here",
        lambda r: f"{r.ratio.ratio:.2f} [{r.ratio.low:.2f}, {r.ratio.high:.2f}]" if r.ratio else ABSENT,
    ),
    Column("", "n", lambda r: str(r.ratio.n) if r.ratio else ABSENT),
    Column("", "paper", lambda r: percent(r.published_ratio)),
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
    accuracy = results.accuracy
    if accuracy:
        made = _table("Accuracy of each network", ACCURACY, accuracy.rows)
        yield Section("accuracy", "Accuracy", f"{accuracy_title(accuracy)}.", made, accuracy_notes(accuracy))
    made = _table("Cost of each network at each size", COSTS, results.rows)
    yield Section("results", "Results", f"{conditions_line(results)}.", made, cost_notes(results))
    quantities = [q for q in QUANTITIES if any(key == q for _, key in results.growth)]
    if quantities:
        said = (
            "The exponent k of cost = c · pixels^k, a least-squares line through the logarithms; ± is its standard "
            "error. 1 is growth in proportion to the pixels, 2 is quadratic."
        )
        lines = [
            Line([m.model, *(str(results.growth.get((m.model, q), ABSENT)) for q in quantities)])
            for m in results.models
        ]
        head = [("network", ""), *((QUANTITIES[q], "") for q in quantities)]
        yield Section("growth", "Growth with the pixels", said, Table("Exponents of cost", head, [("", lines)]))
    if results.ratios:
        said = (
            f"Images/s over those of {results.ratios[0].reference}: the ratio of mean speeds in which rounds weigh by "
            "the square of their rank, the fastest the most. The interval is that of 95 % over the shared rounds, "
            "drawn again with replacement; with fewer than 6 rounds, their range."
        )
        made = _table("Speed ratios", RATIOS, results.ratios)
        yield Section("ratios", "Speed against one network", said, made)
    if results.table_12:
        said = "Inference in the largest batches. The paper's figures are of an A100, TF32, channels-last."
        made = _table("Table 12", TABLE_12, results.table_12)
        yield Section("table-12", "Beside the paper's Table 12", said, made)


def _table(caption: str, columns: Sequence[Column[T]], records: Sequence[T]) -> Table:
    """The columns with a title; one that is empty in every line is left out."""
    shown = [c for c in columns if c.title and any(c.show(record) for record in records)]
    lines = [Line([c.show(record) for c in shown]) for record in records]
    return Table(caption, [(c.heading, c.css) for c in shown], [("", lines)])


def csv_text(results: Results) -> str:
    """One line per throughput (``what``: inference or training), unrounded; a row without any has one line."""
    lines = []
    for row in results.rows:
        plain = {**vars(row), "problems": "; ".join(row.problems), "batch_size": None}
        speeds = [{**vars(speed), "what": what} for (what, _), speed in row.speeds().items()]
        lines += [plain | speed for speed in speeds or [{}]]
    return _csv(COSTS, lines)


def accuracy_csv_text(accuracy: Accuracy) -> str:
    """One line per network, unrounded."""
    return _csv(ACCURACY, [vars(row) for row in accuracy.rows])


def _csv(columns: Sequence[Column[Any]], lines: Sequence[Mapping[str, object]]) -> str:
    buffer = io.StringIO()
    keys = [column.key for column in columns if column.key]
    writer = csv.DictWriter(buffer, keys, extrasaction="ignore", lineterminator="\n")  # None is written as nothing
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def markdown(table: Table) -> str:
    """The table in Markdown, the numbers flush right."""
    head = [label for label, _ in table.head]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    cells = [[cell.replace("|", "\\|") for cell in line.cells] for _, group in table.groups for line in group]
    return "\n".join(lines + ["| " + " | ".join(line) + " |" for line in cells])


def _printed(results: Results) -> tuple[Column[Row], Column[Row]]:
    """The paper's parameters and multiply-adds."""

    def parameters(row: Row) -> str:
        published = results.model(row.model).published
        millions = published and published.parameters_millions
        return f"{millions:g}M" if millions else ABSENT

    def macs(row: Row) -> str:
        gflops = results.model(row.model).printed_gflops(row.image_size)
        return f"{gflops:g}G" if gflops else ABSENT

    return Column("", "paper\nparam.", parameters), Column("", "paper\nGFLOPs", macs)


def markdown_counts(results: Results) -> str:
    """Counted beside published, for the docs."""

    def difference(row: Row) -> str:
        gflops = results.model(row.model).printed_gflops(row.image_size)
        return f"{row.macs / gflops / 1e7 - 100:+.1f} %".replace("-", "−") if gflops and row.macs else ABSENT

    parameters, macs = _printed(results)
    columns: list[Column[Row]] = [
        *COSTS[:2],
        Column("", "parameters", lambda r: f"{r.parameters / 1e6:.2f}M" if r.parameters else "; ".join(r.problems)),
        parameters,
        Column("", "multiply-adds", lambda r: f"{r.macs / 1e9:.2f}G" if r.macs else ABSENT),
        macs,
        Column("", "difference", difference),
    ]
    return markdown(_table("Counts", columns, results.rows)) + "\n"


def terminal(results: Results) -> Iterator[RichTable]:
    """For the terminal: what was counted, what was measured, and the accuracies."""
    shown = {column.key: column for column in COSTS if column.title}
    sizes = {f"{size}×{size}": [r for r in results.rows if r.image_size == size] for size in results.run.settings.sizes}
    counted = [shown[key] for key in ("model", "parameters", "macs", "attention_share", "activations")]
    yield _terminal("counted, for one image", [*counted, *_printed(results)], sizes)
    if results.run.settings.rounds:
        measured = [c for c in shown.values() if c not in (*counted, shown["image_size"], shown["problems"])]
        yield _terminal(conditions_line(results), [shown["model"], *measured], sizes)
    if results.accuracy:
        columns = [column for column in ACCURACY if column.title][:6]
        yield _terminal(accuracy_title(results.accuracy), columns, {"": results.accuracy.rows})


def _terminal(title: str, columns: Sequence[Column[T]], groups: Mapping[str, Sequence[T]]) -> RichTable:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    made = Table(title=escape(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), collapse_padding=True, pad_edge=False)
    for i, column in enumerate(columns):
        made.add_column(
            column.title.replace(", mean ± std", "").replace("95 % ", ""),
            justify="right" if i else "left",
            no_wrap=True,
        )
    for heading, records in groups.items():
        if heading:
            made.add_row(f"[dim]{heading}[/]")
        for record in records:
            made.add_row(*(escape(column.show(record)) for column in columns))
        made.add_section()
    return made


def cost_notes(results: Results) -> list[str]:
    """What the columns of costs mean."""
    run = results.run.settings
    said = ["mult-adds: of convolutions, linear layers and attention's products, per image; activations: their outputs"]
    if run.rounds:
        said.append(
            f"img/s: inference in batches of {max(run.batch_sizes)}, training in batches of {run.training_batch_size}, "
            f"medians of {_rounds(results)}. MiB: peak beyond the process before the network is built, same batches."
        )
        calls = min((row.latency_calls for row in results.rows if row.latency_calls), default=0)
        if 0 < calls < 100:
            said.append(f"p95 and p99 are of {calls} calls: with fewer than 100, p99 is close to the slowest.")
    return said


def accuracy_notes(accuracy: Accuracy) -> list[str]:
    """What the columns of accuracies mean, and how little few seeds can show."""
    said = []
    base = next((row.compared_with for row in accuracy.rows if row.compared_with), None)
    if base:
        said.append(
            f"Differences are to {base}, paired: one seed draws the same images in the same order for every network. "
            "Intervals are Student's of 95 % over the seeds, and say nothing of other test images."
        )
    errors = [row.binomial_standard_error for row in accuracy.rows if row.binomial_standard_error]
    if errors:
        said.append(
            f"{accuracy.data.test_images:,} test images: on others of the same kind an accuracy would move by about "
            f"{max(errors):.2f} points (binomial standard error)."
        )
    return said + [f"{row.model}: {problem}" for row in accuracy.rows for problem in row.problems]


def accuracy_title(accuracy: Accuracy) -> str:
    """``top-1 on cifar10, 10 epochs of the convnext recipe, 3 seeds``."""
    if all(row.how == "evaluated" for row in accuracy.rows):
        return f"top-1 on {accuracy.data.name}"
    epochs, seeds = accuracy.recipe["epochs"], len(accuracy.seeds)
    of = f"{epochs} epoch{'s' if epochs > 1 else ''} of the {accuracy.recipe_name} recipe"
    return f"top-1 on {accuracy.data.name}, {of}, {seeds} seed{'s' if seeds > 1 else ''}"


def conditions_line(results: Results) -> str:
    """``cpu · fp32 · channels last · 2 threads · 5 to 9 rounds in turn``."""
    run, settings = results.run, results.run.settings
    given, rounds = settings.conditions, "counted only"
    if settings.rounds:
        rounds = f"{_rounds(results)} {'in turn' if run.interleaved else 'one network after the other'}"
    threads = f"{settings.threads} thread{'s' if settings.threads > 1 else ''}"
    parts = [given.device, given.precision, given.layout.replace("_", " "), threads, rounds]
    parts += ["compiled"] if given.compile else []
    parts += [] if run.complete or not settings.rounds else ["stopped before the end"]
    return "  ·  ".join(parts)


def _rounds(results: Results) -> str:
    """``7 rounds``, or ``5 to 9 rounds`` where sizes differ."""
    found = {speed.n for row in results.rows for speed in row.throughput} or {results.run.settings.rounds or 0}
    fewest, most = min(found), max(found)
    return f"{fewest} round{'s' if fewest != 1 else ''}" if fewest == most else f"{fewest} to {most} rounds"


def provenance(results: Results) -> str:
    """The machine, the versions and the date."""
    e = results.environment
    machine = e.get("gpu" if results.run.settings.conditions.on_gpu else "cpu")
    parts = [machine, *(f"{k} {e[k]}" for k in ("torch", "timm", "nextify") if e.get(k)), e.get("date")]
    return "  ·  ".join(str(part) for part in parts if part)
