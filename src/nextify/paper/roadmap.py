"""The paper's two roadmaps as data: ResNet-50 -> ConvNeXt-T and ResNet-200 -> ConvNeXt-B, one checked step per row.

Source: arXiv 2201.03545v2, Figure 2 and Tables 10 and 11 (top-1 of the mean of 3 seeds where a spread is published,
GFLOPs as printed). A step must find the design it expects and must change it, so a roadmap cannot silently
skip a decision. No torch here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, overload

from nextify.paper.design import CONVNEXT_TINY, RESNET50, RESNET200, Design
from nextify.paper.recipe import CONVNEXT, RESNET, Recipe


class StepError(ValueError):
    """A step that does not fit the design it is applied to, or that would change nothing."""


@dataclass(frozen=True)
class Published:
    """What the paper prints for a row."""

    top1: float
    """ImageNet-1K top-1 at 224x224, percent."""
    std: float | None
    """Standard deviation over 3 seeds, percentage points; None where the paper gives none."""
    gflops: float
    """Multiply-adds in units of 10^9, as printed."""


@dataclass(frozen=True)
class Step:
    """One named, checked change of a Design or a Recipe."""

    name: str
    title: str
    group: str
    """The section of Figure 2 that the step belongs to."""
    published: Published
    before: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Decisions the step expects to find; exactly the fields that it changes."""
    after: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """The same decisions as the step leaves them."""
    recipe: Recipe | None = None
    """The recipe from this step on, where the step changes it."""
    adopted: bool = True
    """False for a step that the paper only explores: the next step does not build on it."""

    def apply(self, design: Design, recipe: Recipe) -> tuple[Design, Recipe]:
        """The design and recipe after the step.

        Raises:
            StepError: the design does not hold the values that the step expects, or nothing would change.
        """
        if unexpected := {k: getattr(design, k) for k, v in self.before.items() if getattr(design, k) != v}:
            found = ", ".join(f"{k}={v!r}" for k, v in unexpected.items())
            wanted = ", ".join(f"{k}={self.before[k]!r}" for k in unexpected)
            raise StepError(f"step {self.name} expects {wanted} but found {found}; apply the steps before it first")
        new_design = design.with_(**self.after)
        new_recipe = self.recipe or recipe
        if new_design == design and new_recipe == recipe:
            raise StepError(f"step {self.name} changes nothing here: it has been applied already")
        return new_design, new_recipe


@dataclass(frozen=True)
class Row:
    """A bar of Figure 2: the network and the recipe at one point of a roadmap."""

    name: str
    title: str
    group: str
    design: Design
    recipe: Recipe
    adopted: bool
    published: Published
    compared_with: str | None
    """Name of the adopted row that the step was applied to; None for the baseline."""
    published_change: float | None
    """Top-1 against ``compared_with`` as published, percentage points."""


@dataclass(frozen=True)
class Roadmap:
    """An ordered path of steps from a starting point; iterating gives its rows in the paper's order."""

    name: str
    title: str
    design: Design
    recipe: Recipe
    published: Published
    steps: tuple[Step, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.steps) + 1

    @overload
    def __getitem__(self, key: int | str) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Row, ...]: ...
    def __getitem__(self, key: int | str | slice) -> Row | tuple[Row, ...]:
        """A row by position or by step name, or the rows of a slice.

        Raises:
            IndexError: no row at that position.
            KeyError: no step of that name; the message lists the known ones.
        """
        rows = self.rows
        if isinstance(key, int | slice):
            return rows[key]
        for row in rows:
            if row.name == key:
                return row
        raise KeyError(f"roadmap {self.name} has no step {key!r}; it has {', '.join(r.name for r in rows)}")

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """All rows, explored ones included. Alternatives to one step all start from the row before the first."""
        title = f"{self.title.split(' → ')[0]}, original recipe"
        rows = [Row("baseline", title, "ResNet", self.design, self.recipe, True, self.published, None, None)]
        base = rows[0]  # what the next step is applied to
        current = rows[0]  # the last adopted row
        touched: frozenset[str] = frozenset()
        for step in self.steps:
            same_decision = bool(step.before) and frozenset(step.before) == touched
            if not same_decision:
                base = current
            design, recipe = step.apply(base.design, base.recipe)
            change = round(step.published.top1 - base.published.top1, 2)
            row = Row(
                step.name, step.title, step.group, design, recipe, step.adopted, step.published, base.name, change
            )
            rows.append(row)
            touched = frozenset(step.before)
            if step.adopted:
                current = row
        return tuple(rows)


_TITLES: tuple[tuple[str, str, str], ...] = (
    ("training_technique", "Training technique", "ResNet"),
    ("stage_ratio", "Stage ratio", "Macro design"),
    ("patchify", "Patchify stem", "Macro design"),
    ("depthwise", "Depthwise conv", "ResNeXt"),
    ("width", "Increase width", "ResNeXt"),
    ("inverted_bottleneck", "Inverted bottleneck", "Inverted bottleneck"),
    ("move_up", "Move up depthwise conv", "Large kernel"),
    ("kernel_5", "Kernel size 5", "Large kernel"),
    ("kernel_7", "Kernel size 7", "Large kernel"),
    ("kernel_9", "Kernel size 9", "Large kernel"),
    ("kernel_11", "Kernel size 11", "Large kernel"),
    ("gelu", "ReLU → GELU", "Micro design"),
    ("fewer_activations", "Fewer activations", "Micro design"),
    ("fewer_norms", "Fewer norms", "Micro design"),
    ("layer_norm", "BN → LN", "Micro design"),
    ("separate_downsampling", "Separate downsampling", "Micro design"),
)
STEP_NAMES: tuple[str, ...] = ("baseline", *(name for name, _, _ in _TITLES))
"""Names of the 17 rows in the paper's order."""


def _steps(
    name: str,
    depths: tuple[tuple[int, ...], tuple[int, ...]],
    widths: tuple[int, int, int],
    published: tuple[Published, ...],
) -> tuple[Step, ...]:
    """The 16 steps; the regimes differ only in depths and widths. ``widths`` are stage 1's at start, after the stage
    ratio and after widening (in the ResNet-200 regime the stage ratio widens too, from 64 to 84)."""
    start, ratio, wide = (tuple(w * 2**i for i in range(4)) for w in widths)
    shape = {"depths": depths}
    if ratio != start:
        shape["widths"] = (start, ratio)
    changes: dict[str, dict[str, tuple[Any, Any]]] = {
        "training_technique": {},
        "stage_ratio": shape,
        "patchify": {"stem": ("conv7_pool", "patchify4")},
        "depthwise": {"groups": (1, "depthwise")},
        "width": {"widths": (ratio, wide)},
        "inverted_bottleneck": {"bottleneck": ("narrow", "inverted")},
        "move_up": {"spatial": ("middle", "first")},
        **{f"kernel_{k}": {"kernel_size": (3, k)} for k in (5, 7, 9, 11)},
        "gelu": {"activation": ("relu", "gelu")},
        "fewer_activations": {"activations": ("after_every_conv", "between_pointwise")},
        "fewer_norms": {"norms": ("after_every_conv", "before_expand")},
        "layer_norm": {"norm": ("batch", "layer")},
        # Layer scale has no bar of its own; the released ConvNeXt has it, so it enters with the row that is ConvNeXt.
        "separate_downsampling": {"downsampling": ("in_block", "separate"), "layer_scale": ("off", 1e-6)},
    }
    last = {"resnet50": " = ConvNeXt-T", "resnet200": " = ConvNeXt-B"}[name]
    return tuple(
        Step(
            name=step,
            title=title + (last if step == "separate_downsampling" else ""),
            group=group,
            published=figures,
            before=MappingProxyType({k: v[0] for k, v in changes[step].items()}),
            after=MappingProxyType({k: v[1] for k, v in changes[step].items()}),
            recipe=CONVNEXT if step == "training_technique" else None,
            adopted=step not in ("kernel_5", "kernel_9", "kernel_11"),
        )
        for (step, title, group), figures in zip(_TITLES, published, strict=True)
    )


def _published(*figures: tuple[float, float | None, float]) -> tuple[Published, ...]:
    return tuple(Published(*f) for f in figures)


# Table 10. The row "layer_norm" prints 4.46 although a norm has no multiply-adds (its twin in Table 11 is unchanged),
# and the last row 4.49 where convolutions and linear layers make 4.46: docs/design.md.
_TABLE_10 = _published(
    (78.82, 0.07, 4.09),
    (79.36, 0.07, 4.53),
    (79.51, 0.18, 4.42),
    (78.28, 0.08, 2.35),
    (80.50, 0.02, 5.27),
    (80.64, 0.03, 4.64),
    (79.92, 0.08, 4.07),
    (80.35, 0.08, 4.10),
    (80.57, 0.14, 4.15),
    (80.57, 0.06, 4.21),
    (80.47, 0.11, 4.29),
    (80.62, 0.14, 4.15),
    (81.27, 0.06, 4.15),
    (81.41, 0.09, 4.15),
    (81.47, 0.09, 4.46),
    (81.97, 0.06, 4.49),
)
_TABLE_11 = _published(
    (81.14, None, 15.01),
    (81.33, None, 14.52),
    (81.59, None, 14.38),
    (80.54, None, 7.23),
    (81.85, None, 16.76),
    (82.64, None, 15.68),
    (82.04, None, 14.63),
    (82.32, None, 14.70),
    (82.30, None, 14.81),
    (82.27, None, 14.95),
    (82.18, None, 15.13),
    (82.19, None, 14.81),
    (82.71, None, 14.81),
    (83.17, None, 14.81),
    (83.35, None, 14.81),
    (83.60, None, 15.35),
)

ROADMAPS: dict[str, Roadmap] = {
    "resnet50": Roadmap(
        "resnet50",
        "ResNet-50 → ConvNeXt-T",
        RESNET50,
        RESNET,
        Published(76.13, None, 4.09),
        _steps("resnet50", ((3, 4, 6, 3), (3, 3, 9, 3)), (64, 64, 96), _TABLE_10),
    ),
    "resnet200": Roadmap(
        "resnet200",
        "ResNet-200 → ConvNeXt-B",
        RESNET200,
        RESNET,
        Published(78.20, None, 15.01),
        _steps("resnet200", ((3, 24, 36, 3), (3, 3, 27, 3)), (64, 84, 128), _TABLE_11),
    ),
}

assert ROADMAPS["resnet50"].rows[-1].design == CONVNEXT_TINY


def roadmap(regime: str = "resnet50") -> Roadmap:
    """One of the paper's roadmaps by the name of its starting point: ``resnet50`` or ``resnet200``.

    Raises:
        KeyError: an unknown regime; the message lists the known ones.
    """
    if regime not in ROADMAPS:
        raise KeyError(f"no roadmap {regime!r}; there are {', '.join(ROADMAPS)}")
    return ROADMAPS[regime]
