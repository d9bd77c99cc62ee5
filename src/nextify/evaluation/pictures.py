"""Confusion matrix, reliability diagram and contact sheet of an evaluation, as PNG; matplotlib's object API."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from nextify.system import fonts
from nextify.system.text import plural
from nextify.tasks.classification import Classification
from nextify.tasks.metric_specs import MetricSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nextify.evaluation.evaluate import Evaluation

INK, SOFT, BLUE, ORANGE = "#1b1b1f", "#55585f", "#0072B2", "#B34700"
png = partial(fonts.png, dots_per_inch=130)
WRITTEN_COUNTS = 20
"""Largest number of classes whose cells carry their counts."""
WRITTEN_NAMES = 60
"""Largest number of classes whose rows carry their names."""


def confusion_picture(found: Evaluation) -> bytes:
    """Rows are true classes, columns predicted ones; shades are shares of the row."""
    title = f"{heading(found)}\n{Classification.metric_specs[0].text(found.top1)} of {plural(found.images, 'image')}"
    names = [c.name for c in found.classes]
    return matrix_picture(
        np.array(found.confusion), names, title, "predicted class", "share of the true class's images"
    )


def matrix_picture(
    counts: npt.NDArray[np.int64], names: Sequence[str], title: str, columns: str, shades: str, percent: bool = False
) -> bytes:
    """A confusion matrix ``counts (K, K)``, rows the true classes; shades are shares of the row, which ``percent``
    writes into the cells in place of the counts. ``columns``, ``shades``: what they are labelled."""
    from matplotlib.ticker import PercentFormatter

    rows = counts.sum(1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    number = len(counts)
    names = [short(name, 18) for name in names]
    side = min(12.0, max(4.2, 1.8 + 0.42 * number))
    sheet = figure(side + 1.2, side + 0.5)
    sheet.set_layout_engine("compressed")  # the other cuts labels beside square axes off
    axes = sheet.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if number <= WRITTEN_NAMES:
        size = 9 if number <= WRITTEN_COUNTS else 6
        axes.set_xticks(range(number), names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=size)
        axes.set_yticks(range(number), names, fontsize=size)
    if number <= WRITTEN_COUNTS:
        for i, j in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[i, j] > 0.55 else INK
            words = f"{100 * shares[i, j]:.1f}" if percent else f"{counts[i, j]:,}"
            axes.text(j, i, words, ha="center", va="center", fontsize=8, color=color)
    lettered(axes, title, columns, "true class")
    bar = sheet.colorbar(image, ax=axes, fraction=0.046, pad=0.03, format=PercentFormatter(1.0))
    bar.set_label(shades, color=SOFT, fontsize=8.5)
    bar.ax.spines[:].set_visible(False)
    return png(sheet)


def reliability_picture(found: Evaluation) -> bytes:
    """Accuracy over confidence, one bar per bin, above the number of images in each bin."""
    sheet = figure(5.2, 5.6)
    top, bottom = sheet.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [b for b in found.bins if b.images]
    centers = [(b.low + b.high) / 2 for b in filled]
    width = found.bins[0].high - found.bins[0].low
    top.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--", zorder=3, label="perfectly calibrated")
    heights = [b.accuracy or 0.0 for b in filled]
    top.bar(centers, heights, width * 0.92, color=BLUE, alpha=0.85, zorder=2, label="accuracy")
    means = [b.confidence or 0.0 for b in filled]
    top.plot(means, heights, "o", color=ORANGE, markersize=4, zorder=3, label="at the bin's mean confidence")
    top.set_ylim(0, 1.02)
    top.set_xlim(0, 1)
    top.legend(frameon=False, fontsize=8, loc="upper left")
    error = f"expected calibration error {100 * found.expected_calibration_error:.2f} %"
    of = f"{plural(found.images, 'image')}, {plural(len(found.bins), 'bin')}"
    lettered(top, f"{heading(found)}\n{error} ({of})", "", "share correct")
    bottom.bar(centers, [b.images for b in filled], width * 0.92, color=SOFT)
    lettered(bottom, "", "confidence: the highest probability", "images")
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    return png(sheet)


def curves_picture(
    curve: Sequence[Mapping[str, float | None]], title: str, metric: MetricSpec = Classification.metric_specs[0]
) -> bytes:
    """Training loss, and the task's metric on the test images where it was measured, over the epochs of a training."""
    sheet = figure(6.4, 3.6)
    loss: Any = sheet.add_subplot()
    epochs = [entry["epoch"] for entry in curve]
    marker = "o" if len(curve) < 3 else None  # larger than those of the accuracy, which may lie on them
    loss.plot(epochs, [entry["train_loss"] for entry in curve], color=BLUE, marker=marker, markersize=8)
    loss.set_xlabel("epoch", color=SOFT)
    loss.set_ylabel("training loss", color=BLUE)
    if len(curve) == 1:
        loss.set_xticks(epochs)
    else:
        loss.xaxis.get_major_locator().set_params(integer=True)
    key = f"test_{metric.key}"
    if tested := [(entry["epoch"], entry[key]) for entry in curve if entry[key] is not None]:
        accuracy = loss.twinx()
        accuracy.plot(*zip(*tested, strict=True), "o--", color=ORANGE, markersize=4, linewidth=1)
        accuracy.set_ylabel(f"test {metric.title}" + (f", {metric.unit}" if metric.unit else ""), color=ORANGE)
        accuracy.spines[["top"]].set_visible(False)
    loss.spines[["top"]].set_visible(False)
    loss.set_title(cut(title, 70), fontsize=10.5, loc="left", color=INK)
    return png(sheet)


def ramp_picture(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    rate: float,
    good: tuple[float, float] | None,
    title: str,
) -> bytes:
    """The training loss over a growing learning rate, the good range shaded, and the recipe's ``rate`` as a line."""
    sheet = figure(6.4, 3.8)
    axes: Any = sheet.add_subplot()
    if good is not None:
        axes.axvspan(*good, color=BLUE, alpha=0.12, linewidth=0, label=f"good range, {good[0]:.2g} to {good[1]:.2g}")
    axes.plot(rates, losses, ".", color=SOFT, alpha=0.5, markersize=4, label="loss of each step")
    axes.plot(rates, smoothed, color=BLUE, label="smoothed")
    axes.axvline(rate, color=ORANGE, linestyle="--", label=f"the recipe's rate, {rate:.3g}")
    axes.set_xscale("log")
    lettered(axes, title, "learning rate", "training loss")
    axes.legend(frameon=False, fontsize=8, loc="best")
    axes.spines[["top", "right"]].set_visible(False)
    return png(sheet)


def mistakes_picture(found: Evaluation, images: Sequence[npt.NDArray[np.uint8]]) -> bytes:
    """The worst mistakes as a contact sheet: each with its file, what it was taken for, and what it is."""
    tiles = [
        Tile(
            *(image, mistake.name),
            f"said {short(mistake.predicted, 16)}, {100 * mistake.probability:.0f} %",
            f"is {short(mistake.true, 18)}",
        )
        for image, mistake in zip(images, found.mistakes, strict=False)
    ]
    return contact_sheet(tiles, f"{heading(found)}: wrong with the highest probability")


class Tile(NamedTuple):
    """An image of a contact sheet, and what stands above it; the two lines below its name are ``short`` already."""

    image: npt.NDArray[np.uint8]
    name: str
    said: str
    true: str


def contact_sheet(tiles: Sequence[Tile], title: str) -> bytes:
    """Images in rows of six, each under three lines."""
    columns = min(6, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = figure(max(4.5, 1.75 * columns), 0.6 + 2.3 * rows)
    grid: Any = sheet.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (image, name, said, true) in zip(grid.flat, tiles, strict=False):
        axes.imshow(image, interpolation="nearest" if max(image.shape[:2]) < 64 else "antialiased")
        axes.set_title(f"{short(tail(name, 24), 24)}\n{said}\n{true}", fontsize=8, color=INK)
    sheet.suptitle(title, fontsize=10.5, color=INK)
    return png(sheet)


def figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def lettered(axes: Any, title: str, across: str, up: str) -> None:
    """Write a title and the labels of both axes."""
    axes.set_title(title, fontsize=10.5, loc="left", color=INK)
    axes.set_xlabel(across, color=SOFT)
    axes.set_ylabel(up, color=SOFT)


class Measured(Protocol):
    """What an evaluation was of."""

    @property
    def model(self) -> str: ...
    @property
    def data(self) -> str: ...


def heading(found: Measured) -> str:
    return cut(f"{found.model or 'model'} on {found.data}", 60)


def cut(words: str, length: int) -> str:
    return short(textwrap.shorten(words, length, placeholder=" …"), length)


def tail(name: str, length: int) -> str:
    """The end of a path, which tells most."""
    return name if len(name) <= length else f"…{name[1 - length :]}"


def short(words: str, length: int) -> str:
    """A class name on one line, cut to ``length``, without mathematical notation."""
    words = words.replace("\n", " ")
    return (words if len(words) <= length else words[: length - 1] + "…").replace("$", r"\$")
