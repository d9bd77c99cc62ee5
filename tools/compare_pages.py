"""docs/results/compare.md from the committed comparisons, docs/results/compare/*/results.json.

A comparison is added by copying results.json, the CSVs and the PNGs of a ``nextify compare … --out DIR`` there.

Command:  python tools/compare_pages.py [--check]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from generated import ROOT, write_or_check
from results_pages import NOTES

from nextify.compare import table_12
from nextify.compare.figure_parts import accuracy_title, conditions_line, provenance
from nextify.compare.growth import QUANTITIES, exponent
from nextify.compare.tables import ACCURACY_HEAD, HEAD, accuracy_cells, accuracy_notes, cells, notes
from nextify.evaluation.profiling import median
from nextify.report.text import ABSENT, duration

FOLDER = ROOT / "docs" / "results" / "compare"
PICTURES = {
    "accuracy-flops": "accuracy over multiply-adds, the paper's and ours",
    "latency-accuracy": "accuracy over latency",
    "growth": "cost against resolution",
}


def page() -> str:
    """All comparisons on one page."""
    parts = ["# Comparisons: our own figures", "", "<!-- Made by tools/compare_pages.py; do not edit. -->", ""]
    found = sorted(FOLDER.glob("*/results.json"))
    parts += [] if found else ["No comparison has been run for these docs yet: not measured.", ""]
    read = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in found}
    for name, results in read.items():
        parts += one(name, results, read.get(f"{name}-again"))
    return "\n".join(parts).rstrip("\n") + "\n"


def one(name: str, results: Mapping[str, Any], again: Mapping[str, Any] | None = None) -> list[str]:
    """The section of one comparison; ``again``: a repetition of it."""
    accuracy, settings = results["accuracy"], results["settings"]
    parts = [f"## {name}", ""]
    parts += [NOTES[name], ""] if name in NOTES else []
    parts += [agreement(results, again), ""] if again else []
    if accuracy:
        parts += [f"{accuracy_title(accuracy)}.", "", *table(ACCURACY_HEAD, map(accuracy_cells, accuracy["rows"])), ""]
        parts += [*(f"- {line}" for line in accuracy_notes(accuracy)), ""]
        parts += [f"- data: {note}" for note in accuracy["data"]["notes"]] + [""]
    parts += [
        f"![{words}](compare/{name}/{picture}.png)" for picture, words in PICTURES.items() if drawn(name, picture)
    ]
    head = [column.replace("-\n", "").replace("\n", " ") for column in HEAD]
    parts += ["", f"{conditions_line(results)}.", "", *table(head, map(cells, results["rows"])), ""]
    parts += [f"- {line}" for line in notes(results)] + [""]
    if results.get("table_12"):
        parts += ["Beside the paper's Table 12 (inference on an A100, TF32, channels-last):", ""]
        parts += [*table(table_12.HEAD, map(table_12.cells, results["table_12"])), ""]
    quantities = [q for q in QUANTITIES if any(g["quantity"] == q for g in results["growth"])]
    if quantities:
        fitted = {(g["model"], g["quantity"]): exponent(g) for g in results["growth"]}
        rows = [[m["model"], *(fitted.get((m["model"], q), ABSENT) for q in quantities)] for m in results["models"]]
        parts += ["Exponents of cost against pixels (± standard error):", ""]
        parts += [*table(["network", *(QUANTITIES[q] for q in quantities)], rows), ""]
    parts += ["Findings, each from this run's own figures:", "", *(f"- {line}" for line in results["findings"]), ""]
    took = duration(settings["seconds"])
    return [*parts, f"Command: `{settings['command']}` · {provenance(results)} · {took}", ""]


def agreement(results: Mapping[str, Any], again: Mapping[str, Any]) -> str:
    """How far the speed ratios of two runs of one comparison agree, in a sentence."""
    key = itemgetter("model", "image_size", "what", "batch_size")
    second = {key(r): r for r in again["ratios"]}
    said = []
    for which, words in (("ratio_undisturbed", "undisturbed ratios"), ("ratio", "medians of paired rounds")):
        differences = [100 * abs(r[which] / second[key(r)][which] - 1) for r in results["ratios"]]
        said.append(
            f"{sum(d <= 5 for d in differences)} of {len(differences)} {words} agree within 5 % (the median difference "
            f"is {median(differences):.1f} %, the largest {max(differences):.1f} %)"
        )
    return f"Between this run and the one again, {' and '.join(said)}."


def drawn(name: str, picture: str) -> bool:
    return (FOLDER / name / f"{picture}.png").exists()


def table(head: Sequence[str], rows: Any) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


if __name__ == "__main__":
    sys.exit(write_or_check({"docs/results/compare.md": page()}, "compare_pages.py"))
