"""What differs between two designs as an SVG: their parts before and after, with the changed ones highlighted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import ClassVar

from nextify.networks.layout import Conv, Layout, Named, StageSpec, layout
from nextify.paper.design import Design
from nextify.report.block_drawing import Canvas, Column, Panel, block_column, drawn
from nextify.report.diagram import Item, align, items, labels, layers

SIDES = ("before", "after")


@dataclass(frozen=True)
class Depths(Column):
    """The blocks of each stage as small boxes."""

    counts: Sequence[tuple[int, bool]] = ()
    """Their number, and whether it changed."""
    anchor: ClassVar[str] = "start"

    def extent(self) -> tuple[float, float]:
        return 0.0, 190.0

    def draw(self, canvas: Canvas, x: float, y: float) -> float:
        y += 6
        for stage, (blocks, changed) in enumerate(self.counts, start=1):
            canvas.text(x, y + 10, [Item(f"stage {stage}", "count")], style="faint")
            canvas.text(x + 76, y + 10, [Item(str(blocks), "count", changed)], "end")
            for number in range(blocks):
                style = "box changed" if changed else "box"
                left, top = x + 86 + 11 * (number % 9), y + 11 * (number // 9)
                canvas.marks.append(f'<rect class="{style}" x="{left:g}" y="{top:g}" width="8" height="8" rx="1.5"/>')
            y += 11 * max(1, -(-blocks // 9)) + 13
        return y


def side_by_side_svg(before: Design, after: Design) -> str:
    """What differs between two designs, drawn before and after with the changed parts highlighted.

    Always the block that repeats in stage 1; stem, blocks per stage, entrance of stage 2 and head where they differ in
    more than the number of channels."""
    a, b = layout(before), layout(after)
    panels: list[Panel] = []
    depths = tuple(zip_longest(*([len(stage.blocks) for stage in net.stages] for net in (a, b)), fillvalue=0))
    if any(x != y for x, y in depths):
        sides = [[(pair[side], pair[0] != pair[1]) for pair in depths] for side in (0, 1)]
        columns = [Depths(Item("", "count"), counts=n, caption=c) for n, c in zip(sides, SIDES, strict=True)]
        panels.append(Panel("Blocks per stage", columns))
    if _shape(a.stem) != _shape(b.stem):
        panels.append(_compare("Stem", *(Column(Item("image", "entry"), items(net.stem)) for net in (a, b))))
    blocks = a.stages[0].blocks[-1], b.stages[0].blocks[-1]
    if blocks[0] != blocks[1] or not panels:
        panels.append(_compare("Block of stage 1", *map(block_column, blocks)))
    entrances = a.stages[1:2], b.stages[1:2]
    if all(entrances) and _entrance_shape(entrances[0][0]) != _entrance_shape(entrances[1][0]):
        panels.append(_compare("Entrance of stage 2", *(_entrance(*stages) for stages in entrances)))
    if _shape(a.head) != _shape(b.head):
        panels.append(_compare("Head", _head(a), _head(b)))
    return drawn(panels)


def _shape(chain: Named) -> list[str]:
    """A chain's labels without numbers of channels."""
    return [text.partition(",")[0] for text in labels(chain)]


def _entrance_shape(stage: StageSpec) -> list[list[str]]:
    block = stage.blocks[0]
    order = [name for name, layer in block.branch if isinstance(layer, Conv)]
    return [_shape(stage.downsample), _shape(block.shortcut), order]


def _entrance(stage: StageSpec) -> Column:
    convs = [layer for layer in layers(stage.downsample) if isinstance(layer, Conv)]
    channels = convs[0].in_channels if convs else stage.blocks[0].in_channels
    return replace(block_column(stage.blocks[0]), entry=Item(f"{channels}-d", "entry"), lead=items(stage.downsample))


def _head(net: Layout) -> Column:
    pool, classifier = Item("average pool", "box", boxed=True), Item("classifier", "box", boxed=True)
    return Column(Item(f"{net.features}-d", "entry"), [pool, *items(net.head), classifier])


def _compare(title: str, before: Column, after: Column) -> Panel:
    """Both columns; items that the other one lacks are marked."""
    both = (before, after)
    columns = []
    for side, column in enumerate(both):

        def marked(*chains: Sequence[Item], side: int = side) -> list[Item]:
            pairs = align(*chains)
            return [replace(own, changed=x != y) for x, y in pairs if (own := (x, y)[side])]

        chain = marked(*([*c.lead, *c.branch] for c in both))
        columns.append(
            Column(
                replace(column.entry, changed=before.entry.text != after.entry.text),
                lead=chain[: len(column.lead)],
                branch=chain[len(column.lead) :],
                shortcut=marked(*(c.shortcut for c in both)),
                after=marked(*(c.after for c in both)),
                caption=SIDES[side],
            )
        )
    return Panel(title, columns)
