"""What a study found, written out: JSON, CSV, the figure and one HTML page.

Everything here reads the ``results`` dict whose keys docs/results-schema.md lists, and nothing else of the study; so a
report can be made again from a ``results.json`` alone. Any figure may be null (one seed has no spread, an unfinished
step has nothing), and no other number is made up in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nextify.system.files import write_bytes_atomic, write_json_atomic, write_text_atomic

Results = Mapping[str, Any]
FILES = ("results.json", "results.csv", "roadmap.svg", "roadmap.png", "report.html")
"""What :func:`write` leaves in its folder."""


def write(results: Results, out: str | Path) -> list[Path]:
    """Writes ``FILES`` into ``out`` (made where it is missing), each as a whole or not at all; returns their paths.

    The data comes first, so that a figure that fails costs no figures. Raises ``OSError`` when the disk is full.
    """
    from nextify.report.drawing import png, svg
    from nextify.report.figures import roadmap_figure
    from nextify.report.page import page
    from nextify.report.tabular import csv_text

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    results = finite(results)
    write_json_atomic(out / "results.json", results)
    write_text_atomic(out / "results.csv", csv_text(results))
    figure = roadmap_figure(results)
    drawing = svg(figure)
    write_text_atomic(out / "roadmap.svg", drawing)
    write_bytes_atomic(out / "roadmap.png", png(figure))
    write_text_atomic(out / "report.html", page(results, drawing))
    return [out / name for name in FILES]


def finite(value: Any) -> Any:
    """The same data as plain dicts and lists, with None for every NaN and infinity (JSON has neither)."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
