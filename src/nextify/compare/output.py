"""A comparison written out: results.json, results.csv, counts.md, figures as PNG and SVG, and one offline HTML page."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from nextify.compare.figure import figures
from nextify.compare.findings import Results, Row
from nextify.compare.page import page
from nextify.compare.tables import printed_gflops
from nextify.report.drawing import png, svg
from nextify.report.text import ABSENT
from nextify.system.files import write_bytes_atomic, write_json_atomic, write_text_atomic

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
    """Only results.json, results.csv, counts.md and, where there are accuracies, accuracy.csv."""
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomic(out / "results.json", results)
    write_text_atomic(out / "results.csv", csv_text(results))
    write_text_atomic(out / "counts.md", markdown_counts(results))
    written = [out / "results.json", out / "results.csv", out / "counts.md"]
    if results["accuracy"]:
        write_text_atomic(out / "accuracy.csv", accuracy_csv_text(results["accuracy"]))
        written.append(out / "accuracy.csv")
    return written


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


ACCURACY_COLUMNS = (
    *("model", "how", "n", "top1_mean", "top1_std", "top1_low", "top1_high", "binomial_standard_error"),
    *("compared_with", "change", "change_low", "change_high", "p_value", "p_value_holm", "verdict"),
    *("training_images_per_second", "training_seconds", "weights"),
)


def accuracy_csv_text(accuracy: Row) -> str:
    """A line a network, unrounded."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ACCURACY_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in accuracy["rows"]:
        writer.writerow({k: "" if v is None else v for k, v in row.items()})
    return buffer.getvalue()


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
