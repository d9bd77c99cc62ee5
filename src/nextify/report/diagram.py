"""The blocks of a network as text, as a list of differences, and as drawings in the manner of the paper's Figure 4.

Everything is read from Layouts, and a layer writes its own label: ``7×7/2, 64`` is a convolution's kernel, its stride
where that is not 1, and its output channels; ``d`` before it means depthwise, ``g=32`` after it another number of
groups. ``(+)`` is the sum with the shortcut, ``×γ`` the layer scale. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import zip_longest
from xml.sax.saxutils import escape

from nextify.networks.layout import BlockSpec, Conv, Layer, Layout, Named, StageSpec, known, layout
from nextify.paper.design import Design

SCALE = "×γ"
ARROW = " → "


# Text


def block_text(design: Design) -> str:
    """Every distinct part of a design on a line of its own: stem, downsampling, blocks with their shortcuts, head."""
    lines = block_lines(design)
    width = max(len(place) for place, _ in lines)
    return "\n".join(f"{place:<{width}}  {text}" for place, text in lines)


def block_lines(design: Design) -> list[tuple[str, str]]:
    """``[(place, layers)]`` of every distinct part; equal blocks of a stage share a line."""
    net = layout(design)
    lines = [("stem", ARROW.join(_labels(net.stem)))]
    for index, stage in enumerate(net.stages):
        if stage.downsample:
            lines.append((f"stage {index + 1} downsampling", ARROW.join(_labels(stage.downsample))))
        for which, block in distinct_blocks(stage):
            lines.append((f"stage {index + 1} {which}", _branch_text(block)))
            if block.shortcut:
                lines.append(("  shortcut", ARROW.join(_labels(block.shortcut))))
    lines.append(("head", ARROW.join(["average pool", *_labels(net.head), "classifier"])))
    return lines


def distinct_blocks(stage: StageSpec) -> list[tuple[str, BlockSpec]]:
    """A stage's blocks with equal neighbours together: ``[("block 1", …), ("blocks 2–9", …)]``."""
    runs: list[tuple[int, int, BlockSpec]] = []
    for position, block in enumerate(stage.blocks, start=1):
        if runs and runs[-1][2] == block:
            runs[-1] = (runs[-1][0], position, block)
        else:
            runs.append((position, position, block))
    return [(f"block {a}" if a == b else f"blocks {a}–{b}", block) for a, b, block in runs]


def _branch_text(block: BlockSpec) -> str:
    branch = [*_labels(block.branch), *_scale(block)]
    return ARROW.join([f"{ARROW.join(branch)} (+)", *_labels(block.after)])


def _layers(chain: Named) -> list[Layer]:
    return [layer for _, layer in known(chain)]


def _labels(chain: Named) -> list[str]:
    return [layer.label for layer in _layers(chain)]


def _scale(block: BlockSpec) -> list[str]:
    return [] if block.layer_scale == "off" else [SCALE]


# Differences


@dataclass(frozen=True)
class Change:
    """A layer that differs between two designs, or that only one of them has."""

    part: str
    before: str | None
    after: str | None


def layer_differences(before: Design, after: Design) -> list[Change]:
    """Layers that differ, in order: stem, number of blocks, downsampling and first block of each stage, head."""
    a, b = _parts(layout(before)), _parts(layout(after))
    stages = range(1, max(len(before.depths), len(after.depths)) + 1)
    kinds = ("blocks", "downsampling", "block 1", "block 1, shortcut", "block 1, after the sum")
    order = ["stem", *(f"stage {stage}, {kind}" for stage in stages for kind in kinds), "head"]
    return [
        Change(part, x.text if x else None, y.text if y else None)
        for part in order
        for x, y in _align(a.get(part, []), b.get(part, []))
        if x != y
    ]


def _parts(net: Layout) -> dict[str, list[_Item]]:
    parts = {"stem": _items(net.stem, full=True), "head": _items(net.head, full=True)}
    for number, stage in enumerate(net.stages, start=1):
        place, block, blocks = f"stage {number}", stage.blocks[0], len(stage.blocks)
        scale = [_Item(f"{SCALE} from {block.layer_scale:g}", "scale")] if block.layer_scale != "off" else []
        parts[f"{place}, blocks"] = [_Item(f"{blocks} block{'s' if blocks > 1 else ''}", "blocks")]
        parts[f"{place}, downsampling"] = _items(stage.downsample, full=True)
        parts[f"{place}, block 1"] = _items(block.branch, full=True) + scale
        parts[f"{place}, block 1, shortcut"] = _items(block.shortcut, full=True)
        parts[f"{place}, block 1, after the sum"] = _items(block.after, full=True)
    return parts


@dataclass(frozen=True)
class _Item:
    """A layer as it is compared and drawn."""

    text: str
    kind: str
    """The layer's class, or what else it is."""
    changed: bool = False
    boxed: bool = False
    """Convolutions and poolings are boxes; norms and activations stand beside the arrows."""


def _items(chain: Named, full: bool = False) -> list[_Item]:
    return [_Item(x.full_label if full else x.label, type(x).__name__, boxed=x.boxed) for x in _layers(chain)]


_Pair = tuple[_Item | None, _Item | None]


def _align(before: Sequence[_Item], after: Sequence[_Item]) -> tuple[_Pair, ...]:
    """Align two sequences with the fewest differences; None fills a gap, and only layers of one kind are paired."""

    def price(x: _Item, y: _Item) -> float:
        if x.text == y.text:
            return 0.0
        return (0.8 if x.text.partition(",")[0] == y.text.partition(",")[0] else 1.0) if x.kind == y.kind else 9.0

    @cache
    def best(i: int, j: int) -> tuple[float, tuple[_Pair, ...]]:
        """The price of what is left from ``i`` and ``j`` on, and its pairs; of equal prices the first counts."""
        choices: list[tuple[float, _Pair, tuple[int, int]]] = []
        if i < len(before) and j < len(after):
            choices.append((price(before[i], after[j]), (before[i], after[j]), (i + 1, j + 1)))
        if i < len(before):
            choices.append((0.9, (before[i], None), (i + 1, j)))
        if j < len(after):
            choices.append((0.9, (None, after[j]), (i, j + 1)))
        found = [(best(*rest)[0] + added, (pair, *best(*rest)[1])) for added, pair, rest in choices]
        return min(found, key=lambda one: one[0], default=(0.0, ()))

    return best(0, 0)[1]


# Drawings


@dataclass(frozen=True)
class _Column:
    """What is drawn under one caption: layers in a row, then a residual block where there is a ``branch``."""

    entry: _Item
    """The input, such as ``256-d``."""
    lead: Sequence[_Item] = ()
    branch: Sequence[_Item] = ()
    shortcut: Sequence[_Item] = ()
    after: Sequence[_Item] = ()
    counts: Sequence[tuple[int, bool]] = ()
    """Instead of layers, the number of blocks of each stage and whether it changed."""
    caption: str = ""


@dataclass(frozen=True)
class _Panel:
    title: str
    columns: Sequence[_Column]


def block_svg(design: Design, stage: int = 0) -> str:
    """The distinct blocks of one stage (counted from 0) as an SVG document in the manner of Figure 4."""
    blocks = distinct_blocks(layout(design).stages[stage])
    return _draw(
        [_Panel(f"Stage {stage + 1}", [replace(_block(b), caption=which) for which, b in blocks])], legend=False
    )


_SIDES = ("before", "after")


def side_by_side_svg(before: Design, after: Design) -> str:
    """What differs between two designs, drawn before and after with the changed parts highlighted.

    Always the block that repeats in stage 1; stem, blocks per stage, entrance of stage 2 and head where they differ in
    more than the number of channels."""
    a, b = layout(before), layout(after)
    panels = []
    depths = tuple(zip_longest(*([len(stage.blocks) for stage in net.stages] for net in (a, b)), fillvalue=0))
    if any(x != y for x, y in depths):
        sides = [[(pair[side], pair[0] != pair[1]) for pair in depths] for side in (0, 1)]
        columns = [_Column(_Item("", "count"), counts=n, caption=c) for n, c in zip(sides, _SIDES, strict=True)]
        panels.append(_Panel("Blocks per stage", columns))
    if _shape(a.stem) != _shape(b.stem):
        panels.append(_compare("Stem", *(_Column(_Item("image", "entry"), _items(net.stem)) for net in (a, b))))
    blocks = a.stages[0].blocks[-1], b.stages[0].blocks[-1]
    if blocks[0] != blocks[1] or not panels:
        panels.append(_compare("Block of stage 1", *map(_block, blocks)))
    entrances = a.stages[1:2], b.stages[1:2]
    if all(entrances) and _entrance_shape(entrances[0][0]) != _entrance_shape(entrances[1][0]):
        panels.append(_compare("Entrance of stage 2", *(_entrance(*stages) for stages in entrances)))
    if _shape(a.head) != _shape(b.head):
        panels.append(_compare("Head", _head(a), _head(b)))
    return _draw(panels, legend=True)


def _shape(chain: Named) -> list[str]:
    """A chain's labels without numbers of channels."""
    return [text.partition(",")[0] for text in _labels(chain)]


def _entrance_shape(stage: StageSpec) -> list[list[str]]:
    block = stage.blocks[0]
    order = [name for name, layer in block.branch if isinstance(layer, Conv)]
    return [_shape(stage.downsample), _shape(block.shortcut), order]


def _block(block: BlockSpec) -> _Column:
    scale = [_Item(text, "scale") for text in _scale(block)]
    entry, branch = _Item(f"{block.in_channels}-d", "entry"), [*_items(block.branch), *scale]
    return _Column(entry, branch=branch, shortcut=_items(block.shortcut), after=_items(block.after))


def _entrance(stage: StageSpec) -> _Column:
    convs = [layer for layer in _layers(stage.downsample) if isinstance(layer, Conv)]
    channels = convs[0].in_channels if convs else stage.blocks[0].in_channels
    return replace(_block(stage.blocks[0]), entry=_Item(f"{channels}-d", "entry"), lead=_items(stage.downsample))


def _head(net: Layout) -> _Column:
    pool, classifier = _Item("average pool", "box", boxed=True), _Item("classifier", "box", boxed=True)
    return _Column(_Item(f"{net.features}-d", "entry"), [pool, *_items(net.head), classifier])


def _compare(title: str, before: _Column, after: _Column) -> _Panel:
    """Both columns; items that the other one lacks are marked."""
    both = (before, after)
    columns = []
    for side, column in enumerate(both):

        def marked(*chains: Sequence[_Item], side: int = side) -> list[_Item]:
            pairs = _align(*chains)
            return [replace(own, changed=x != y) for x, y in pairs if (own := (x, y)[side])]

        chain = marked(*([*c.lead, *c.branch] for c in both))
        columns.append(
            _Column(
                replace(column.entry, changed=before.entry.text != after.entry.text),
                lead=chain[: len(column.lead)],
                branch=chain[len(column.lead) :],
                shortcut=marked(*(c.shortcut for c in both)),
                after=marked(*(c.after for c in both)),
                caption=_SIDES[side],
            )
        )
    return _Panel(title, columns)


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


@dataclass
class _Canvas:
    marks: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, items: Sequence[_Item], anchor: str = "start", style: str = "") -> None:
        spans = [f'<tspan class="new">{escape(i.text)}</tspan>' if i.changed else escape(i.text) for i in items]
        kind = f' class="{style}"' if style else ""
        self.marks.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{kind}>{", ".join(spans)}</text>')

    def box(self, center: float, y: float, item: _Item) -> None:
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


def _box_width(item: _Item) -> float:
    return max(104.0, CHARACTER * len(item.text) + BOX_MARGIN)


def _runs(items: Sequence[_Item]) -> Iterator[tuple[list[_Item], _Item | None]]:
    """``(labels on the arrow, the box it leads to)``; None at the end, where the arrow leads out."""
    labels: list[_Item] = []
    for item in items:
        if item.boxed:
            yield labels, item
            labels = []
        else:
            labels.append(item)
    yield labels, None


def _chain(canvas: _Canvas, x: float, y: float, items: Sequence[_Item]) -> float:
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


def _chain_extent(items: Sequence[_Item]) -> tuple[float, float]:
    """Pixels that a chain takes up to the left and right of its axis."""
    boxes = [_box_width(item) / 2 for item in items if item.boxed]
    labels = [CHARACTER * len(", ".join(i.text for i in run)) + 12 for run, _ in _runs(items)]
    return max([40.0, *boxes]), max([40.0, *boxes, *labels])


def _shortcut_x(column: _Column) -> float:
    """Distance of the shortcut from the branch's axis."""
    right = _chain_extent(column.branch)[1]
    return right + 12 + (_chain_extent(column.shortcut)[0] if column.shortcut else 4)


def _extent(column: _Column) -> tuple[float, float]:
    if column.counts:
        return 0.0, 190.0
    left, right = _chain_extent(column.lead)
    if column.branch:
        side = _chain_extent(column.shortcut)[1] if column.shortcut else 4
        left, right = max(left, _chain_extent(column.branch)[0]), max(right, _shortcut_x(column) + side)
    return left, right


def _draw_residual(canvas: _Canvas, x: float, y: float, element: _Column) -> float:
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


def _draw_column(canvas: _Canvas, x: float, y: float, column: _Column) -> float:
    if column.counts:
        return _draw_counts(canvas, x, y, column.counts)
    canvas.text(x, y + 12, [column.entry], "middle")
    y += 18
    y = _chain(canvas, x, y, column.lead) if column.lead else y
    return _draw_residual(canvas, x, y, column) if column.branch else y


def _draw_counts(canvas: _Canvas, x: float, y: float, counts: Sequence[tuple[int, bool]]) -> float:
    y += 6
    for stage, (blocks, changed) in enumerate(counts, start=1):
        canvas.text(x, y + 10, [_Item(f"stage {stage}", "count")], style="faint")
        canvas.text(x + 76, y + 10, [_Item(str(blocks), "count", changed)], "end")
        for number in range(blocks):
            style = "box changed" if changed else "box"
            left, top = x + 86 + 11 * (number % 9), y + 11 * (number // 9)
            canvas.marks.append(f'<rect class="{style}" x="{left:g}" y="{top:g}" width="8" height="8" rx="1.5"/>')
        y += 11 * max(1, -(-blocks // 9)) + 13
    return y


def _draw(panels: Sequence[_Panel], *, legend: bool) -> str:
    canvas = _Canvas()
    x, height = float(MARGIN), 0.0
    rules: list[float] = []
    for panel in panels:
        start = x
        for column in panel.columns:
            left, right = _extent(column)
            center = x + left
            if column.caption:
                shift = 0 if column.counts else center - x
                anchor = "start" if column.counts else "middle"
                canvas.text(x + shift, MARGIN + 34, [_Item(column.caption, "caption")], anchor, "faint")
            height = max(height, _draw_column(canvas, center, MARGIN + 46, column))
            x += left + right + COLUMN_SPACE
        x -= COLUMN_SPACE
        canvas.text(start, MARGIN + 10, [_Item(panel.title, "title")], style="title")
        x = max(x, start + CHARACTER * len(panel.title)) + PANEL_SPACE
        if panel is not panels[-1]:
            rules.append(x - PANEL_SPACE / 2)
    canvas.marks += [f'<path class="rule" d="M{at:g} {MARGIN}V{height:g}"/>' for at in rules]
    if legend and any('changed"' in mark or '"new"' in mark for mark in canvas.marks):
        height += 24
        canvas.marks.append(
            f'<rect class="box changed" x="{MARGIN}" y="{height - 10:g}" width="12" height="12" rx="2"/>'
        )
        canvas.text(MARGIN + 20, height + 1, [_Item("changed", "legend")], style="faint")
    width, height = x - PANEL_SPACE + MARGIN, height + MARGIN
    title = escape(", ".join(panel.title for panel in panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img"><title>{title}</title><style>{_STYLE.strip()}</style>\n'
        f'<rect class="page" x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="8"/>\n'
        + "\n".join(canvas.marks)
        + "\n</svg>\n"
    )
