"""The blocks of a network as drawings, in the manner of the paper's Figure 4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar
from xml.sax.saxutils import escape

from nextify.networks.layout import BlockSpec, layout
from nextify.paper.design import Design
from nextify.report import diagram
from nextify.report.diagram import Item, distinct_blocks

# Pixels. A drawing brings its own background, to be readable on any page; the colours follow the reader's scheme.
BOX_HEIGHT, GAP, LABELLED_GAP, BOX_MARGIN = 30, 22, 34, 26
CHARACTER, MARGIN, COLUMN_SPACE, PANEL_SPACE = 7.4, 22, 26, 44
_STYLE = """
text{font:13px Helvetica,Arial,'Liberation Sans',sans-serif;fill:#1f2933}
.page{fill:#fdfdfc;stroke:#d5d9de}.box{fill:#e4eaf4;stroke:#5b7199;stroke-width:1.2}
.line{fill:none;stroke:#4a5568;stroke-width:1.4}.head{fill:#4a5568}.sum{fill:#fdfdfc;stroke:#4a5568;stroke-width:1.4}
.title{font-weight:600}.faint{fill:#66707d}.rule{stroke:#d5d9de}
.changed{fill:#fde3c8;stroke:#c2570c;stroke-width:2}text .new,text.new{fill:#b34700;font-weight:700}
@media(prefers-color-scheme:dark){text{fill:#e6e9ee}.page{fill:#171b21;stroke:#363d47}
.box{fill:#27354d;stroke:#7f9bcb}.line{stroke:#aab4c2}.head{fill:#aab4c2}.sum{fill:#171b21;stroke:#aab4c2}
.faint{fill:#97a1ae}.rule{stroke:#363d47}.changed{fill:#57300f;stroke:#f59e4c}text .new,text.new{fill:#ffb066}}
"""


@dataclass(frozen=True)
class Column:
    """What is drawn under one caption: layers in a row, then a residual block where there is a ``branch``."""

    entry: Item
    """The input, such as ``256-d``."""
    lead: Sequence[Item] = ()
    branch: Sequence[Item] = ()
    shortcut: Sequence[Item] = ()
    after: Sequence[Item] = ()
    caption: str = ""
    anchor: ClassVar[str] = "middle"
    """Of the caption, above the point from which the column is drawn."""

    def extent(self) -> tuple[float, float]:
        """Pixels that it takes up to the left and right of that point."""
        left, right = _chain_extent(self.lead)
        if self.branch:
            side = _chain_extent(self.shortcut)[1] if self.shortcut else 4
            left, right = max(left, _chain_extent(self.branch)[0]), max(right, _shortcut_x(self) + side)
        return left, right

    def draw(self, canvas: Canvas, x: float, y: float) -> float:
        """Draw downwards from a point; returns where the column ends."""
        canvas.text(x, y + 12, [self.entry], "middle")
        y += 18
        y = _chain(canvas, x, y, self.lead) if self.lead else y
        return _draw_residual(canvas, x, y, self) if self.branch else y


@dataclass(frozen=True)
class Panel:
    title: str
    columns: Sequence[Column]


def block_svg(design: Design, stage: int = 0) -> str:
    """The distinct blocks of one stage (counted from 0) as an SVG document in the manner of Figure 4."""
    blocks = distinct_blocks(layout(design).stages[stage])
    return drawn([Panel(f"Stage {stage + 1}", [replace(block_column(b), caption=which) for which, b in blocks])])


def block_column(block: BlockSpec) -> Column:
    scale = [Item(text, "scale") for text in diagram.scale_labels(block)]
    entry, branch = Item(f"{block.in_channels}-d", "entry"), [*diagram.items(block.branch), *scale]
    shortcut, after = diagram.items(block.shortcut), diagram.items(block.after)
    return Column(entry, branch=branch, shortcut=shortcut, after=after)


@dataclass
class Canvas:
    marks: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, items: Sequence[Item], anchor: str = "start", style: str = "") -> None:
        spans = [f'<tspan class="new">{escape(i.text)}</tspan>' if i.changed else escape(i.text) for i in items]
        kind = f' class="{style}"' if style else ""
        self.marks.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}>{", ".join(spans)}</text>')

    def box(self, center: float, y: float, item: Item) -> None:
        width = _box_width(item)
        style, left = "box changed" if item.changed else "box", center - width / 2
        self.marks.append(
            f'<rect class="{style}" x="{left:g}" y="{y:g}" width="{width:g}" height="{BOX_HEIGHT}" rx="4"/>'
        )
        self.text(center, y + BOX_HEIGHT / 2 + 4.5, [replace(item, changed=False)], "middle")

    def line(self, path: str) -> None:
        self.marks.append(f'<path class="line" d="{path}"/>')

    def arrow(self, x: float, top: float, bottom: float) -> None:
        self.line(f"M{x:g} {top:g}V{bottom - 5:g}")
        self.marks.append(f'<path class="head" d="M{x - 4:g} {bottom - 7:g}h8l-4 7z"/>')

    def plus(self, x: float, y: float) -> None:
        self.marks.append(f'<circle class="sum" cx="{x:g}" cy="{y:g}" r="9"/>')
        self.line(f"M{x - 5:g} {y:g}h10M{x:g} {y - 5:g}v10")


def _box_width(item: Item) -> float:
    return max(104.0, CHARACTER * len(item.text) + BOX_MARGIN)


def _runs(items: Sequence[Item]) -> Iterator[tuple[list[Item], Item | None]]:
    """``(labels on the arrow, the box it leads to)``; None at the end, where the arrow leads out."""
    labels: list[Item] = []
    for item in items:
        if item.boxed:
            yield labels, item
            labels = []
        else:
            labels.append(item)
    yield labels, None


def _chain(canvas: Canvas, x: float, y: float, items: Sequence[Item]) -> float:
    """Draws layers downwards from ``y``; returns where the chain ends (below its last arrow)."""
    for labels, box in _runs(items):
        bottom = y + (LABELLED_GAP if labels else GAP)
        canvas.arrow(x, y, bottom)
        if labels:
            canvas.text(x + 9, (y + bottom) / 2 + 3, labels)
        y = bottom
        if box is not None:
            canvas.box(x, y, box)
            y += BOX_HEIGHT
    return y


def _chain_extent(items: Sequence[Item]) -> tuple[float, float]:
    """Pixels that a chain takes up to the left and right of its axis."""
    boxes = [_box_width(item) / 2 for item in items if item.boxed]
    labels = [CHARACTER * len(", ".join(i.text for i in run)) + 12 for run, _ in _runs(items)]
    return max([40.0, *boxes]), max([40.0, *boxes, *labels])


def _shortcut_x(column: Column) -> float:
    """Distance of the shortcut from the branch's axis."""
    right = _chain_extent(column.branch)[1]
    return right + 12 + (_chain_extent(column.shortcut)[0] if column.shortcut else 4)


def _draw_residual(canvas: Canvas, x: float, y: float, element: Column) -> float:
    split = y + 8
    canvas.line(f"M{x:g} {y:g}V{split:g}")
    end = _chain(canvas, x, split, element.branch)
    total = end + 9
    side, start = x + _shortcut_x(element), split + 8
    canvas.line(f"M{x:g} {split:g}H{side - 8:g}Q{side:g} {split:g} {side:g} {start:g}")
    if element.shortcut:
        # The projection stands halfway down, on its own line.
        height = BOX_HEIGHT + (LABELLED_GAP - 8 if len(element.shortcut) > 1 else 8)
        top = split + max(14.0, (total - split - height) / 2)
        canvas.arrow(side, start, top)
        canvas.box(side, top, element.shortcut[0])
        start = top + BOX_HEIGHT
        if element.shortcut[1:]:
            canvas.text(side + 9, start + 19, element.shortcut[1:])
    canvas.line(f"M{side:g} {start:g}V{total - 8:g}Q{side:g} {total:g} {side - 8:g} {total:g}H{x + 15:g}")
    canvas.marks.append(f'<path class="head" d="M{x + 16:g} {total - 4:g}v8l-7 -4z"/>')
    canvas.plus(x, total)
    return _chain(canvas, x, total + 9, element.after)


def drawn(panels: Sequence[Panel]) -> str:
    """The panels beside each other as an SVG document, with a legend where anything is marked as changed."""
    canvas = Canvas()
    x, height = float(MARGIN), 0.0
    rules: list[float] = []
    for panel in panels:
        start = x
        for column in panel.columns:
            left, right = column.extent()
            center = x + left
            if column.caption:
                canvas.text(center, MARGIN + 34, [Item(column.caption, "caption")], column.anchor, "faint")
            height = max(height, column.draw(canvas, center, MARGIN + 46))
            x += left + right + COLUMN_SPACE
        x -= COLUMN_SPACE
        canvas.text(start, MARGIN + 10, [Item(panel.title, "title")], style="title")
        x = max(x, start + CHARACTER * len(panel.title)) + PANEL_SPACE
        if panel is not panels[-1]:
            rules.append(x - PANEL_SPACE / 2)
    canvas.marks += [f'<path class="rule" d="M{at:g} {MARGIN}V{height:g}"/>' for at in rules]
    if any('changed"' in mark or '"new"' in mark for mark in canvas.marks):
        height += 24
        canvas.marks.append(
            f'<rect class="box changed" x="{MARGIN}" y="{height - 10:g}" width="12" height="12" rx="2"/>'
        )
        canvas.text(MARGIN + 20, height + 1, [Item("changed", "legend")], style="faint")
    width, height = x - PANEL_SPACE + MARGIN, height + MARGIN
    title = escape(", ".join(panel.title for panel in panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img"><title>{title}</title><style>{_STYLE.strip()}</style>\n'
        f'<rect class="page" x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="8"/>\n'
        + "\n".join(canvas.marks)
        + "\n</svg>\n"
    )
