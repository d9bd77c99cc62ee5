"""A comparison as one offline HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nextify.compare import table_12
from nextify.compare.figure_parts import accuracy_title, conditions_line
from nextify.compare.findings import Results
from nextify.compare.growth import QUANTITIES, exponent
from nextify.compare.tables import (
    ACCURACY_HEAD,
    HEAD,
    accuracy_cells,
    accuracy_notes,
    cells,
    notes,
)
from nextify.report.parts import bullets, document, escaped, facts, figure, row, section, table
from nextify.report.text import ABSENT, duration


def page(results: Results, drawn: dict[str, tuple[str, str]]) -> str:
    """The report as one HTML document; ``drawn``: ``{name: (label, SVG)}``."""
    models = [m["model"] for m in results["models"]]
    title = f"{len(models)} networks compared"
    s = results["settings"]
    sections = [
        section("findings", "Findings", bullets(results["findings"])),
        section("budget", "Within the budget", _budget(results)),
        section("accuracy", "Accuracy", _accuracy_table(results)),
        section("results", "Results", _results_table(results) + bullets(notes(results))),
        section("figures", "Figures", "\n".join(figure(n, source, label) for n, (label, source) in drawn.items())),
        section("growth", "Growth with the pixels", _growth_table(results)),
        section("ratios", "Speed against one network", _ratio_table(results)),
        section("table-12", "Beside the paper's Table 12", _table_12(results)),
        section("reproduce", "How to do it again", _reproduce(results)),
    ]
    state = "" if s["complete"] or not s["rounds"] else "Stopped before the end."
    return document(
        title,
        f"{', '.join(models)}. {conditions_line(results)}",
        state,
        sections,
        "Made by nextify. Published values are those of arXiv 2201.03545v2 and are named as such.",
    )


def _budget(results: Results) -> str:
    return f"<p>{escaped(results['budget']['recommendation'])}</p>" if results["budget"] else ""


def _accuracy_table(results: Results) -> str:
    accuracy = results["accuracy"]
    if not accuracy:
        return ""
    lines = "".join(
        row(escaped(cells[0]), [(escaped(cell), "") for cell in cells[1:]])
        for cells in map(accuracy_cells, accuracy["rows"])
    )
    head = [(name, "") for name in ACCURACY_HEAD]
    shown = table(head, f"<tbody>{lines}</tbody>", "Accuracy of each network")
    explained = f"<p>{escaped(accuracy_title(accuracy))}.</p>"
    fitted = "<h3>What was fitted to these images, and why</h3>" + bullets(accuracy["notes"])
    return explained + shown + bullets(accuracy_notes(accuracy)) + (fitted if accuracy["notes"] else "")


def _results_table(results: Results) -> str:
    head = [(h.replace("-\n", "").replace("\n", " "), "") for h in HEAD] + [("problems", "text")]
    body = ""
    for size in results["settings"]["sizes"]:
        lines = "".join(
            row(
                escaped(r["model"]),
                [*((escaped(c), "") for c in cells(r)[1:]), (escaped("; ".join(r["problems"])), "wrap")],
            )
            for r in results["rows"]
            if r["image_size"] == size
        )
        body += f"<tbody>{lines}</tbody>"
    return table(head, body, "Cost of each network at each size")


def _growth_table(results: Results) -> str:
    quantities = [q for q in QUANTITIES if any(g["quantity"] == q for g in results["growth"])]
    if not quantities:
        return ""
    found = {(g["model"], g["quantity"]): exponent(g) for g in results["growth"]}
    lines = "".join(
        row(escaped(m["model"]), [(escaped(found.get((m["model"], q), ABSENT)), "") for q in quantities])
        for m in results["models"]
    )
    explained = (
        "<p>The exponent k of cost = c · pixels^k, a least-squares line through the logarithms; ± is its standard "
        "error. 1 is growth in proportion to the pixels, 2 is quadratic.</p>"
    )
    head = [("network", ""), *((QUANTITIES[q], "") for q in quantities)]
    return explained + table(head, f"<tbody>{lines}</tbody>", "Exponents of cost against pixels")


def _ratio_table(results: Results) -> str:
    if not results["ratios"]:
        return ""
    lines = "".join(
        row(
            escaped(r["model"]),
            [
                (f"{r['image_size']}²", ""),
                ("training" if r["what"] == "training" else f"inference, batch {r['batch_size']}", "text"),
                (f"{r['ratio']:.3f}", ""),
                (f"{r['low']:.3f} – {r['high']:.3f}", ""),
                (str(r["n"]), ""),
                (f"{r['ratio_undisturbed']:.3f}", ""),
            ],
        )
        for r in results["ratios"]
    )
    explained = (
        f"<p>Images/s over those of {escaped(results['ratios'][0]['reference'])}, paired round by round: the median "
        "and its interval; with fewer than 6 rounds, their range. Undisturbed: of mean speeds in which "
        "rounds weigh by the square of their rank, the fastest the most.</p>"
    )
    columns = ("network", "size", "what", "ratio", "95 % interval", "rounds", "undisturbed")
    head = [(name, "text" if name == "what" else "") for name in columns]
    return explained + table(head, f"<tbody>{lines}</tbody>", "Speed ratios")


def _table_12(results: Results) -> str:
    if not results["table_12"]:
        return ""
    shown = [table_12.cells(r) for r in results["table_12"]]
    lines = "".join(row(escaped(cells[0]), [(escaped(cell), "") for cell in cells[1:]]) for cells in shown)
    explained = (
        "<p>Inference in the largest batches. The paper's figures are of an A100, TF32, channels-last; ratios are "
        "paired round by round, the median and its interval.</p>"
    )
    return explained + table([(name, "") for name in table_12.HEAD], f"<tbody>{lines}</tbody>", "Table 12")


def _reproduce(results: Results) -> str:
    s, e = results["settings"], results["environment"]
    found: Sequence[tuple[str, Any]] = (
        ("conditions", conditions_line(results)),
        ("batch sizes", ", ".join(map(str, s["batch_sizes"]))),
        ("training batch", s["training_batch_size"]),
        ("timed calls a round", s["calls"]),
        ("took", duration(s["seconds"])),
        ("expected", duration(s["expected_seconds"])),
        *((k.replace("_", " "), v) for k, v in e.items()),
        ("started", s["started"]),
    )
    return f"<pre>{escaped(s['command'])}</pre>{facts(found)}"
