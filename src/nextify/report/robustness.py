"""A robustness measurement written out: JSON, CSV (one line per severity), a picture of the table, and an HTML page."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nextify.evaluation.corruption_error import Point
from nextify.evaluation.robustness import Robustness
from nextify.report.columns import Column
from nextify.report.drawing import INK, SOFT, canvas, save, shorten
from nextify.report.tables import csv_of
from nextify.report.template import Line, Table, render
from nextify.report.text import percent, whole
from nextify.system.files import write_json_atomic, write_text_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("robustness.json", "robustness.csv", "robustness.svg", "robustness.png", "robustness.html")
COLUMNS = ("corruption", "severity", "error", "expected_calibration_error", "baseline_error")


def write(found: Robustness, out: Path) -> list[Path]:
    """Write ``FILES`` into ``out`` and return their paths; without corruptions, only the first two."""
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomic(out / FILES[0], found.to_dict())
    write_text_atomic(out / FILES[1], csv_text(found))
    if not found.corruptions:
        return [out / name for name in FILES[:2]]
    write_text_atomic(out / FILES[4], page(found, save(picture(found), out, "robustness")))
    return [out / name for name in FILES]


def csv_text(found: Robustness) -> str:
    """Errors in percent, calibration errors from 0 to 1; clean images are severity 0 of the corruption ``clean``."""
    clean = Point("clean", 0, found.clean_error, found.clean_calibration_error, found.baseline_clean_error)
    return csv_of([Column[Point](name) for name in COLUMNS], (clean, *found.points))


def table(found: Robustness) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: each corruption's error by severity, the mean, CE and calibration error."""
    with_baseline = bool(found.baseline)
    header = ("error, %", *(f"severity {s}" for s in found.severities), "mean", *("CE",) * with_baseline, "ECE, %")
    rows = []
    for summary in found.corruptions:
        errors = [percent(p.error) for p in found.points if p.corruption == summary.corruption]
        ce = (percent(summary.corruption_error, 1),) * with_baseline
        calibration = percent(100 * summary.expected_calibration_error)
        rows.append((summary.corruption, *errors, percent(summary.error), *ce, calibration))
    empty = ("",) * len(found.severities)
    mce = (percent(found.mean_corruption_error, 1),) * with_baseline
    if rows:
        rows.append(("mean", *empty, percent(found.mean_error), *mce, percent(100 * found.mean_calibration_error)))
    return header, rows


def picture(found: Robustness) -> Figure:
    """Error by corruption and severity as shades and numbers, with the means, ECE and CE on the right."""
    names = [s.corruption for s in found.corruptions]
    errors = np.array([[p.error for p in found.points if p.corruption == name] for name in names])
    figure = canvas(8.2, 1.75 + 0.3 * len(names), layout="constrained")
    axes: Any = figure.add_subplot()
    columns = len(found.severities)
    axes.imshow(errors, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for i, row in enumerate(errors):
        for j, value in enumerate(row):
            axes.text(
                j, i, f"{value:.1f}", ha="center", va="center", color="white" if value > 55 else INK, fontsize=8.5
            )
    extra = ["mean", "ECE"] + ["CE"] * bool(found.baseline)
    for i, s in enumerate(found.corruptions):
        values = [percent(s.error, 1), percent(100 * s.expected_calibration_error, 1), percent(s.corruption_error, 1)]
        for j, value in enumerate(values[: len(extra)]):
            weight = "bold" if j == 0 else "normal"
            axes.text(columns + 0.8 * j, i, value, ha="center", va="center", color=INK, fontsize=8.5, weight=weight)
    ticks = [*range(columns), *(columns + 0.8 * j for j in range(len(extra)))]
    axes.set_xticks(ticks, [*(f"severity {s}" for s in found.severities), *extra], fontsize=8.5, color=SOFT)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=9)
    axes.set_xlim(-0.5, columns + 0.8 * len(extra) - 0.4)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    starts = [i for i in range(1, len(names)) if found.corruptions[i].group != found.corruptions[i - 1].group]
    for start in starts:
        axes.plot([-0.5, columns + 0.8 * len(extra) - 0.4], [start - 0.5] * 2, color="white", linewidth=2.5)
    lines = [
        textwrap.shorten(f"{found.model or 'model'} on {found.data}", 70, placeholder=" …"),
        f"top-1 error in % of {found.images:,} images at {found.size[0]}×{found.size[1]}: "
        f"{found.clean_error:.1f} clean, {found.mean_error:.1f} corrupted",
    ]
    if found.mean_corruption_error is not None:
        lines.append(f"mCE {found.mean_corruption_error:.1f} against {shorten(found.baseline, 40)}")
    if found.made_frost:
        lines.append("frost: a generated texture, not the published pictures")
    axes.set_title("\n".join(lines), fontsize=10, loc="left", color=INK, pad=12, parse_math=False)
    return figure


def page(found: Robustness, drawing: str) -> str:
    """One offline HTML page; ``drawing`` is the picture as SVG."""
    header, rows = table(found)
    height, width = found.size
    conditions = (
        ("images", whole(found.images)),
        ("size", f"{height}×{width}"),
        ("strengths", f"{found.strengths_of}×{found.strengths_of}" if found.corrupted_here else "as in ImageNet-C"),
        ("seed", found.seed),
        ("precision", found.precision),
        *((name.replace("_", " "), value) for name, value in found.environment.items()),
    )
    return render(
        "robustness.html.jinja",
        found=found,
        svg=drawing,
        errors=Table("Error at each severity", [(name, "") for name in header], [("", [Line(r) for r in rows])]),
        conditions=conditions,
        percent=percent,
    )
