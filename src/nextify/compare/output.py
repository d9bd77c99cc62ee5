"""A comparison written out: results.json, results.csv, figures as PNG and SVG, and one offline HTML page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextify.compare.figure import conditions_line, figures
from nextify.compare.results import QUANTITIES, Results, Row, exponent
from nextify.files import write_bytes_atomic, write_json_atomic, write_text_atomic
from nextify.report.figure import inline_svg, png, svg
from nextify.report.html import _PAGE, _STYLE, _e, _facts, _list, _section, _table
from nextify.report.html import _row as _html_row
from nextify.report.text import ABSENT, count, duration, percent, whole

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (
    "model",
    "image_size",
    "status",
    "parameters",
    "macs",
    "attention_macs",
    "attention_share",
    "activations",
    "latency_calls",
    "latency_ms_p50",
    "latency_ms_p95",
    "latency_ms_p99",
    "what",
    "batch_size",
    "images_per_second",
    "low",
    "high",
    "n",
    "start_mib",
    "inference_mib",
    "training_mib",
    "problems",
)
"""A line a throughput (``what``: inference or training); a network at a size without any has one line."""


def write(results: Results, out: Path) -> list[Path]:
    """Writes everything into ``out``, each file whole or not at all; the data comes first."""
    out.mkdir(parents=True, exist_ok=True)
    written = write_data(results, out)
    drawn = {}
    for name, (label, figure) in figures(results).items():
        source = svg(figure)
        drawn[name] = (label, source)
        write_text_atomic(out / f"{name}.svg", source)
        write_bytes_atomic(out / f"{name}.png", png(figure))
        written += [out / f"{name}.svg", out / f"{name}.png"]
    write_text_atomic(out / "report.html", page(results, drawn))
    return [*written, out / "report.html"]


def write_data(results: Results, out: Path) -> list[Path]:
    """Only results.json, results.csv and counts.md."""
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomic(out / "results.json", results)
    write_text_atomic(out / "results.csv", csv_text(results))
    write_text_atomic(out / "counts.md", markdown_counts(results))
    return [out / "results.json", out / "results.csv", out / "counts.md"]


def csv_text(results: Results) -> str:
    """Unrounded; empty where there is nothing."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in results["rows"]:
        plain = {k: "" if v is None else v for k, v in row.items()} | {"problems": "; ".join(row["problems"])}
        plain.pop("batch_size")
        speeds = [{"what": "inference"} | s for s in row["throughput"]]
        speeds += [{"what": "training"} | row["training"]] if row["training"] else []
        for speed in speeds or [{}]:
            writer.writerow(plain | speed)
    return buffer.getvalue()


HEAD = (
    "model",
    "size",
    "param-\neters",
    "mult-\nadds",
    "atten-\ntion %",
    "activa-\ntions",
    "ms p50\nbatch 1",
    "p95",
    "p99",
    "img/s",
    "train\nimg/s",
    "MiB\ninfer",
    "MiB\ntrain",
)


def cells(row: Row) -> tuple[str, ...]:
    """The figures of one network at one size, as in ``HEAD``."""
    best = row["throughput"][-1] if row["throughput"] else None
    training = row["training"]
    return (
        row["model"],
        f"{row['image_size']}²",
        count(row["parameters"]).replace(" ", ""),
        count(row["macs"]).replace(" ", ""),
        ABSENT if not row["attention_share"] else f"{100 * row['attention_share']:.1f}",
        count(row["activations"]).replace(" ", ""),
        *(percent(row[f"latency_ms_p{p}"], 1) for p in (50, 95, 99)),
        speed(best),
        speed(training),
        whole(row["inference_mib"]),
        whole(row["training_mib"]),
    )


def speed(found: Row | None) -> str:
    """Images/s, three digits."""
    if found is None:
        return ABSENT
    value = found["images_per_second"]
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def tables(results: Results) -> Iterator[Table]:
    """For the terminal: what was counted, and what was measured; a block a size."""
    yield _terminal(results, "counted, for one image", range(2, COUNTED))
    if results["settings"]["rounds"]:
        yield _terminal(results, conditions_line(results), range(COUNTED, len(HEAD)))


COUNTED = 6
"""Columns of ``HEAD`` that are counted; the others are measured."""


def _terminal(results: Results, title: str, columns: Sequence[int]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    made = Table(title=escape(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), collapse_padding=True, pad_edge=False)
    made.add_column("network", no_wrap=True)
    for name in (*(HEAD[i] for i in columns), *(("paper\nparam.", "paper\nGFLOPs") if 2 in columns else ())):
        made.add_column(name, justify="right", no_wrap=True)
    papers = {m["model"]: m["published"] or {} for m in results["models"]}
    for size in results["settings"]["sizes"]:
        made.add_row(f"[dim]{size}×{size}[/]")
        for row in (r for r in results["rows"] if r["image_size"] == size):
            shown = cells(row)
            figures = [shown[i] for i in columns]
            if 2 in columns:
                paper = papers[row["model"]]
                millions, gflops = paper.get("parameters_millions"), printed_gflops(paper, size)
                figures += [
                    ABSENT if millions is None else f"{millions:g}M",
                    ABSENT if gflops is None else f"{gflops:g}G",
                ]
            made.add_row(escape(shown[0]), *figures, style="" if row["macs"] else "dim")
        made.add_section()
    return made


def notes(results: Results) -> list[str]:
    """What the columns mean."""
    s = results["settings"]
    said = [
        "mult-adds: of convolutions, linear layers and attention's products, for one image; activations: their outputs"
    ]
    if s["rounds"]:
        batch = max(s["batch_sizes"])
        said.append(
            f"img/s: inference in batches of {batch}, training in batches of {s['training_batch_size']}, medians of "
            f"{s['rounds']} rounds. MiB: peak beyond the process before the network is built, same batches."
        )
        calls = s["calls"] * s["rounds"]
        if calls < 100:
            said.append(f"p95 and p99 are of {calls} calls: with fewer than 100, p99 is close to the slowest.")
    return said


def printed_gflops(published: Mapping[str, Any], image_size: int) -> float | None:
    """The paper's figure at that size, where it prints one."""
    found: float | None = published.get({224: "gflops", 384: "gflops_384"}.get(image_size, ""))
    return found


def markdown_counts(results: Results) -> str:
    """Counted beside published, for the docs."""
    published = {m["model"]: m["published"] or {} for m in results["models"]}
    lines = [
        "| network | size | parameters | published | multiply-adds | published | difference |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in results["rows"]:
        if row["macs"] is None:
            lines.append(f"| {row['model']} | {row['image_size']}² | {'; '.join(row['problems'])} | | | | |")
            continue
        gflops = printed_gflops(published[row["model"]], row["image_size"])
        millions = published[row["model"]].get("parameters_millions")
        ours = row["macs"] / 1e9
        difference = ABSENT if gflops is None else f"{100 * (ours / gflops - 1):+.1f} %".replace("-", "−")
        cells = (
            row["model"],
            f"{row['image_size']}²",
            f"{row['parameters'] / 1e6:.2f} M",
            ABSENT if millions is None else f"{millions:g} M",
            f"{ours:.2f} G",
            ABSENT if gflops is None else f"{gflops:g} G",
            difference,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def page(results: Results, drawn: dict[str, tuple[str, str]]) -> str:
    """The report as one HTML document; ``drawn``: ``{name: (label, SVG)}``."""
    models = [m["model"] for m in results["models"]]
    title = f"{len(models)} networks compared"
    s = results["settings"]
    sections = [
        _section("findings", "Findings", _list(results["findings"])),
        _section("results", "Results", _results_table(results) + _list(notes(results))),
        _section("figures", "Figures", "\n".join(_figure(n, *d) for n, d in drawn.items())),
        _section("growth", "Growth with the pixels", _growth_table(results)),
        _section("ratios", "Speed against one network", _ratio_table(results)),
        _section("reproduce", "How to do it again", _reproduce(results)),
    ]
    state = "" if s["complete"] or not s["rounds"] else '<p class="outcome">Stopped before the end.</p>'
    return _PAGE.substitute(
        title=_e(title),
        style=_STYLE,
        lead=_e(f"{', '.join(models)}. {conditions_line(results)}"),
        outcome=state,
        sections="\n".join(x for x in sections if x),
        footer=_e("Made by nextify. Published values are those of arXiv 2201.03545v2 and are named as such."),
    )


def _figure(name: str, label: str, source: str) -> str:
    drawing = inline_svg(source, name, label)
    caption = f"<figcaption>{_e(label)}</figcaption>"
    return f'<figure class="wide"><div class="scroll" tabindex="0">{drawing}</div>{caption}</figure>'


def _results_table(results: Results) -> str:
    head = [(h.replace("-\n", "").replace("\n", " "), "") for h in HEAD] + [("problems", "text")]
    body = ""
    for size in results["settings"]["sizes"]:
        lines = "".join(
            _html_row(_e(r["model"]), [*((_e(c), "") for c in cells(r)[1:]), (_e("; ".join(r["problems"])), "wrap")])
            for r in results["rows"]
            if r["image_size"] == size
        )
        body += f"<tbody>{lines}</tbody>"
    return _table(head, body, "Cost of each network at each size")


def _growth_table(results: Results) -> str:
    quantities = [q for q in QUANTITIES if any(g["quantity"] == q for g in results["growth"])]
    if not quantities:
        return ""
    found = {(g["model"], g["quantity"]): exponent(g) for g in results["growth"]}
    lines = "".join(
        _html_row(_e(m["model"]), [(_e(found.get((m["model"], q), ABSENT)), "") for q in quantities])
        for m in results["models"]
    )
    explained = (
        "<p>The exponent k of cost = c · pixels^k, a least-squares line through the logarithms; ± is its standard "
        "error. 1 is growth in proportion to the pixels, 2 is quadratic.</p>"
    )
    head = [("network", ""), *((QUANTITIES[q], "") for q in quantities)]
    return explained + _table(head, f"<tbody>{lines}</tbody>", "Exponents of cost against pixels")


def _ratio_table(results: Results) -> str:
    if not results["ratios"]:
        return ""
    lines = "".join(
        _html_row(
            _e(r["model"]),
            [
                (f"{r['image_size']}²", ""),
                ("training" if r["what"] == "training" else f"inference, batch {r['batch_size']}", "text"),
                (f"{r['ratio']:.3f}", ""),
                (f"{r['low']:.3f} – {r['high']:.3f}", ""),
                (str(r["n"]), ""),
            ],
        )
        for r in results["ratios"]
    )
    explained = f"<p>Images/s over those of {_e(results['ratios'][0]['reference'])}, paired round by round.</p>"
    head = [("network", ""), ("size", ""), ("what", "text"), ("ratio", ""), ("range", ""), ("rounds", "")]
    return explained + _table(head, f"<tbody>{lines}</tbody>", "Speed ratios")


def _reproduce(results: Results) -> str:
    s, e = results["settings"], results["environment"]
    facts: Sequence[tuple[str, Any]] = (
        ("conditions", conditions_line(results)),
        ("batch sizes", ", ".join(map(str, s["batch_sizes"]))),
        ("training batch", s["training_batch_size"]),
        ("timed calls a round", s["calls"]),
        ("took", duration(s["seconds"])),
        ("expected", duration(s["expected_seconds"])),
        *((k.replace("_", " "), v) for k, v in e.items()),
        ("started", s["started"]),
    )
    return f"<pre>{_e(s['command'])}</pre>{_facts(facts)}"
