"""The speeds measured here beside those of the paper's Table 12: ConvNeXt and Swin, size by size."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nextify.compare.ratios import Ratio, ratio
from nextify.compare.records import Model, Row


@dataclass(frozen=True)
class Beside:
    """One network at a size for which the paper prints its inference speed, in images/s in the largest batches."""

    model: str
    image_size: int
    batch_size: int
    images_per_second: float
    published: float
    swin: str | None = None
    """For a ConvNeXt, the Swin of its size, where it was measured at the same batch size."""
    ratio: Ratio | None = None
    """Over that Swin."""
    published_ratio: float | None = None


def table(models: Sequence[Model], rows: Sequence[Row]) -> Iterator[Beside]:
    """A row for each network and size whose inference speed the paper prints."""
    by_label = {model.model: model for model in models}
    for size in dict.fromkeys(row.image_size for row in rows):
        own = [(by_label[row.model], row) for row in rows if row.image_size == size and row.throughput]
        own = [(model, row) for model, row in own if _printed(model, size)]
        swins = {_size_name(model): (model, row) for model, row in own if model.family == "Swin"}
        for model, row in own:
            speed, printed = row.throughput[-1], _printed(model, size)
            assert printed is not None
            found = (model.model, size, speed.batch_size, speed.images_per_second, printed)
            swin, other = swins.get(_size_name(model), (None, None))
            theirs = other and other.speeds().get(("inference", speed.batch_size))
            if model.family != "ConvNeXt" or swin is None or not theirs:
                yield Beside(*found)
                continue
            of_swin = _printed(swin, size)
            assert of_swin is not None
            yield Beside(*found, swin.model, ratio(speed.rounds, theirs.rounds), printed / of_swin)


def _printed(model: Model, image_size: int) -> float | None:
    return model.printed(image_size, "images_per_second", "images_per_second_384")


def _size_name(model: Model) -> str | None:
    """``tiny`` of ``convnext_tiny`` and of ``swin_tiny_patch4_window7``."""
    found = re.match(r"(?:convnext|swin)_([a-z]+)(?:_patch|$)", model.model)
    return found and found[1]
