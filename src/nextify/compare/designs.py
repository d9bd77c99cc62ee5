"""The designs that a search tries: points near both roadmaps, each widened until it just stays within the budget; and
the members of the families that do.

A point is a row of a roadmap with up to ``FLIPS`` of its decisions taken or dropped, as ``nextify attribute`` allows
them, with kernels, depths, the ratio of the stages and the growth of the widths varied. The step "increase width" has
no place here, since the budget decides the widths. For small images, half of the points are near our own designs for
these instead.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from nextify.compare import entries
from nextify.compare.budget import Limit
from nextify.compare.measure import MOST_CALLS
from nextify.compare.records import Row
from nextify.compare.settings import SHORTEST_TIMED
from nextify.evaluation import profiling
from nextify.fitting.fit import SMALL_IMAGE, fit_design
from nextify.fitting.scale import SCALES, Scale
from nextify.networks.layout import cost
from nextify.networks.zoo import create_model
from nextify.paper.design import DENSE, DESIGNS, POOLED, Design
from nextify.paper.roadmap import ROADMAPS
from nextify.study.attribution import lawful
from nextify.system.device import threads

OWN = (("resnet_pooled", DENSE), ("convnext_pooled", POOLED))
"""Our own designs for small images."""
FLIPS = 3
KERNELS = (3, 5, 7, 9, 11)
AIM = 0.95
"""Share of the budget from which a design is wide enough."""
MEASUREMENTS = 7
"""Widths that are tried of a design."""
NARROWEST, WIDEST = 1 / 3, 8.0
"""Times the scale's widths."""
UNFIT = 60
"""Designs in a row over the budget, after which no more are drawn."""
FEWEST_CALLS = 10
Measure = Callable[[Design], Row]


@dataclass(frozen=True)
class Candidate:
    """A design that may be trained."""

    name: str
    origin: str
    """Where its decisions come from, in words; depths and widths are those of ``design``."""
    design: Design
    row: Row
    """What it costs here."""
    used: float
    """The largest share that it takes of a limit; above 1 it is not trained."""


def used(row: Row, within: Sequence[Limit]) -> float:
    """The largest share that a network takes of a limit."""
    return max(limit.share(row) or 0 for limit in within)


def exhausted(tried: Sequence[Candidate]) -> bool:
    """Whether the last ``UNFIT`` designs are all over the budget."""
    return len(tried) >= UNFIT and all(each.used > 1 for each in tried[-UNFIT:])


def measured(
    design: Design, image_size: int, classes: int, number: int, given: profiling.Conditions, patience: float
) -> Row:
    """Count a network and time it, warm, with one image at a time on ``number`` CPU threads. A network whose first warm
    calls all take longer than ``patience`` milliseconds is not timed any further; with 0 it is only counted."""
    counted = cost(design, image_size, classes)
    row = Row("", image_size, "measured", parameters=counted.parameters, macs=counted.macs)
    if not patience:
        return row
    with threads(number), profiling.conditions(given):
        model = profiling.place(create_model(design, classes), given)
        step = profiling.inference(model, profiling.random_images(1, image_size, given), given)
        for _ in range(2):
            step()
        times = [profiling.seconds(step, given.device) for _ in range(3)]
        while 1e3 * min(times) <= patience and len(times) < MOST_CALLS:
            if len(times) >= FEWEST_CALLS and math.fsum(times) >= SHORTEST_TIMED:
                break
            times.append(profiling.seconds(step, given.device))
    return replace(row, latency_calls=len(times), latency_ms_p50=1e3 * median(times))


def anchors(scale: Scale, image_size: int) -> Iterator[tuple[str, Design]]:
    """Where a search begins: our own designs for small images, and both ends of each roadmap."""
    if image_size <= SMALL_IMAGE:
        yield from OWN
    for path in ROADMAPS.values():
        ends = path.title.split(" → ")
        yield ends[1], scale.shrink(path.rows[-1].design)
        yield ends[0], scale.shrink(path.design)


def drawn(rng: np.random.Generator, scale: Scale, image_size: int) -> tuple[str, Design]:
    """A random design near a roadmap at a scale, or near our own designs for small images, and what it is, in words."""
    if image_size <= SMALL_IMAGE and rng.random() < 0.5:
        return drawn_pooled(rng)
    path = list(ROADMAPS.values())[rng.integers(len(ROADMAPS))]
    steps = [step for step in path.steps if step.adopted and step.after and step.name != "width"]
    names = [step.name for step in steps]
    while True:
        place = int(rng.integers(len(names) + 1))
        flipped = {str(name) for name in rng.choice(names, rng.integers(FLIPS + 1), replace=False)}
        taken = {*names[:place]} ^ flipped
        if lawful({*taken, "training_technique"}):  # all are trained with the modern recipe
            break
    changes = {k: v for step in steps if step.name in taken for k, v in step.after.items()}
    design = scale.shrink(path.design.with_(**changes))
    if "depthwise" in taken and rng.random() < 0.5:
        design = design.with_(kernel_size=int(rng.choice(KERNELS)))
    if "separate_downsampling" in taken and image_size <= SMALL_IMAGE and rng.random() < 0.5:
        design = design.with_(downsampling="pooled", stem="conv3_pool")
    if design.norms == "after_every_conv":  # a norm has a scale of its own
        design = design.with_(layer_scale="off")
    stages = len(design.depths) - int(rng.random() < 0.25)
    depths = [max(1, round(depth * rng.choice((2 / 3, 1, 3 / 2)))) for depth in design.depths[:stages]]
    if rng.random() < 0.5:  # a block moves to another stage
        giver, taker = rng.choice(stages, 2, replace=False)
        if depths[giver] > 1:
            depths[giver], depths[taker] = depths[giver] - 1, depths[taker] + 1
    growth = float(rng.choice((1.5, 2.0)))
    design = design.with_(
        depths=tuple(depths),
        widths=tuple(round(design.widths[0] * growth**i) for i in range(stages)),
        stage_strides=design.stage_strides[:stages],
    )
    words = [f"{path.name} at {('baseline', *names)[place]}"]
    words += [f"{'plus' if name in taken else 'minus'} {name}" for name in names if name in flipped]
    words += ["pooled"] if design.downsampling == "pooled" else []
    words += [f"{design.kernel_size}×{design.kernel_size}"]
    return ", ".join(words), design


def drawn_pooled(rng: np.random.Generator) -> tuple[str, Design]:
    """A random design near one of our own for small images, and what it is, in words."""
    name, design = OWN[rng.integers(2)]
    depths = [int(rng.choice((1, 1, 2, 3))) for _ in design.depths]
    growth = float(rng.choice((1.5, 2, 3, 4))), float(rng.choice((1, 1.5, 2)))
    first = design.widths[0]
    design = design.with_(
        depths=tuple(depths),
        widths=(first, round(first * growth[0]), round(first * growth[0] * growth[1])),
        kernel_size=int(rng.choice((3, 3, 5, 7))) if design.groups == "depthwise" else 3,
        norm=str(rng.choice(("batch", "batch", "layer"))),
        activation=str(rng.choice(("gelu", "relu"))),
    )
    return f"{name} with {design.norm} norm and {design.activation}, {design.kernel_size}×{design.kernel_size}", design


def widened(design: Design, factor: float) -> Design:
    """All widths times ``factor``, in multiples of 4."""
    return design.with_(widths=tuple(4 * max(1, round(width * factor / 4)) for width in design.widths))


def grown(design: Design, measure: Measure, within: Sequence[Limit]) -> tuple[Design, Row, float]:
    """The design as wide as the limits allow, with half of its blocks where even a narrow one takes too much; what it
    costs, and the share of the limits that it takes, above 1 where none of this helps."""
    tried: dict[Design, tuple[Row, float]] = {}
    factor, low, high = 1.0, 0.0, math.inf
    for _ in range(MEASUREMENTS):
        made = widened(design, factor)
        if made in tried:
            break
        row = measure(made)
        tried[made] = row, used(row, within)
        share = tried[made][1]
        if AIM <= share <= 1:
            break
        low, high = (factor, high) if share < 1 else (low, factor)
        # Latency grows with about the 1.5th power of the width: between its channels and their products.
        factor *= ((1 + AIM) / 2 / share) ** (1 / 1.5)
        if not low < factor < high:
            factor = math.sqrt(low * high)
        factor = min(WIDEST, max(NARROWEST, factor))
    best = max(
        tried, key=lambda each: (tried[each][1] <= 1, tried[each][1] if tried[each][1] <= 1 else -tried[each][1])
    )
    if tried[best][1] > 1 and max(design.depths) > 1:
        return grown(design.with_(depths=tuple(math.ceil(depth / 2) for depth in design.depths)), measure, within)
    return best, *tried[best]


def smallest(design: Design) -> Design:
    """The narrowest and shallowest that ``grown`` makes of a design."""
    return widened(design.with_(depths=(1,) * len(design.depths)), NARROWEST)


def points(
    arm: str, seed: int, scale: Scale, image_size: int, steps: int, first: int = 1
) -> Iterator[tuple[int, str, Design]]:
    """Designs without end, before they are widened: the number from ``first`` on, what it is in words, and the design.
    Those of a ``search`` begin with the anchors, those of ``random`` are all drawn."""
    begin = list(anchors(scale, image_size)) if arm == "search" else []
    for number in itertools.count(first):
        rng = np.random.default_rng([2201, 3545, seed, int(arm == "search"), number])
        origin, design = begin[number - 1] if number <= len(begin) else drawn(rng, scale, image_size)
        yield number, origin, fit_design(design, image_size=image_size, steps=steps)[0]


def near(
    arm: str,
    seed: int,
    scale: Scale,
    image_size: int,
    steps: int,
    measure: Measure,
    within: Sequence[Limit],
    earlier: Sequence[Candidate] = (),
) -> Iterator[Candidate]:
    """Candidates without end. ``earlier``: those that are known already; the next ones follow."""
    seen = {candidate.design for candidate in earlier}
    last = int(earlier[-1].name.rpartition("-")[2]) if earlier else 0
    for number, origin, design in points(arm, seed, scale, image_size, steps, last + 1):
        made, row, share = grown(design, measure, within)
        if made not in seen:
            seen.add(made)
            yield Candidate(f"{arm}-{number}", origin, made, row, share)


def family(image_size: int, steps: int, measure: Measure, within: Sequence[Limit]) -> Iterator[Candidate]:
    """The largest member within the limits of each family, and of each row of the roadmaps, at whatever scale."""
    named = [name for name in DESIGNS if name not in ("resnet50", "resnet200")]  # first rows of the roadmaps
    alone = [*(n for n in named if n.endswith("_pooled")), *(f"{p}_{r.name}" for p in ROADMAPS for r in ROADMAPS[p])]
    kinds = ("convnext_isotropic", "convnextv2", "convnext")
    lines = {
        kind: [n for n in named if n not in alone and next(k for k in kinds if n.startswith(k)) == kind]
        for kind in kinds
    }
    seen = set()
    for names in (*reversed(lines.values()), *([name] for name in alone)):
        scaled = [f"{name}@{size}" for name in names for size in SCALES]
        members = {name: entries.network(entries.find(name), image_size, image_size, steps) for name in scaled}
        ordered = [(name, design) for name, design in members.items() if isinstance(design, Design)]
        ordered.sort(key=lambda member: cost(member[1], image_size).macs)
        found = _largest([design for _, design in ordered], measure, within)
        if found is not None and ordered[found[0]][1] not in seen:
            name, design = ordered[found[0]]
            seen.add(design)
            yield Candidate(name, name.partition("@")[0], design, *found[1:])


def _largest(ordered: Sequence[Design], measure: Measure, within: Sequence[Limit]) -> tuple[int, Row, float] | None:
    """Which design is the last within the limits, from the cheapest on in growing strides and then by halves."""
    best, high, stride = None, len(ordered), 1
    low = -1
    while high - low > 1:
        middle = min(low + stride, high - 1) if high == len(ordered) else (low + high) // 2
        row = measure(ordered[middle])
        share = used(row, within)
        if share <= 1:
            best, low, stride = (middle, row, share), middle, 2 * stride
        else:
            high = middle
    return best
