"""The style of every figure: sheets in inches, quiet axes, matplotlib's own font, output as SVG and PNG.

Colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextify.system.files import write_bytes_atomic, write_text_atomic
from nextify.system.fonts import OWN, lettered, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, FAINT, BAND = "#1b1b1f", "#55585f", "#c9ccd3", "#f5f6f8"
UP, DOWN, PAPER, TRIAL = "#0072B2", "#B34700", "#7a7f8a", "#a3a8b3"


def svg(figure: Figure) -> str:
    """The figure as SVG text, always the same bytes. Letters are outlines, so that it looks alike anywhere."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "nextify", "svg.fonttype": "path"}), lettered(figure):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "nextify"})
    return buffer.getvalue().decode("utf-8")


def inline_svg(source: str, prefix: str, label: str) -> str:
    """The output of :func:`svg` as an ``<svg>`` element of an HTML page: ids carry ``prefix``, screen readers say
    ``label``, and no address is left in it."""
    from html import escape

    source = source[source.index("<svg") :]
    source = re.sub(r"<metadata>.*?</metadata>", "", source, flags=re.DOTALL)
    source = re.sub(r"\sxmlns(:\w+)?=\"[^\"]*\"", "", source).replace("xlink:href", "href")
    source = re.sub(r'\bid="', f'id="{prefix}-', source)
    source = re.sub(r'href="#', f'href="#{prefix}-', source)
    source = re.sub(r"url\(#", f"url(#{prefix}-", source)
    opening, rest = source.split(">", 1)
    opening = re.sub(r'\s(width|height)="[^"]*"', "", opening)
    return f'{opening} role="img" aria-label="{escape(label)}">{rest.strip()}'


def save(figure: Figure, out: Path, name: str) -> str:
    """Write ``name.svg`` and ``name.png`` into ``out``, each as a whole, and return the SVG."""
    source = svg(figure)
    write_text_atomic(out / f"{name}.svg", source)
    write_bytes_atomic(out / f"{name}.png", png(figure))
    return source


def canvas(width: float, height: float, **options: Any) -> Figure:
    """A white figure of the given size in inches, without pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", **options)
    FigureCanvasAgg(figure)
    return figure


def sheet(width: float, height: float) -> tuple[Figure, Axes]:
    """A white figure of the given size in inches, and axes over all of it in inches from the lower left."""
    figure = canvas(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def tidy(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=SOFT, labelsize=8.5, length=3, color=FAINT)
    axes.set_axisbelow(True)


def write(axes: Axes, x: float, y: float, words: str, *, size: float, color: str = INK, **style: Any) -> None:
    style = {"ha": "left", "va": "center"} | style
    axes.text(x, y, words, fontsize=size, color=color, parse_math=False, family=OWN, **style)


def shorten(words: str, length: int) -> str:
    """Cut the middle out of a long text, since the ends of a path tell most."""
    if len(words) <= length:
        return words
    tail = (length - 1) * 2 // 3
    return f"{words[: length - 1 - tail]}…{words[-tail:]}"
