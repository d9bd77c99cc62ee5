"""Whether a network is about to be measured on images that it was trained on."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from nextify.data.dense.annotations import DenseSet
from nextify.data.images import ImageSet
from nextify.weights.bundle import located


def trained_on(bundle: str | Path, sets: Sequence[ImageSet] | Sequence[DenseSet], part: str = "test") -> list[str]:
    """A sentence where images to test on, ``part`` being ``test``, have names that split.csv, beside the bundle of a
    training, lists as trained or calibrated on, and never as tested on; none where it does not or is not there."""
    if part != "test":
        return []
    path = located(bundle).parent / "split.csv"
    parts: dict[str, set[str]] = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                parts.setdefault(row["split"], set()).add(row["path"])
    except (OSError, ValueError, KeyError, csv.Error):
        return []
    tested = parts.pop("test", set())
    trained = set().union(*parts.values()) - tested
    names = [images.name(i) for images in sets for i in range(len(images))]
    among = sum(name in trained for name in names)
    if not among:
        return []
    return [
        f"{path} lists {among:,} of these {len(names):,} images as trained on, so the result is too good: give the "
        f"--split-seed of the training, or other images"
    ]
