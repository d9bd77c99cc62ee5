"""The plan of a study: the rows of a roadmap at one scale, fitted to one data set, for each seed. No torch here.

For boxes and masks every row is the backbone of the same head; the recipes are detection's or segmentation's.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from nextify.fitting.fit import Change, Facts, fit_design, fit_recipe
from nextify.fitting.scale import Scale
from nextify.networks.dense.design import DEFAULT_HEADS, DenseDesign, Head, fitted_head
from nextify.paper.design import Design, stem_stride
from nextify.paper.recipe import DENSE_ROADMAPS, Recipe
from nextify.paper.roadmap import Roadmap, Row
from nextify.system.text import several
from nextify.training.trial import Data, Trial


class PlanError(ValueError):
    """Options from which no study can be made; the message names the remedy."""


@dataclass(frozen=True)
class PlannedRow:
    """A row of the roadmap as this study trains it."""

    row: Row
    design: Design | DenseDesign
    recipe: Recipe
    compared_with: str | None
    """The row the change is measured against; None for the first, and where that row is not part of the study."""


@dataclass(frozen=True)
class PlannedTrial:
    step: str
    trial: Trial
    name: str = ""
    """Of the design, for the bundle."""

    @cached_property
    def folder(self) -> str:
        """Name of the trial's folder in the study's store."""
        return f"{self.step}-seed{self.trial.seed}-{self.trial.fingerprint}"


@dataclass(frozen=True)
class Plan:
    roadmap: Roadmap
    scale: Scale
    data: Data
    rows: tuple[PlannedRow, ...]
    trials: tuple[PlannedTrial, ...]
    """Seed by seed, so that a table of one seed stands first."""
    original: Recipe
    modern: Recipe
    notes: tuple[str, ...]
    """What fitting changed and why, a sentence each."""
    head: Head | None = None
    """Of detectors and segmenters."""

    @property
    def seeds(self) -> dict[str, int]:
        """How many seeds each row has."""
        return Counter(planned.step for planned in self.trials)

    def with_seeds(self, seeds: Mapping[str, int]) -> Self:
        """The same rows, each with its own number of seeds, from 0 on."""
        every = range(max(seeds.values()))
        rows = (p for seed in every for p in _of_seed(self.roadmap, self.rows, self.data, seed))
        return replace(self, trials=tuple(p for p in rows if p.trial.seed < seeds[p.step]))


def make_plan(
    roadmap: Roadmap,
    scale: Scale,
    facts: Facts,
    data: Data,
    *,
    seeds: int | tuple[int, ...],
    epochs: int | None = None,
    explore: bool = False,
    steps: str | tuple[str, ...] = (),
    precision: str = "fp32",
    head: Head | None = None,
) -> Plan:
    """Plan the trials of a study.

    Args:
        facts: of the data set, for fitting.
        seeds: one or several; every row is trained with each.
        epochs: of the paper's recipe; the original recipe keeps its 90 : 300 of them. None takes the scale's.
        explore: also the steps that the paper tried and did not adopt.
        steps: name or names of the rows to train; none named takes all.
        head: of detectors and segmenters; None takes the light one of the task.

    Raises:
        PlanError: no seed, an unknown or repeated step, or images too small for the scale.
    """
    seeds, steps = several(seeds), several(steps)
    if not seeds:
        raise PlanError("a study needs at least one seed: give --seeds 1 or more")
    rows = _chosen(roadmap, explore, steps)
    modern_source, original_source, canvas = roadmap.rows[-1].recipe, roadmap.recipe, data.canvas
    default = scale.epochs if canvas is None else scale.epochs_of_dense(facts.train_images)
    modern_epochs = default if epochs is None else epochs
    original_epochs = max(1, round(modern_epochs * original_source.epochs / modern_source.epochs))
    size = data.image_size if canvas is None else min(canvas)
    if canvas is not None:
        original_source, modern_source = DENSE_ROADMAPS[data.task]
        head = head or DEFAULT_HEADS[data.task]
    modern, modern_changes = fit_recipe(modern_source, facts, image_size=size, epochs=modern_epochs)
    original, original_changes = fit_recipe(original_source, facts, image_size=size, epochs=original_epochs)
    modern, original = modern.with_(precision=precision), original.with_(precision=precision)

    planned: list[PlannedRow] = []
    design_changes: dict[str, Change] = {}
    trained = {row.name for row in rows}
    for row in rows:
        recipe = original if row.recipe == roadmap.recipe else modern
        training_steps = recipe.epochs * (facts.train_images // recipe.batch_size)
        shrunk = scale.shrink(row.design)
        if canvas is not None:  # smaller stems are for images of a few pixels, where no stride of 32 has a place
            shrunk = shrunk.with_(stem=row.design.stem)
        if size < stem_stride(shrunk.stem):
            raise PlanError(f"images of {size} pixels are too small for scale {scale.name}; take a smaller scale")
        design, changes = fit_design(shrunk, image_size=size, steps=training_steps)
        design_changes |= {str(change): change for change in changes}
        whole = design if canvas is None or head is None else fitted_head(design, head, canvas)
        planned.append(PlannedRow(row, whole, recipe, _reference(roadmap, row, trained)))

    summary = scale.summary if canvas is None else scale.summary_of_backbones
    notes = [f"scale {scale.name}: {summary}"] if scale.name != "full" else []
    notes += [f"original recipe, {change}" for change in original_changes]
    notes += [f"paper's recipe, {change}" for change in modern_changes]
    notes += [f"design, {change}" for change in design_changes]
    notes += [
        f"{b.row.title} trains the same network as {a.row.title} here"
        for a, b in itertools.pairwise(planned)
        if a.design == b.design and a.recipe == b.recipe
    ]
    trials = tuple(trial for seed in seeds for trial in _of_seed(roadmap, planned, data, seed))
    return Plan(roadmap, scale, data, tuple(planned), trials, original, modern, tuple(notes), head)


def _of_seed(roadmap: Roadmap, rows: Sequence[PlannedRow], data: Data, seed: int) -> Iterator[PlannedTrial]:
    for p in rows:
        yield PlannedTrial(p.row.name, Trial(p.design, p.recipe, data, seed), f"{roadmap.name}_{p.row.name}")


def _chosen(roadmap: Roadmap, explore: bool, steps: tuple[str, ...]) -> list[Row]:
    rows = [row for row in roadmap.rows if explore or steps or row.adopted]
    if not steps:
        return rows
    known = [row.name for row in roadmap.rows]
    if unknown := [step for step in steps if step not in known]:
        raise PlanError(f"no step {', '.join(map(repr, unknown))}; the steps are {', '.join(known)}")
    return [row for row in rows if row.name in steps]


def _reference(roadmap: Roadmap, row: Row, trained: set[str]) -> str | None:
    """Return the nearest earlier row that this study trains."""
    name = row.compared_with
    while name is not None and name not in trained:
        name = roadmap[name].compared_with
    return name
