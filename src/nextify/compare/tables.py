"""A comparison's figures as cells and as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nextify.compare.figure_parts import accuracy_title, conditions_line, number_of_rounds
from nextify.compare.findings import Results, Row
from nextify.report.text import ABSENT, count, interval, mean_std, percent, signed, whole

if TYPE_CHECKING:
    from rich.table import Table

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


ACCURACY_HEAD = (
    "network",
    "top-1 %, mean ± std",
    "95 % interval",
    "n",
    "difference",
    "95 % interval",
    "verdict",
    "training images/s",
)
"""Intervals are Student's, over seeds; the difference is to the reference, paired seed by seed."""


def accuracy_cells(row: Row) -> tuple[str, ...]:
    """The accuracy of one network, as in ``ACCURACY_HEAD``."""
    return (
        row["model"] + ("" if row["how"] == "trained" else " (as given)"),
        mean_std(row["top1_mean"], row["top1_std"]),
        ABSENT
        if row["top1_low"] is None
        else f"[{percent(row['top1_low'], 1)}, {percent(row['top1_high'], 1)}]".replace("-", "−"),
        str(row["n"]),
        signed(row["change"]),
        interval(row["change_low"], row["change_high"]) or ABSENT,
        row["verdict"] or ABSENT,
        whole(row["training_images_per_second"]),
    )


def accuracy_table(results: Results) -> Table | None:
    """For the terminal; None where nothing was trained or evaluated."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    accuracy = results["accuracy"]
    if not accuracy:
        return None
    made = Table(title=escape(accuracy_title(accuracy)), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, name in enumerate(("network", "top-1 %", "interval", "n", "difference", "interval")):
        made.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in accuracy["rows"]:
        made.add_row(*(escape(cell) for cell in accuracy_cells(row)[:6]))
    return made


def accuracy_notes(accuracy: Row) -> list[str]:
    """What the columns mean, and how little few seeds conclude."""
    rows = [row for row in accuracy["rows"] if row["how"] == "trained"]
    said = []
    base = next((row["compared_with"] for row in rows if row["compared_with"]), None)
    if base:
        said.append(
            f"Differences are to {base}, paired: one seed draws the same images in the same order for every network. "
            "Intervals are Student's of 95 % over the seeds, and say nothing of other test images."
        )
    errors = [row["binomial_standard_error"] for row in accuracy["rows"] if row["binomial_standard_error"]]
    if errors:
        said.append(
            f"{accuracy['data']['test_images']:,} test images: on others of the same kind an accuracy would move by "
            f"about {max(errors):.2f} points (binomial standard error)."
        )
    said += [f"{row['model']}: {problem}" for row in accuracy["rows"] for problem in row["problems"]]
    return said


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
            f"{number_of_rounds(results)}. MiB: peak beyond the process before the network is built, same batches."
        )
        calls = min((r["latency_calls"] for r in results["rows"] if r["latency_calls"]), default=0)
        if 0 < calls < 100:
            said.append(f"p95 and p99 are of {calls} calls: with fewer than 100, p99 is close to the slowest.")
    return said


def printed_gflops(published: Mapping[str, Any], image_size: int) -> float | None:
    """The paper's figure at that size, where it prints one."""
    found: float | None = published.get({224: "gflops", 384: "gflops_384"}.get(image_size, ""))
    return found
