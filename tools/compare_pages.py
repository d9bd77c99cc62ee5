"""docs/results/compare.md from the committed comparisons, docs/results/compare/*/results.json.

Ratios, growth and findings are worked out from the measurements in these files by the code of today.
A comparison is added by copying results.json, the CSVs and the PNGs of a ``nextify compare … --out DIR`` there.

Command:  python tools/compare_pages.py [--check]
"""

from __future__ import annotations

import json
import sys
from statistics import median

from generated import ROOT, write_or_check
from results_pages import NOTES

from nextify.compare.findings import findings
from nextify.compare.results import Results
from nextify.compare.tables import provenance, sections
from nextify.report.tables import markdown_of
from nextify.report.text import duration

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
    parts += [
        "Ratios and findings are worked out from each run's recorded rounds, as [compare](../compare.md) says.",
        "",
    ]
    read = {path.parent.name: Results.from_dict(json.loads(path.read_text(encoding="utf-8"))) for path in found}
    for name, results in read.items():
        parts += one(name, results, read.get(f"{name}-again"))
    return "\n".join(parts).rstrip("\n") + "\n"


def one(name: str, results: Results, again: Results | None = None) -> list[str]:
    """The section of one comparison; ``again``: a repetition of it."""
    run = results.run
    parts = [f"## {name}", ""]
    parts += [NOTES[name], ""] if name in NOTES else []
    parts += [agreement(results, again), ""] if again else []
    parts += [f"![{said}](compare/{name}/{picture}.png)" for picture, said in PICTURES.items() if drawn(name, picture)]
    for section in sections(results):
        if section.name != "ratios":
            parts += ["", f"**{section.heading}.** {section.lead}", "", markdown_of(section.table), ""]
            parts += [f"- {line}" for line in section.notes]
    if results.accuracy:
        parts += [f"- data: {note}" for note in results.accuracy.data.notes]
    parts += ["", "Findings, each from this run's own figures:", "", *(f"- {line}" for line in findings(results)), ""]
    return [*parts, f"Command: `{run.command}` · {provenance(results)} · {duration(run.seconds)}", ""]


def agreement(results: Results, again: Results) -> str:
    """How far the speed ratios of two runs of one comparison agree, in a sentence."""
    second = {(r.model, r.image_size, r.what, r.batch_size): r.ratio for r in again.ratios}
    differences = [100 * abs(r.ratio / second[r.model, r.image_size, r.what, r.batch_size] - 1) for r in results.ratios]
    return (
        f"Of this run's speed ratios, {sum(d <= 5 for d in differences)} of {len(differences)} agree with those of the "
        f"run again within 5 % (the median difference is {median(differences):.1f} %, the largest "
        f"{max(differences):.1f} %)."
    )


def drawn(name: str, picture: str) -> bool:
    return (FOLDER / name / f"{picture}.png").exists()


def files() -> dict[str, str]:
    return {"docs/results/compare.md": page()}


if __name__ == "__main__":
    sys.exit(write_or_check(files(), "compare_pages.py"))
