"""A comparison written out: results.json, CSV, Markdown, figures as PNG and SVG, and one offline HTML page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nextify.compare.budget import recommend
from nextify.compare.figures import figures
from nextify.compare.findings import findings
from nextify.compare.results import Results
from nextify.compare.tables import accuracy_csv_text, conditions_line, csv_text, markdown_counts, sections
from nextify.report import finite
from nextify.report.drawing import save
from nextify.report.template import render
from nextify.report.text import duration
from nextify.system.files import write_json_atomic, write_text_atomic

DATA = ("results.json", "results.csv", "counts.md", "accuracy.csv")
DRAWN = tuple(f"{n}.{e}" for n in ("growth", "latency-accuracy", "accuracy-flops") for e in ("svg", "png"))
PAGE = "report.html"


def to_json(results: Results) -> dict[str, Any]:
    """The content of results.json: the measurements and what is concluded from them."""
    budget = {"limits": results.limits, "recommendation": recommend(results)} if results.limits else None
    made: dict[str, Any] = finite({**results.to_dict(), "budget": budget, "findings": list(findings(results))})
    return made


def write(results: Results, out: Path) -> list[Path]:
    """Writes everything into ``out``, each file whole or not at all; the data comes first. Files of an earlier run
    that this one does not have are deleted."""
    written = write_data(results, out)
    drawn = {name: (label, save(figure, out, name)) for name, (label, figure) in figures(results).items()}
    written += [out / f"{name}.{ending}" for name in drawn for ending in ("svg", "png")]
    write_text_atomic(out / PAGE, page(results, drawn))
    written.append(out / PAGE)
    for name in {*DATA, *DRAWN} - {path.name for path in written}:
        (out / name).unlink(missing_ok=True)
    return written


def write_data(results: Results, out: Path) -> list[Path]:
    """Writes results.json, results.csv, counts.md and, where there are accuracies, accuracy.csv."""
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomic(out / "results.json", to_json(results))
    texts = {"results.csv": csv_text(results), "counts.md": markdown_counts(results)}
    if results.accuracy:
        texts["accuracy.csv"] = accuracy_csv_text(results.accuracy)
    for name, content in texts.items():
        write_text_atomic(out / name, content)
    return [out / name for name in ("results.json", *texts)]


def page(results: Results, drawn: Mapping[str, tuple[str, str]]) -> str:
    """The report as one HTML document; ``drawn``: ``{name: (label, SVG)}``."""
    run, settings = results.run, results.run.settings
    facts = {
        "conditions": conditions_line(results),
        "batch sizes": ", ".join(map(str, settings.batch_sizes)),
        "training batch": settings.training_batch_size,
        "timed calls a round": settings.calls,
        "took": duration(run.seconds),
        "expected": duration(run.expected_seconds),
        **{key.replace("_", " "): value for key, value in results.environment.items()},
        "started": run.started,
    }
    return render(
        "comparison.html.jinja",
        models=[model.model for model in results.models],
        conditions=facts["conditions"],
        state="" if run.complete or not settings.rounds else "Stopped before the end.",
        findings=list(findings(results)),
        recommendation=recommend(results),
        sections=list(sections(results)),
        fitted=results.accuracy.notes if results.accuracy else (),
        figures=drawn,
        facts=list(facts.items()),
        command=run.command,
    )
