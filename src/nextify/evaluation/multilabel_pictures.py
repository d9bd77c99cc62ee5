"""Precision over recall of each class, and the worst images, of several labels per image; as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nextify.evaluation.dense_pictures import class_color
from nextify.evaluation.pictures import Tile, contact_sheet, figure, heading, lettered, png, short
from nextify.system.text import plural

if TYPE_CHECKING:
    from nextify.evaluation.multilabel import MultiLabelEvaluation

NAMED_CURVES = 12
"""Most classes whose curves have a colour and a name: those of lowest AP."""


def curves_picture(found: MultiLabelEvaluation) -> bytes:
    """One curve per class that an image has, with a dot at its threshold; the classes of lowest AP are named."""
    ap = {row.name: row.ap or 0.0 for row in found.classes}
    named = sorted((curve.name for curve in found.curves), key=ap.__getitem__)[:NAMED_CURVES]
    sheet = figure(7.2, 4.6)
    axes: Any = sheet.add_subplot()
    rows = {row.name: row for row in found.classes}
    for curve in sorted(found.curves, key=lambda curve: (curve.name in named, ap[curve.name])):
        color = class_color(named.index(curve.name)) if curve.name in named else "#c8c8cc"
        label = f"{short(curve.name, 20)}: AP {ap[curve.name]:.1f} %" if curve.name in named else None
        axes.step(curve.recall, curve.precision, where="pre", color=color, linewidth=1.3, label=label)
        row = rows[curve.name]
        if curve.name in named and row.precision is not None and row.recall is not None:
            axes.plot([row.recall / 100], [row.precision / 100], "o", color=color, markersize=5)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.03))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    others = f", the {NAMED_CURVES} of lowest AP in colour" if len(found.curves) > NAMED_CURVES else ""
    figures = f"mAP {found.metrics['map']:.2f} % of {plural(found.images, 'image')}"
    lettered(axes, f"{heading(found)}\n{figures}; dots: at the thresholds{others}", "recall", "precision")
    return png(sheet)


def worst_picture(found: MultiLabelEvaluation, images: Sequence[npt.NDArray[np.uint8]]) -> bytes:
    """The worst images as a contact sheet: each with its file, the labels it was given, and those it has."""

    def words(names: Sequence[str]) -> str:
        return short(", ".join(names) or "none", 22)

    tiles = [
        Tile(image, one.name, f"said {words(one.given)}", f"is {words(one.true)}")
        for image, one in zip(images, found.worst, strict=False)
    ]
    return contact_sheet(tiles, f"{heading(found)}: wrong, with the highest loss")
