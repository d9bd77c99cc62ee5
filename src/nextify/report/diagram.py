"""The blocks of a network as text, and as a list of differences.

Everything is read from Layouts, and a layer writes its own label: ``7×7/2, 64`` is a convolution's kernel, its stride
where that is not 1, and its output channels; ``d`` before it means depthwise, ``g=32`` after it another number of
groups. ``(+)`` is the sum with the shortcut, ``×γ`` the layer scale. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from nextify.networks.layout import BlockSpec, Layer, Layout, Named, StageSpec, known, layout
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
    lines = [("stem", ARROW.join(labels(net.stem)))]
    for index, stage in enumerate(net.stages):
        if stage.downsample:
            lines.append((f"stage {index + 1} downsampling", ARROW.join(labels(stage.downsample))))
        for which, block in distinct_blocks(stage):
            lines.append((f"stage {index + 1} {which}", _branch_text(block)))
            if block.shortcut:
                lines.append(("  shortcut", ARROW.join(labels(block.shortcut))))
    lines.append(("head", ARROW.join(["average pool", *labels(net.head), "classifier"])))
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
    branch = [*labels(block.branch), *scale_labels(block)]
    return ARROW.join([f"{ARROW.join(branch)} (+)", *labels(block.after)])


def layers(chain: Named) -> list[Layer]:
    return [layer for _, layer in known(chain)]


def labels(chain: Named) -> list[str]:
    return [layer.label for layer in layers(chain)]


def scale_labels(block: BlockSpec) -> list[str]:
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
        for x, y in align(a.get(part, []), b.get(part, []))
        if x != y
    ]


def _parts(net: Layout) -> dict[str, list[Item]]:
    parts = {"stem": items(net.stem, full=True), "head": items(net.head, full=True)}
    for number, stage in enumerate(net.stages, start=1):
        place, block, blocks = f"stage {number}", stage.blocks[0], len(stage.blocks)
        scale = [Item(f"{SCALE} from {block.layer_scale:g}", "scale")] if block.layer_scale != "off" else []
        parts[f"{place}, blocks"] = [Item(f"{blocks} block{'s' if blocks > 1 else ''}", "blocks")]
        parts[f"{place}, downsampling"] = items(stage.downsample, full=True)
        parts[f"{place}, block 1"] = items(block.branch, full=True) + scale
        parts[f"{place}, block 1, shortcut"] = items(block.shortcut, full=True)
        parts[f"{place}, block 1, after the sum"] = items(block.after, full=True)
    return parts


@dataclass(frozen=True)
class Item:
    """A layer as it is compared and drawn."""

    text: str
    kind: str
    """The layer's class, or what else it is."""
    changed: bool = False
    boxed: bool = False
    """Convolutions and poolings are boxes; norms and activations stand beside the arrows."""


def items(chain: Named, full: bool = False) -> list[Item]:
    return [Item(x.full_label if full else x.label, type(x).__name__, boxed=x.boxed) for x in layers(chain)]


_Pair = tuple[Item | None, Item | None]


def align(before: Sequence[Item], after: Sequence[Item]) -> tuple[_Pair, ...]:
    """Align two sequences with the fewest differences; None fills a gap, and only layers of one kind are paired."""

    def price(x: Item, y: Item) -> float:
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
