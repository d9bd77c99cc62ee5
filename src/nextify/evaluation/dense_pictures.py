"""Boxes and masks drawn on images, and the figures of a dense evaluation, as PNG; matplotlib's object API.

What is true and what was found differ without colours too: true objects are dashed, found ones solid, and each panel
says which it is. Wrong ones carry a ✗ and the words.
"""

from __future__ import annotations

import colorsys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nextify.data.dense.annotations import IGNORED, IndexMask, mask_api
from nextify.evaluation.dense_metrics import Outcome, best_score, matched, outcome
from nextify.evaluation.pictures import BLUE, INK, ORANGE, SOFT, cut, figure, png, short, tail
from nextify.tasks.average_precision import Observation, Precision

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
_PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#7A5195", "#8B0000", "#00B0B0"),
    *("#8C6D1F", "#A6A600", "#FF4F9A", "#4B6B1F", "#9B7FE0", "#2F4F4F", "#8A8A8A", "#56B4E9"),
)
"""Okabe and Ito's without black and yellow, then others; further classes get hues between."""
LEAST_SIDE, MOST_SIDE = 560, 4096
"""Pixels of the longer side of a drawn copy: smaller images are enlarged, so that the words on it can be read."""
NAMED_OBJECTS = 40
"""Most right objects in a panel of a sheet that carry their names, and most false ones, the surest; others that are
wrong always do."""
LEGEND_CLASSES = 24
ROWS = 40
"""Most classes in the figure of classes, the worst ones."""


class Regions(NamedTuple):
    """One image of semantic segmentation: class indices ``(H, W)`` in pixels of the image."""

    found: IndexMask
    truth: IndexMask


class Shown(NamedTuple):
    """One image of a sheet."""

    name: str
    pixels: Pixels
    """``(H, W, 3)``."""
    seen: Observation | Regions


class Part(NamedTuple):
    """The mask of an object, as far as it reaches: photos are large, and objects many."""

    inside: Mask
    top: int
    left: int


def part_of(mask: Mask) -> Part | None:
    """Of a mask ``(H, W)`` of the image; None for one without pixels."""
    rows, columns = (np.flatnonzero(mask.any(axis)).tolist() for axis in (1, 0))
    if not rows:
        return None
    return Part(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy(), rows[0], columns[0])


class Thing(NamedTuple):
    """One object as it is drawn."""

    box: npt.NDArray[np.floating[Any]]
    label: int
    words: str = ""
    """Empty for none."""
    mask: Part | None = None
    dashed: bool = False


def class_color(label: int) -> tuple[float, float, float]:
    """Red, green and blue, 0 to 1."""
    from matplotlib.colors import to_rgb

    if label < len(_PALETTE):
        return to_rgb(_PALETTE[label])
    return colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.75, 0.45 + 0.12 * (label % 4))


def prediction_sheet(
    shown: Sequence[Shown], classes: Sequence[str], title: str, least_score: float | None = None
) -> bytes:
    """Truth beside what was found, one row per image, or two images to a row. Found objects are drawn from the score
    ``least_score`` on; None takes that of the highest F1 over ``shown``. Raises ``ValueError`` for no image to be
    shown."""
    if not shown:
        raise ValueError("no image to draw")
    seen = [image.seen for image in shown if isinstance(image.seen, Observation)]
    if len(seen) < len(shown):
        return _region_sheet(shown, classes, title)
    takes = [matched(observation) for observation in seen]
    if least_score is None:
        least_score, _ = best_score(seen, takes)
    sheet, grid = _grid(shown, ("truth", "found"))
    named: list[_Named] = []
    for panels, image, observation, taken in zip(grid, shown, seen, takes, strict=True):
        result = outcome(observation, taken, least_score)
        named += draw_things(panels[0], image.pixels, _true_things(observation, classes))
        named += draw_things(panels[1], image.pixels, _found_things(observation, result, classes))
        panels[0].set_title(f"{tail(image.name, 30)}: truth", fontsize=8, color=INK, loc="left", parse_math=False)
        counts = {"right": result.right, "wrong class": result.confused, "false": result.false, "missed": result.missed}
        words = ", ".join(f"{len(some)} {what}" for what, some in counts.items() if some or what == "right")
        panels[1].set_title(f"found: {words}", fontsize=8, color=INK, loc="left")
    sheet.suptitle(
        f"{_two_lines(title)}\ndashed: true, or missed; solid: found with a score of at least {least_score:.2f}",
        fontsize=10,
        color=INK,
    )
    labels = {int(k) for o in seen for k in (*o.truth.labels, *o.labels[o.scores >= least_score])}
    _legend(sheet, classes, sorted(labels))
    _spread(sheet, named)
    return png(sheet)


def _true_things(seen: Observation, classes: Sequence[str]) -> list[Thing]:
    truth, few = seen.truth, len(seen.truth) <= NAMED_OBJECTS
    things = []
    for i, (box, label) in enumerate(zip(truth.boxes, truth.labels.tolist(), strict=True)):
        words = f"crowd of {short(classes[label], 14)}" if truth.crowd[i] else short(classes[label], 20) if few else ""
        mask = part_of(truth.mask(i, seen.height, seen.width)) if truth.masks is not None else None
        things.append(Thing(box, label, words, mask, dashed=True))
    return things


def _found_things(seen: Observation, result: Outcome, classes: Sequence[str]) -> list[Thing]:
    few = len(result.right) <= NAMED_OBJECTS

    def found(i: int, words: str) -> Thing:
        mask = part_of(mask_api().decode(seen.masks[i]).view(bool)) if seen.masks is not None else None
        return Thing(seen.boxes[i], int(seen.labels[i]), words, mask)

    def scored(i: int) -> str:
        return f"{short(classes[int(seen.labels[i])], 14)} {100 * seen.scores[i]:.0f}"

    things = [found(i, scored(i) if few else "") for i, _ in result.right]
    for i, true in result.confused:
        things.append(found(i, f"✗ {scored(i)}, is {short(classes[int(seen.truth.labels[true])], 14)}"))
    things += [found(i, f"✗ {scored(i)}" if n < NAMED_OBJECTS else "") for n, i in enumerate(result.false)]
    for true in result.missed:
        label = int(seen.truth.labels[true])
        things.append(Thing(seen.truth.boxes[true], label, f"missed {short(classes[label], 14)}", dashed=True))
    return things


def draw_things(
    axes: Axes, pixels: Pixels, things: Sequence[Thing], size: float = 5.5, line: float = 1.1
) -> list[_Named]:
    """Draw objects over an image ``(H, W, 3)`` that fills the axes, and return the words, for ``_spread``. ``size`` and
    ``line``: of the words and the lines, in points."""
    from matplotlib.patches import Rectangle

    height, width = pixels.shape[:2]
    blended, named = pixels.copy(), []
    for thing in things:
        if thing.mask is not None:
            inside, top, left = thing.mask
            place = blended[top : top + len(inside), left : left + inside.shape[1]]
            place[:] = _blended(place, inside, thing.label)
    _show(axes, blended)
    for thing in things:
        color, style = class_color(thing.label), (0, (2.5, 1.5)) if thing.dashed else "-"
        x1, y1, x2, y2 = (float(value) for value in thing.box)
        for under, ink in ((2.2, "white"), (1.0, color)):  # a light rim keeps the line visible on any ground
            if under == 1 or not thing.dashed:
                axes.add_patch(
                    Rectangle(
                        (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=ink, linewidth=line * under, linestyle=style
                    )
                )
        if thing.mask is not None and thing.mask.inside.sum() < height * width:
            inside, top, left = thing.mask
            down, across = (np.arange(side + 2) - 0.5 for side in inside.shape)
            axes.contour(
                # Padded, so that the outline closes at the border, also of an image that is one pixel high.
                *(left + across, top + down, np.pad(inside, 1), [0.5]),
                colors=[color], linewidths=line * 0.8, linestyles=["--" if thing.dashed else "-"],
            )  # fmt: skip
        if thing.words:
            words = axes.annotate(
                *(thing.words, (x1, y1)), xytext=(0, 0), textcoords="offset points", fontsize=size, color=color,
                va="center", bbox={"facecolor": "white", "alpha": 0.82, "edgecolor": "none", "pad": 0.6},
                annotation_clip=False,
            )  # fmt: skip
            words.set_in_layout(False)  # they stay in the image, and measuring hundreds for the layout takes seconds
            named.append(_Named(words, (max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)), axes))
    return named


class _Named(NamedTuple):
    """The words of an object."""

    words: Annotation
    box: tuple[float, float, float, float]
    axes: Axes


def _spread(sheet: Figure, named: Sequence[_Named]) -> None:
    """Write each object's words at the first of its box's corners where they cover no others and stay in the image."""
    sheet.draw_without_rendering()  # decides where the axes lie, once
    sheet.set_layout_engine("none")
    taken: dict[Axes, list[npt.NDArray[np.float64]]] = {}
    for words, (x1, y1, x2, y2), axes in named:
        written, half, middle = taken.setdefault(axes, []), 0.65 * float(words.get_fontsize()), (y1 + y2) / 2
        # A point of the image, the words' distance from it in points, and whether they end there or begin.
        places = np.array([
            *((x1, y1, 0, half, 0), (x1, y2, 0, -half, 0), (x2, y1, 0, half, 1), (x2, y2, 0, -half, 1)),
            *((x1, y1, 1, -half, 0), (x2, y2, -1, half, 1), (x2, middle, 1, 0, 0), (x1, middle, -1, 0, 1)),
        ])  # fmt: skip
        size = np.array(words.get_window_extent().size)  # the same at every place, in pixels
        starts = axes.transData.transform(places[:, :2]) + places[:, 2:4] * sheet.dpi / 72
        starts -= size * np.stack([places[:, 4], np.full(len(places), 0.5)], 1)
        boxes = np.hstack([starts, starts + size])
        covered = size.prod() - _shared(boxes, np.array(axes.get_window_extent().extents)[None])[:, 0]
        if written:
            covered += _shared(boxes, np.stack(written)).sum(1)
        best = int(np.argmax(covered < 1)) if (covered < 1).any() else int(covered.argmin())
        x, y, across, up, ends = places[best].tolist()
        words.xy, words.xyann = (x, y), (across, up)
        words.set_horizontalalignment("right" if ends else "left")
        written.append(boxes[best])


def _shared(some: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The area that boxes ``(M, 4)`` share with others ``(N, 4)``: ``(M, N)``."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    areas: npt.NDArray[np.float64] = (high - low).clip(0).prod(-1)
    return areas


def _blended(pixels: Pixels, mask: Mask, label: int, strength: float = 0.45) -> Pixels:
    """``pixels`` with the class's colour over the mask."""
    blended = pixels.copy()
    color = 255 * np.array(class_color(label))
    blended[mask] = np.rint((1 - strength) * pixels[mask] + strength * color)
    return blended


def drawn(pixels: Pixels, things: Sequence[Thing]) -> bytes:
    """A copy of an image ``(H, W, 3)`` with the objects drawn on it, as PNG; small images are enlarged."""
    sheet, axes, size = _copy_of(pixels)
    _spread(sheet, draw_things(axes, pixels, things, size=size, line=size / 6))
    return png(sheet, dots_per_inch=100)


def regions_drawn(pixels: Pixels, found: Pixels, classes: Sequence[str]) -> bytes:
    """A copy of an image ``(H, W, 3)`` under the colours of its classes ``(H, W)``, each named once, as PNG."""
    from scipy.ndimage import distance_transform_edt

    sheet, axes, size = _copy_of(pixels)
    _show(axes, _painted(pixels, found))
    for label in np.unique(found).tolist():
        inside = np.pad(found == label, 1)  # the image's border is one of the region's
        distances = distance_transform_edt(inside)[1:-1, 1:-1]
        y, x = np.unravel_index(int(distances.argmax()), distances.shape)
        axes.text(
            *(x + 0.5, y + 0.5, short(classes[label], 20)), fontsize=size, color=class_color(label), va="center",
            ha="center", bbox={"facecolor": "white", "alpha": 0.82, "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    return png(sheet, dots_per_inch=100)


def _copy_of(pixels: Pixels) -> tuple[Figure, Axes, float]:
    """A figure of the image's pixels (or a multiple), axes over all of it, and a size of words in points."""
    height, width = pixels.shape[:2]
    longest = max(height, width)
    scale = max(1, -(-LEAST_SIDE // longest)) if longest < MOST_SIDE else MOST_SIDE / longest
    sheet = figure(scale * width / 100, scale * height / 100)
    sheet.set_layout_engine("none")
    axes = sheet.add_axes((0, 0, 1, 1))
    return sheet, axes, max(7.0, 0.012 * scale * longest * 0.72)


def _show(axes: Axes, pixels: Pixels) -> None:
    height, width = pixels.shape[:2]
    axes.imshow(
        pixels, interpolation="nearest" if max(height, width) < 200 else "antialiased", extent=(0, width, height, 0)
    )
    axes.autoscale(False)  # outlines of objects at the border would leave a margin
    axes.set_axis_off()


def _painted(pixels: Pixels, labels: IndexMask) -> Pixels:
    """A gray image under the colours of its classes; ignored pixels stay gray."""
    painted: Pixels = np.rint(pixels.mean(-1, keepdims=True)).astype(np.uint8).repeat(3, -1)
    for label in np.unique(labels).tolist():
        if label != IGNORED:
            painted = _blended(painted, labels == label, label, 0.6)
    return painted


def _region_sheet(shown: Sequence[Shown], classes: Sequence[str], title: str) -> bytes:
    sheet, grid = _grid(shown, ("image", "truth", "found", "wrong"))
    labels, ignored = set[int](), False
    for panels, image in zip(grid, shown, strict=True):
        assert isinstance(image.seen, Regions)
        found, truth = image.seen
        counted = truth != IGNORED
        ignored |= not counted.all()
        wrong = counted & (found != truth)
        _show(panels[0], image.pixels)
        _show(panels[1], _painted(image.pixels, truth))
        _show(panels[2], _painted(image.pixels, found))
        ground = np.where(counted[..., None], np.uint8(235), np.uint8(180)).repeat(3, -1)
        _show(panels[3], np.where(wrong[..., None], np.uint8(20), ground))
        share = wrong.sum() / max(counted.sum(), 1)
        heads = (tail(image.name, 30), "truth", "found", f"wrong: {100 * share:.1f} % (black)")
        for axes, words in zip(panels, heads, strict=True):
            axes.set_title(words, fontsize=8, color=INK, loc="left", parse_math=False)
        labels |= {int(k) for k in np.unique(np.concatenate([truth[counted], found[counted]]))}
    words = "\ndarker gray: pixels that do not count" if ignored else ""
    sheet.suptitle(f"{_two_lines(title)}{words}", fontsize=10, color=INK)
    _legend(sheet, classes, sorted(labels))
    return png(sheet)


def _grid(shown: Sequence[Shown], panels: Sequence[str]) -> tuple[Figure, list[list[Axes]]]:
    """A figure and each image's axes; two images share a row if each has two panels."""
    beside = 2 if len(panels) == 2 and len(shown) > 1 else 1
    rows = -(-len(shown) // beside)
    ratio = float(np.median([image.pixels.shape[0] / image.pixels.shape[1] for image in shown]))
    each = 11.0 / 4 if beside == 2 or len(panels) == 4 else 4.0
    sheet = figure(each * len(panels) * beside, 1.1 + rows * (each * min(max(ratio, 0.4), 1.8) + 0.25))
    axes: Any = sheet.subplots(rows, len(panels) * beside, squeeze=False)
    flat = list(axes.flat)
    for one in flat:
        one.set_axis_off()
    return sheet, [flat[i * len(panels) : (i + 1) * len(panels)] for i in range(len(shown))]


def _legend(sheet: Figure, classes: Sequence[str], labels: Sequence[int]) -> None:
    from matplotlib.patches import Patch

    if keys := [Patch(color=class_color(k), label=short(classes[k], 24)) for k in labels[:LEGEND_CLASSES]]:
        sheet.legend(handles=keys, loc="outside lower center", ncols=min(8, len(keys)), fontsize=8, frameon=False)


def _two_lines(title: str) -> str:
    return textwrap.fill(cut(title, 140), 70)


def precision_recall_picture(precision: Precision, classes: Sequence[str], title: str) -> bytes:
    """Precision over recall: the mean of the classes at IoU 0.5, 0.75 and 0.9, and each class at 0.5."""
    curves = [(k, curve) for k in range(len(classes)) if (curve := precision.curve(0.5, k)) is not None]
    few = len(curves) <= 12
    sheet = figure(8.6, 4.2 + 0.2 * (max(3, -(-len(curves) // 2)) if few else 3))
    left, right = sheet.subplots(1, 2, sharey=True)
    recalls = precision.recalls
    for threshold, color, style in ((0.5, BLUE, "-"), (0.75, ORANGE, "--"), (0.9, INK, ":")):
        mean, figure_of = precision.curve(threshold), precision.mean(threshold)
        if mean is not None and figure_of is not None:
            label = f"IoU {threshold:g}: AP {figure_of:.1f}"
            left.plot(recalls, mean, color=color, linestyle=style, linewidth=1.8, label=label)
    left.set_title(f"{cut(title, 60)}\nmean of the classes", fontsize=9.5, loc="left", color=INK)
    for place, (k, curve) in enumerate(curves):
        style = ("-", "--", "-.", ":")[place % 4] if few else "-"
        words = f"{short(classes[k], 18)}: {precision.mean(0.5, label=k):.1f}" if few else None
        right.plot(recalls, curve, color=class_color(k), linestyle=style, linewidth=1.3 if few else 0.7, label=words)
    right.set_title("each class at IoU 0.5 (AP50)", fontsize=9.5, loc="left", color=INK)
    left.set_ylabel("precision", color=SOFT)
    for axes in (left, right):
        axes.set(xlim=(0, 1.005), ylim=(0, 1.02))
        axes.set_xlabel("recall", color=SOFT)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            columns = 2 if axes is right else 1
            axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=columns)
    return png(sheet)


def classes_picture(
    rows: Sequence[tuple[str, str, Sequence[float | None]]], series: Sequence[str], title: str
) -> bytes:
    """Bars of each class, the best first by the first of ``series``. ``rows``: name, how many there are (in words), and
    a value in percent of each of the series."""
    rows = sorted(rows, key=lambda row: -1.0 if row[2][0] is None else row[2][0])
    shown = [row for row in rows if row[2][0] is not None][:ROWS]
    sheet = figure(7.0, 1.3 + 0.36 * max(len(shown), 1))
    axes = sheet.add_subplot()
    thick = 0.8 / len(series)
    for s, (name, color, hatch) in enumerate(
        zip(series, (BLUE, "#9db8cc", ORANGE), (None, "////", None), strict=False)
    ):
        places = np.arange(len(shown)) + (len(series) - 1 - 2 * s) * thick / 2
        values = [row[2][s] or 0.0 for row in shown]
        axes.barh(places, values, thick, color=color, hatch=hatch, edgecolor="white", linewidth=0.4, label=name)
        for place, value in zip(places, values, strict=True):
            axes.text(value + 0.8, place, f"{value:.1f}", va="center", fontsize=7, color=SOFT)
    axes.set_yticks(range(len(shown)), [f"{short(name, 24)} ({many})" for name, many, _ in shown], fontsize=8)
    axes.set_xlim(0, 108)
    axes.set_xlabel("%", color=SOFT)
    cutting = f"\nthe worst {len(shown)} of {len(rows)} classes" if len(shown) == ROWS < len(rows) else ""
    axes.set_title(f"{title}{cutting}", fontsize=10, loc="left", color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        sheet.legend(loc="outside lower center", ncols=len(series), frameon=False, fontsize=8)
    return png(sheet)
