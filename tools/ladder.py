"""The bars of all steps as an SVG with one step marked: the paper's two roadmaps beside our largest study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from xml.sax.saxutils import escape

LINE, HEAD, NAMES, COLUMN, BAR, MARGIN = 19, 42, 172, 142, 92, 14
"""Pixels: a line's height, that of the captions, the widths of the names, of a column and of its longest bar."""
STYLE = """
text{font:12px Helvetica,Arial,'Liberation Sans',sans-serif;fill:#1f2933}
.page{fill:#fdfdfc;stroke:#d5d9de}.bar{fill:#c6d1e4}.here{fill:#c2570c}.new{fill:#b34700;font-weight:700}
.title{font-weight:600}.faint{fill:#66707d}
@media(prefers-color-scheme:dark){text{fill:#e6e9ee}.page{fill:#171b21;stroke:#363d47}
.bar{fill:#3b4d6e}.here{fill:#f59e4c}.new{fill:#ffb066}.faint{fill:#97a1ae}}
"""


@dataclass(frozen=True)
class Bars:
    title: str
    values: Mapping[str, float]
    """Percent, by step; a step that is missing was not measured."""

    @property
    def start(self) -> int:
        """Where the bars begin: below the lowest value, as all are high."""
        return floor(min(self.values.values())) - 1

    @property
    def end(self) -> int:
        return ceil(max(self.values.values()))


def ladder_svg(names: Mapping[str, str], here: str, columns: Sequence[Bars]) -> str:
    """Draw a line per step, ``{step: title}`` in order, with a bar in each column; ``here`` is marked."""
    marks = []
    for number, column in enumerate(columns):
        left = NAMES + number * COLUMN
        marks.append(_text(left, MARGIN + 8, column.title, "title"))
        marks.append(_text(left, MARGIN + 23, f"top-1 %, from {column.start}", "faint"))
    for line, (step, title) in enumerate(names.items()):
        top = HEAD + line * LINE
        style = "new" if step == here else ""
        marks.append(_text(MARGIN, top + 13, title, style))
        for number, column in enumerate(columns):
            left, value = NAMES + number * COLUMN, column.values.get(step)
            if value is None:
                marks.append(_text(left, top + 13, "not measured", "faint"))
                continue
            width = BAR * (value - column.start) / (column.end - column.start)
            kind = "here" if step == here else "bar"
            marks.append(f'<rect class="{kind}" x="{left}" y="{top + 3}" width="{width:.1f}" height="13" rx="2"/>')
            marks.append(_text(left + width + 5, top + 13, f"{value:.1f}", style))
    width, height = NAMES + len(columns) * COLUMN + MARGIN, HEAD + len(names) * LINE + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img"><title>{escape(names[here])} among all steps</title><style>{STYLE.strip()}</style>\n'
        f'<rect class="page" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>\n'
        + "\n".join(marks)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, words: str, style: str) -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:g}"{kind}>{escape(words)}</text>'
