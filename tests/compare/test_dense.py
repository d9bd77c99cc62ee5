"""Comparisons of detectors and segmenters: counts are the paper's heads', and every network trains and infers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nextify.cli import main
from nextify.compare.dense import Measured, published
from nextify.compare.entries import build, find, network
from nextify.compare.measure import Comparison, count
from nextify.compare.results import Results
from nextify.compare.settings import Settings
from nextify.evaluation import profiling
from nextify.evaluation.profiling import Conditions
from nextify.networks.dense.cost import dense_cost
from nextify.networks.dense.design import Head
from nextify.networks.zoo import find_design

GIVEN = Conditions()


def counted(models: tuple[str, ...], sizes: tuple[int, ...], head: Head) -> Comparison:
    return count(Settings(models, sizes, GIVEN, 1, (1,), 1, 1, head=head))


@pytest.mark.parametrize("head", ["fcos", "fpn", pytest.param("mask_rcnn", marks=pytest.mark.slow)])
def test_counts_are_those_of_the_published_head(head: Head) -> None:
    design, classes = find_design("convnext_atto"), 150 if head == "fpn" else 80
    (cell,) = counted(("convnext_atto",), (64,), head).cells
    assert cell.counts is not None, cell.problems
    assert cell.counts.macs == dense_cost(published(design, head), classes, 64, 64)
    assert cell.counts.attention_macs == 0


def test_attention_grows_with_the_square_of_the_pixels_under_a_detector() -> None:
    small, large = counted(("timm:deit_tiny_patch16_224",), (128, 256), "fcos").cells
    assert small.counts is not None, small.problems
    assert large.counts is not None, large.problems
    assert 15 < large.counts.attention_macs / small.counts.attention_macs < 17
    assert small.entry.published is None, "the paper's figures are of classifiers"


NETWORKS = ("convnext_atto", pytest.param("timm:test_vit", marks=pytest.mark.slow))


@pytest.mark.parametrize("head", ["fcos", "fpn", pytest.param("mask_rcnn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_infers_and_trains(name: str, head: Head) -> None:
    model = build(find(name), 64, None, None, head)
    assert isinstance(model, Measured)
    images = profiling.random_images(2, 64, GIVEN)
    profiling.inference(model, images, GIVEN)()
    before = {key: value.clone() for key, value in model.named_parameters()}
    profiling.training(model, images, GIVEN)()
    assert all(torch.equal(before[key], value) for key, value in model.named_parameters()), "a rate of 0"
    losses = model(images)
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())


def test_the_head_is_the_published_one_at_every_size() -> None:
    design = network(find("convnext_atto"), 64)
    assert published(design, "fcos").width == 256
    assert published(design, "upernet").width == 512


def test_counts_only_from_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--task", "detection", "--counts", "--sizes", "64", "128", "--out", str(tmp_path)]
    assert main(["compare", "convnext_atto", *options]) == 0
    assert "fcos head" in capsys.readouterr().out
    content = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert content["settings"]["head"] == "fcos"
    results = Results.from_dict(content)
    assert results.run.settings.head == "fcos"
    assert not results.candidates()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--task", "detection", "--data", "scenes"], "compare --task measures costs and no accuracy"),
        (["--task", "detection", "--budget", "macs<5G"], "leave --data and --budget out"),
        (["--task", "detection", "--head", "fpn"], "--head fpn is for another task than detection"),
        (["--head", "fcos"], "give --task detection or segmentation too"),
        (["--task", "segmentation", "--sizes", "100"], "the --sizes of --task segmentation must be multiples of 32"),
    ],
)
def test_bad_options_are_one_clear_line(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *options]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
