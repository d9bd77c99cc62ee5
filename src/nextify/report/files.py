"""The files of a report."""

from pathlib import Path

from nextify.report.columns import COLUMNS, of_metric
from nextify.report.drawing import save
from nextify.report.figures import roadmap_figure
from nextify.report.study_page import page
from nextify.report.tables import csv_text
from nextify.study.results import StudyResults, finite
from nextify.system.files import write_json_atomic, write_text_atomic

FILES = ("results.json", "results.csv", "roadmap.svg", "roadmap.png", "report.html")
"""What :func:`write` leaves in its folder."""


def write(results: StudyResults, out: str | Path) -> list[Path]:
    """Write ``FILES`` into ``out``, each as a whole or not at all, and return their paths. ``out`` is made if missing.

    The data comes first, so that it is there even if a figure fails. Raises ``OSError`` when the disk is full.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    data = results.to_dict()
    for row, step in zip(data["rows"], results.rows, strict=True):
        row.update({column.key: finite(column.value(step)) for column in of_metric(COLUMNS, results.metric)})
    write_json_atomic(out / "results.json", data)
    results = StudyResults.from_dict(data)
    write_text_atomic(out / "results.csv", csv_text(results))
    drawing = save(roadmap_figure(results), out, "roadmap")
    write_text_atomic(out / "report.html", page(results, drawing, out))
    return [out / name for name in FILES]
