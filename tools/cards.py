"""Generate docs/decisions/, one page per step with its drawings, and an index: ``python tools/cards.py [--check]``.

Sources: the roadmaps and layouts in the code, card_texts.toml, and the committed studies, docs/results/**/*.json
(docs/results-schema.md). A card's own figure is "not measured" until such a file has the step.
"""

from __future__ import annotations

import re
import sys
import tomllib

from changes import side_by_side_svg
from generated import ROOT, write_or_check
from ladder import Bars, ladder_svg

from nextify.networks.layout import macs, parameters
from nextify.paper.design import Design
from nextify.paper.roadmap import ROADMAPS, Row
from nextify.report import text
from nextify.report.diagram import block_lines
from nextify.study.results import StepResult, StudyResults

FOLDER = "docs/decisions"
REGIMES = tuple(ROADMAPS)
TEXTS = tomllib.loads((ROOT / "tools" / "card_texts.toml").read_text("utf-8"))


def studies() -> list[tuple[str, StudyResults]]:
    """``[(path in docs/, results)]`` of every committed study, by path."""
    paths = sorted((ROOT / "docs" / "results").glob("*/results.json"))
    return [(path.relative_to(ROOT / "docs").as_posix(), StudyResults.read(path)) for path in paths]


def file_name(row: Row) -> str:
    return f"{[r.name for r in ROADMAPS['resnet50']].index(row.name):02d}-{row.name.replace('_', '-')}"


def anchor(heading: str) -> str:
    """A heading's anchor on a Markdown page."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def pair(regime: str, name: str) -> tuple[Row, Row]:
    """(the row a step is compared with, the step's row)"""
    roadmap = ROADMAPS[regime]
    row = roadmap[name]
    assert row.compared_with is not None
    return roadmap[row.compared_with], row


def changed(before: Row, after: Row) -> str:
    """Return a Markdown table of the fields that the step changes."""
    decisions = before.design.differences(after.design)
    lines = [f"| `{name}` | {_value(a)} | {_value(b)} |" for name, (a, b) in decisions.items()]
    settings = before.recipe.differences(after.recipe)
    lines += [f"| `recipe.{name}` | {_value(a)} | {_value(b)} |" for name, (a, b) in settings.items()]
    return "\n".join(["| field | before | after |", "|---|---|---|", *lines])


def _value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def layers(before: Design, after: Design) -> str:
    """Return the lines in which the two designs differ, in the stem, stages 1 and 2 and the head."""
    texts = []
    for design, other in ((before, after), (after, before)):
        theirs = blocks(other)
        lines = [f"{place:<25} {line}" for place, line in blocks(design).items() if theirs.get(place) != line]
        texts.append("\n".join(lines) or "(no other lines)")
    return f"Before\n\n```text\n{texts[0]}\n```\n\nAfter\n\n```text\n{texts[1]}\n```"


def blocks(design: Design) -> dict[str, str]:
    """Return ``{place: layers}`` of the stem, stages 1 and 2 and the head."""
    found: dict[str, str] = {}
    last = ""
    for place, line in block_lines(design):
        last = f"{last} shortcut" if place.strip() == "shortcut" else place
        if not last.startswith("stage") or last[6] in "12":
            found[last] = line
    return found


def paper_table(name: str) -> str:
    pairs = [pair(regime, name) for regime in REGIMES]
    cells = {
        "top-1 on ImageNet-1K": [text.mean_std(b.published.top1, b.published.std) + " %" for _, b in pairs],
        f"change against “{pairs[0][0].title}”": [f"**{text.signed(b.published_change)}** points" for _, b in pairs],
        "multiply-adds, 224² (ours, exact)": [_from_to(macs(a.design), macs(b.design), "G") for a, b in pairs],
        "GFLOPs as printed": [f"{a.published.gflops:.2f} → {b.published.gflops:.2f}" for a, b in pairs],
        "parameters": [_from_to(parameters(a.design), parameters(b.design), "M") for a, b in pairs],
    }
    lines = [f"| | {' | '.join(ROADMAPS[r].title for r in REGIMES)} |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {' | '.join(both)} |" for what, both in cells.items())])


def _from_to(before: int, after: int, unit: str) -> str:
    size = {"M": 1e6, "G": 1e9}[unit]
    if before == after:
        return f"{before / size:.2f} {unit}, unchanged"
    return f"{before / size:.2f} → {after / size:.2f} {unit}"


def measured(name: str) -> list[tuple[str, StudyResults, StepResult]]:
    """``[(path, study, row)]`` of every committed study that trained the step."""
    return [
        (path, results, row)
        for path, results in studies()
        for row in results.rows
        if row.step == name and row.change is not None
    ]


def our_table(name: str) -> str:
    found = measured(name)
    if not found:
        return "Not measured."
    lines = [
        "| data | roadmap | scale | n | metric | mean, % | change, points | 95 % interval |",
        "|---|---|---|--:|---|--:|--:|---|",
    ]
    for path, results, row in found:
        cells = (
            f"[{results.study.data.name}](../{path})",
            text.path_title(results),
            results.study.scale,
            str(row.n),
            results.metric.title,
            text.mean_std(row.mean, row.std),
            f"**{text.signed(row.change)}**",
            text.interval(*row.interval) or text.ABSENT,
        )
        lines.append(f"| {' | '.join(cells)} |")
    note = "Command, hardware and versions are in the linked file. Data and scale differ from the paper's. An interval"
    return "\n".join([*lines, "", f"{note}\nthat contains zero means that so few seeds allow no conclusion."])


def ladder(name: str) -> str:
    """Return the bars of all steps: the paper's, and those of our study with the most seeds."""
    steps = {row.name: row.title.partition(" = ")[0] for row in ROADMAPS["resnet50"].rows}
    steps["baseline"] = "Original recipe"
    columns = [
        Bars(f"{start}, ImageNet", {row.name: row.published.top1 for row in ROADMAPS[regime]})
        for regime, start in (("resnet50", "ResNet-50"), ("resnet200", "ResNet-200"))
    ]
    if found := [(max(row.n for row in results.rows), results) for _, results in studies()]:
        seeds, results = max(found, key=lambda one: one[0])
        values = {row.step: row.mean for row in results.rows if row.mean is not None}
        columns.append(Bars(f"Ours: {results.study.data.name}, n = {seeds}", values))
    return ladder_svg(steps, name, columns)


def neighbours(name: str) -> str:
    """Return the line that leads to the pages before and after."""
    rows = ROADMAPS["resnet50"].rows[1:]
    place = [row.name for row in rows].index(name)
    before = f"← [{rows[place - 1].title}]({file_name(rows[place - 1])}.md) · " if place else ""
    after = f" · [{rows[place + 1].title}]({file_name(rows[place + 1])}.md) →" if place + 1 < len(rows) else ""
    return f"{before}[all decisions](README.md){after}"


def card(name: str) -> str:
    before, after = pair("resnet50", name)
    own = TEXTS[name]
    words = TEXTS[own["like"]] | own if "like" in own else own
    words = {key: " ".join(text.split()) if isinstance(text, str) else text for key, text in words.items()}
    status = "adopted" if after.adopted else "explored only"
    position = [r.name for r in ROADMAPS["resnet50"]].index(name)
    same = before.design == after.design
    drawing = "The architecture does not change." if same else f"![before and after]({file_name(after)}.svg)"
    rulings = [f"- [{ruling}](../design.md#{anchor(ruling)})" for ruling in words.get("rulings", ())]
    parts = [
        f"# {after.title}",
        "<!-- Made by tools/cards.py; do not edit. -->",
        f"Step {position} of 16 · {after.group}, section {words['section']} of the paper · {status} · `{name}`",
        f"**What changes.** {words['what']}",
        f"**Why.** {words['why']}",
        changed(before, after),
        "## Before and after",
        drawing,
        *([] if same else [layers(before.design, after.design)]),
        "## All bars",
        f"![accuracy of every step, with this one marked]({file_name(after)}-bars.svg)",
        "The bars do not start at zero. Ours are from small networks on small images: compare directions, not heights.",
        "## The paper's figure",
        paper_table(name),
        "## Our figure",
        our_table(name),
        "## Where the paper is silent",
        "\n".join(rulings) or "Nothing to decide.",
        "## Deviations",
        words.get("deviations", "None known."),
        f"```sh\nnextify diff resnet50_{before.name} resnet50_{name}\n```",
        neighbours(name),
    ]
    return "\n\n".join(parts) + "\n"


def index() -> str:
    lines = [
        "# The decisions, one page each",
        "",
        "<!-- Made by tools/cards.py; do not edit. -->",
        "",
        "Each page shows what changes, the block before and after, the paper's figure and ours, and what we decided",
        "where the paper is silent. ○: explored only. Changes are percentage points: the paper's of top-1 on",
        "ImageNet-1K, ours of the metric in brackets.",
        "",
        f"| step | {' | '.join(ROADMAPS[r].title for r in REGIMES)} | ours |",
        "|---|--:|--:|---|",
    ]
    for row in ROADMAPS["resnet50"].rows[1:]:
        paper = [text.signed(ROADMAPS[regime][row.name].published_change) for regime in REGIMES]
        ours = "; ".join(
            f"{text.signed(r.change)} ({results.metric.title}, {results.study.data.name}, n = {r.n})"
            for _, results, r in measured(row.name)
        )
        mark = "" if row.adopted else " ○"
        lines.append(f"| [{row.title}]({file_name(row)}.md){mark} | {' | '.join(paper)} | {ours or 'not measured'} |")
    return "\n".join(lines) + "\n"


def files() -> dict[str, str]:
    """Return ``{path: text}`` of every file of docs/decisions/."""
    made = {f"{FOLDER}/README.md": index()}
    for row in ROADMAPS["resnet50"].rows[1:]:
        before = pair("resnet50", row.name)[0]
        made[f"{FOLDER}/{file_name(row)}.md"] = card(row.name)
        made[f"{FOLDER}/{file_name(row)}-bars.svg"] = ladder(row.name)
        if before.design != row.design:
            made[f"{FOLDER}/{file_name(row)}.svg"] = side_by_side_svg(before.design, row.design)
    return made


if __name__ == "__main__":
    sys.exit(write_or_check(files(), "cards.py"))
