"""Beside the speeds measured here those of the paper's Table 12: ConvNeXt and Swin, size by size."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nextify.compare.measure import Cell, Comparison
from nextify.compare.ratios import paired, spread
from nextify.evaluation.profiling import median
from nextify.paper.published import PublishedModel

Row = Mapping[str, Any]
HEAD = (
    "network",
    "size",
    "images/s here",
    "A100, paper",
    "here / paper",
    "over the Swin of its size, here",
    "n",
    "paper",
)


def table(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """A row for each network and size whose inference speed the paper prints, largest batch; for a ConvNeXt whose Swin
    was measured and printed at that size too also the ratio of the two, paired round by round."""
    for size in comparison.settings.sizes:
        cells = [cell for cell in comparison.at(size) if cell.throughput and _printed(cell.entry.published, size)]
        swins = {_size_of(cell): cell for cell in cells if cell.entry.family == "Swin"}
        for cell in cells:
            other = swins.get(_size_of(cell)) if cell.entry.family == "ConvNeXt" else None
            yield _row(cell, other, size)


def _row(cell: Cell, swin: Cell | None, size: int) -> dict[str, Any]:
    batch, printed = max(cell.throughput), _printed(cell.entry.published, size)
    found: dict[str, Any] = {
        "model": cell.entry.label,
        "image_size": size,
        "batch_size": batch,
        "images_per_second": median(cell.throughput[batch]),
        "published": printed,
        **dict.fromkeys(("swin", "ratio", "low", "high", "n", "published_ratio")),
    }
    theirs = None if swin is None else _printed(swin.entry.published, size)
    if swin is None or printed is None or theirs is None or batch not in swin.throughput:
        return found
    ratio = paired(cell.throughput[batch], swin.throughput[batch])
    return found | {"swin": swin.entry.label, **ratio, "published_ratio": printed / theirs}


def _printed(published: PublishedModel | None, size: int) -> float | None:
    if published is None:
        return None
    return {224: published.images_per_second, 384: published.images_per_second_384}.get(size)


def _size_of(cell: Cell) -> str | None:
    """``tiny`` of ``convnext_tiny`` and of ``swin_tiny_patch4_window7``."""
    found = re.match(r"(?:convnext|swin)_([a-z]+)(?:_patch|$)", cell.entry.label)
    return found and found[1]


def cells(row: Row) -> tuple[str, ...]:
    """One row as in ``HEAD``."""
    from nextify.report.text import ABSENT

    ratio = row["ratio"]
    return (
        row["model"],
        f"{row['image_size']}²",
        f"{row['images_per_second']:,.0f}",
        f"{row['published']:,.1f}",
        f"{row['images_per_second'] / row['published']:.2f}",
        ABSENT if ratio is None else f"{ratio:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
        ABSENT if ratio is None else str(row["n"]),
        ABSENT if ratio is None else f"{row['published_ratio']:.2f}",
    )


def findings(rows: Sequence[Row], settings: Row) -> Iterator[str]:
    """A sentence for each ConvNeXt beside its Swin."""
    for row in rows:
        if row["ratio"] is not None:
            yield (
                f"{row['model']} over {row['swin']} in images/s at {row['image_size']}²: {row['ratio']:.2f} here "
                f"({settings['device']}, {settings['precision']}, batches of {row['batch_size']}, {spread(row)}), "
                f"{row['published_ratio']:.2f} in the paper (A100, TF32, channels-last)."
            )
