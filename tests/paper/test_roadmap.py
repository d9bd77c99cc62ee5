"""The roadmaps against the paper's tables, and what a step promises."""

from __future__ import annotations

from typing import Any

import pytest

import nextify
from nextify.paper.design import CONVNEXT_TINY, DESIGNS, RESNET50
from nextify.paper.recipe import CONVNEXT, RESNET
from nextify.paper.roadmap import ROADMAPS, STEP_NAMES, StepError
from tests.paper.published import PAPER

ROWS = [(regime, index) for regime in ROADMAPS for index in range(17)]
PRINTED_OTHERWISE = {("resnet50", "layer_norm"): 4.46, ("resnet50", "separate_downsampling"): 4.49}
"""Published GFLOPs that the layers do not make: docs/design.md, "Two published costs"."""


@pytest.mark.parametrize(("regime", "index"), ROWS)
def test_every_row_has_the_papers_figures_and_cost(regime: str, index: int) -> None:
    row, paper = nextify.roadmap(regime)[index], PAPER[regime][index]
    assert row.name == paper["step"]
    assert (row.published.top1, row.published.std, row.published.gflops) == (
        paper["top1"],
        paper["std"],
        paper["gflops"],
    )
    assert nextify.macs(row.design) == paper["macs"]
    printed = PRINTED_OTHERWISE.get((regime, row.name), round(paper["macs"] / 1e9, 2))
    assert row.published.gflops == printed


@pytest.mark.parametrize("regime", ROADMAPS)
def test_rows_come_in_the_papers_order(regime: str) -> None:
    roadmap = nextify.roadmap(regime)
    rows = list(roadmap)
    assert len(roadmap) == len(rows) == 17
    assert tuple(row.name for row in rows) == STEP_NAMES
    assert [row.name for row in rows if not row.adopted] == ["kernel_5", "kernel_9", "kernel_11"]
    assert rows[0].design == DESIGNS[regime]
    assert rows[-1].design == DESIGNS[{"resnet50": "convnext_tiny", "resnet200": "convnext_base"}[regime]]
    assert rows[0].recipe == RESNET
    assert all(row.recipe == CONVNEXT for row in rows[1:])


@pytest.mark.parametrize("regime", ROADMAPS)
def test_each_row_is_its_step_applied_to_the_row_it_is_compared_with(regime: str) -> None:
    roadmap = nextify.roadmap(regime)
    for row, step in zip(roadmap.rows[1:], roadmap.steps, strict=True):
        assert row.compared_with is not None
        before = roadmap[row.compared_with]
        assert before.adopted
        assert step.apply(before.design, before.recipe) == (row.design, row.recipe)
        assert row.published_change == pytest.approx(row.published.top1 - before.published.top1, abs=1e-9)
        assert set(before.design.differences(row.design)) == set(step.after)


def test_kernel_sizes_are_alternatives_and_the_next_step_builds_on_the_adopted_one() -> None:
    roadmap = nextify.roadmap("resnet50")
    assert {roadmap[f"kernel_{k}"].compared_with for k in (5, 7, 9, 11)} == {"move_up"}
    assert roadmap["gelu"].compared_with == "kernel_7"
    assert roadmap["gelu"].design.kernel_size == 7


@pytest.mark.parametrize("step", ROADMAPS["resnet50"].steps, ids=lambda step: step.name)
def test_applying_a_step_twice_is_an_error(step: Any) -> None:
    row = nextify.roadmap("resnet50")[step.name]
    with pytest.raises(StepError, match=f"step {step.name} (expects|changes nothing)"):
        step.apply(row.design, row.recipe)


def test_a_step_refuses_a_design_it_does_not_expect() -> None:
    width = next(step for step in ROADMAPS["resnet50"].steps if step.name == "width")
    with pytest.raises(StepError, match=r"expects widths=\(64, .*apply the steps before it first"):
        width.apply(CONVNEXT_TINY, CONVNEXT)
    gelu = next(step for step in ROADMAPS["resnet50"].steps if step.name == "gelu")
    assert gelu.apply(RESNET50, RESNET)[0] == RESNET50.with_(activation="gelu")


def test_slices_are_rows() -> None:
    roadmap = nextify.roadmap("resnet50")
    assert roadmap[:2] == roadmap.rows[:2]
    assert roadmap[-1] == roadmap.rows[-1]


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(KeyError, match="there are resnet50, resnet200"):
        nextify.roadmap("resnet18")
    with pytest.raises(KeyError, match="patchify"):
        nextify.roadmap("resnet50")["patchfy"]
