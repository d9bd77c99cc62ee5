"""Comparing families: the counts against the paper's tables, planning, growth, failures on the way, what is written."""

from __future__ import annotations

import csv
import io
import json
import math
import multiprocessing
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from torch import nn
from torch._dynamo.exc import InternalTorchDynamoError

import nextify
from nextify.cli import main
from nextify.cli.compare import Options
from nextify.compare import measure as measuring
from nextify.compare import memory
from nextify.compare.entries import LINE_UP, build, find, find_all
from nextify.compare.figures import figures
from nextify.compare.findings import findings
from nextify.compare.folder import request
from nextify.compare.growth import fit
from nextify.compare.measure import Cell, Comparison, count, measure, probe
from nextify.compare.memory import Memory, Processes, out_of_memory
from nextify.compare.page import to_json, write
from nextify.compare.ratios import ratio, reference
from nextify.compare.results import Results, collect
from nextify.compare.settings import (
    CALL_ON_GPU,
    FEWEST_ROUNDS,
    MOST_ROUNDS,
    ON_CPU,
    PASSES,
    PASSES_KEPT,
    SHORTEST_TIMED,
    VISITS,
    WANTED_ROUNDS,
    Settings,
    fit_batches,
    plan,
)
from nextify.compare.tables import COSTS, TABLE_12, csv_text, markdown_counts, terminal
from nextify.evaluation.profiling import Conditions, inference, random_images, training
from nextify.evaluation.profiling import count as count_model
from nextify.networks.zoo import UnknownModel, find_design
from nextify.paper.published import published_model
from tests.helpers import tiny_bundle


def on_meta(name: str, size: int = 224) -> nn.Module:
    with torch.device("meta"):
        return build(find(name), size)


@pytest.fixture(autouse=True, scope="module")
def _no_collection() -> Iterator[None]:
    """The tiny networks here leave little garbage, and each collection goes through all of torch's objects."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring.gc, "collect", lambda *generation: 0)
        yield


# --- counts ---------------------------------------------------------------------------------------------------------

PAPER_224 = (
    "timm:swin_tiny_patch4_window7_224",
    "timm:swin_small_patch4_window7_224",
    "timm:swin_base_patch4_window7_224",
    "timm:deit_small_patch16_224",
    "timm:deit_base_patch16_224",
    "timm:vit_small_patch16_224",
    "timm:vit_base_patch16_224",
    "timm:vit_large_patch16_224",
    "resnet50",
    "timm:resnet50",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "convnext_large",
    "convnext_xlarge",
    "convnext_isotropic_small",
    "convnext_isotropic_base",
    "convnext_isotropic_large",
)


PAPER_SAMPLE = {
    "timm:swin_tiny_patch4_window7_224",
    "timm:deit_small_patch16_224",
    "timm:vit_base_patch16_224",
    "resnet50",
    "timm:resnet50",
    "convnext_tiny",
    "convnext_isotropic_small",
}
"""One of each family and library; the larger ones are built likewise."""


def rounds_to(value: float, printed: float) -> bool:
    """Whether a value, rounded to the places of a printed figure (or cut off there), is that figure."""
    places = len(f"{printed:g}".partition(".")[2])
    return printed in (round(value, places), math.floor(value * 10**places) / 10**places)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in PAPER_SAMPLE else pytest.mark.slow) for name in PAPER_224]
)
def test_counts_are_the_papers(name: str) -> None:
    found, paper = count_model(on_meta(name), 224), published_model(name)
    assert paper is not None
    assert paper.gflops is not None
    gmacs, millions = found.macs / 1e9, found.parameters / 1e6
    # Printed to one decimal, 4.46 is "4.5": either within 1 %, or equal at the places that are printed.
    assert abs(gmacs / paper.gflops - 1) < 0.01 or rounds_to(gmacs, paper.gflops)
    if paper.parameters_millions is not None:
        assert abs(millions / paper.parameters_millions - 1) < 0.01 or rounds_to(millions, paper.parameters_millions)


@pytest.mark.parametrize(
    "name",
    [
        "convnext_base",
        pytest.param("timm:swin_base_patch4_window12_384", marks=pytest.mark.slow),
        pytest.param("convnext_large", marks=pytest.mark.slow),
        pytest.param("convnext_xlarge", marks=pytest.mark.slow),
    ],
)
def test_counts_at_384_are_the_papers(name: str) -> None:
    paper = published_model(name)
    assert paper is not None
    assert count_model(on_meta(name, 384), 384).macs / 1e9 == pytest.approx(paper.gflops_384, rel=0.01)


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "convnext_isotropic_small", "convnextv2_atto"])
def test_the_count_is_the_layouts(name: str) -> None:
    """Two independent counts: by running on the meta device, and from the layers as data."""
    found, price = count_model(on_meta(name), 160), nextify.cost(find_design(name), 160)
    assert (found.parameters, found.macs, found.activations) == (price.parameters, price.macs, price.activations)
    assert found.attention_macs == 0


def test_attention_by_hand() -> None:
    # Per layer: queries times keys and weights times values, tokens² · width each.
    found = count_model(on_meta("timm:deit_small_patch16_224"), 224)
    tokens, width, depth = 14 * 14 + 1, 384, 12
    assert found.attention_macs == 2 * depth * tokens**2 * width
    linear = depth * tokens * width * width * (3 + 1 + 8)
    assert found.macs == found.attention_macs + linear + 196 * 768 * width + width * 1000


def test_fused_attention_is_counted_like_unfused() -> None:
    model = on_meta("timm:deit_small_patch16_224")
    fused = count_model(model, 224)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    assert count_model(model, 224) == fused


def test_a_product_with_a_folded_weight_is_no_attention() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(8, 3, device="meta"))
            self.scale = nn.Parameter(torch.empty(8, 1, device="meta"))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x.flatten(2).transpose(1, 2), self.scale * self.weight)

    found = count_model(Folded(), 4)
    assert (found.macs, found.attention_macs, found.activations) == (16 * 3 * 8, 0, 16 * 8)


# --- entries --------------------------------------------------------------------------------------------------------


def test_fixed_sizes_are_rebuilt() -> None:
    vit = on_meta("timm:deit_small_patch16_224", 384)
    assert vit.get_parameter("pos_embed").shape[1] == 24 * 24 + 1
    assert count_model(vit, 384).attention_share > 0.19


def test_the_line_up_is_known() -> None:
    families = [find(name).family for name in LINE_UP]
    assert families == ["ResNet", "ViT", "Swin", "ConvNeXt", "isotropic ConvNeXt"]
    assert all(find(name).published is not None for name in LINE_UP)


def test_alike_labels_keep_their_names() -> None:
    assert [e.model for e in find_all(["convnext_tiny", "timm:convnext_tiny"])] == [
        "convnext_tiny",
        "timm:convnext_tiny",
    ]
    assert [e.model for e in find_all(["timm:vit_tiny_patch16_224.augreg_in21k"])] == ["vit_tiny_patch16"]


@pytest.mark.parametrize(
    ("name", "near"),
    [("timm:swin_tiny_patch4", "timm:swin_tiny_patch4_window7_224"), ("convnext_tin", "convnext_tiny")],
)
def test_unknown_names_suggest(name: str, near: str) -> None:
    with pytest.raises(UnknownModel, match=near):
        find(name)


def test_a_bundle_is_compared_by_its_path(tmp_path: Path) -> None:
    from nextify.weights import About, save_bundle

    design = find_design("convnext_tiny").with_(depths=(1, 1, 1, 1), widths=(4, 8, 8, 8))
    model = nextify.create_model(design, 10)
    path = save_bundle(tmp_path / "mine", model.state_dict(), About(design, 10, name="convnext_tiny"))
    entry = find(str(path))
    assert (entry.model, entry.family) == ("mine", "ConvNeXt")
    assert count_model(on_meta(str(path), 64), 64).parameters == nextify.parameters(design, 10)


# --- planning, growth, small things ---------------------------------------------------------------------------------


def settings(**changes: Any) -> Settings:
    given: dict[str, Any] = {
        "models": ("convnextv2_atto",),
        "sizes": (32, 64),
        "conditions": Conditions(),
        "threads": 1,
        "batch_sizes": (1, 2),
        "training_batch_size": 2,
        "calls": 2,
    }
    return Settings(**(given | changes))


def test_the_rounds_fill_the_minutes() -> None:
    few, many = (plan(settings(minutes=m), {32: [0.2] * 2, 64: [0.2] * 2}) for m in (1.5, 15))
    assert FEWEST_ROUNDS <= min(few.rounds.values()) < min(many.rounds.values()) <= MOST_ROUNDS
    assert not few.over_budget
    assert few.seconds <= 90
    slow = plan(settings(minutes=1), {32: [20.0]})
    assert (slow.rounds, slow.over_budget) == ({32: FEWEST_ROUNDS}, True)
    assert plan(settings(rounds=7, minutes=1), {32: [20.0], 64: [1.0]}).rounds == {32: 7, 64: 7}


@pytest.mark.parametrize("fits", [True, False])
def test_networks_of_all_sizes_stay_in_memory_where_they_fit(fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    builds: list[int] = []
    real = measuring.built

    def built(cell: Any, settings: Settings) -> Any:
        builds.append(cell.image_size)
        return real(cell, settings)

    def memory(cell: Any, settings: Settings, processes: Any) -> None:
        cell.memory = Memory(0.0, 1.0, 1.0)

    monkeypatch.setattr(measuring, "built", built)
    monkeypatch.setattr(measuring, "_measure_memory", memory)
    monkeypatch.setattr(measuring, "_free_bytes", lambda settings: 2**40 if fits else 2**20)
    monkeypatch.setattr(measuring, "SHORTEST_TIMED", 0.002)
    found = count(settings(models=("timm:test_vit",), rounds=2))
    probe(found)
    assert found.settings.keeps is fits
    builds.clear()
    measure(found, lambda words, share: None)
    assert builds == [32, 64] * (1 if fits else 2)
    assert all(len(cell.training) == len(cell.latency) == 2 for cell in found.cells)


def test_short_rounds_are_more_than_long_ones() -> None:
    made = plan(settings(minutes=15), {32: [0.3] * 2, 64: [1.0] * 2})
    assert WANTED_ROUNDS <= made.rounds[64] < made.rounds[32]
    assert 0.8 * 900 < made.seconds <= 0.9 * 900


@pytest.mark.parametrize(("keeps", "passes"), [(False, PASSES), (True, PASSES_KEPT)])
def test_a_slower_machine_than_expected_gets_fewer_rounds(
    keeps: bool, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, given = [0.0], settings(minutes=10, keeps=keeps)
    sizes: list[tuple[int, int]] = []
    found = count(given)
    for cell in found.cells:
        cell.image_seconds = 1.0
    found.plan = planned = plan(given, {size: [1.0] for size in given.sizes})

    def warm(cells: Any, settings: Settings, ledger: Any) -> Any:
        spent = settings.warming_seconds(1.0)
        ledger.done(spent)
        clock[0] += 1.3 * spent
        return cells

    def time_passes(cells: Any, settings: Settings, rounds: int, ledger: Any) -> None:
        spent = rounds * (settings.inference_seconds(1.0) + settings.training_seconds(1.0))
        sizes.append((cells[0].image_size, rounds))
        ledger.done(spent)
        clock[0] += 1.3 * spent

    def memory(cell: Any, settings: Settings, processes: Any) -> None:
        cell.memory = Memory(0.0, 1.0, 1.0)
        clock[0] += 1.3 * settings.memory_seconds(1.0)

    monkeypatch.setattr(measuring, "_Runners", warm)
    monkeypatch.setattr(measuring, "_time", time_passes)
    monkeypatch.setattr(measuring, "_measure_memory", memory)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    measure(found, lambda words, share: None)
    assert [size for size, _ in sizes] == [32, 64] * passes
    for size in given.sizes:
        assert FEWEST_ROUNDS < found.plan.rounds[size] < planned.rounds[size]
        assert found.plan.rounds[size] == sum(n for at, n in sizes if at == size)
    assert 500 < clock[0] <= 600


@pytest.mark.parametrize(
    ("giga", "training", "fewest"),
    [(220, 4, WANTED_ROUNDS), (120, 2, WANTED_ROUNDS), (70, 1, WANTED_ROUNDS), (60, 1, 14), (40, 1, 7)],
)
def test_the_default_line_up_is_planned_within_fifteen_minutes(giga: float, training: int, fewest: int) -> None:
    """4.5 G multiply-adds at 224², growing as pixels^1.1, on processors of so many G a second."""
    images = {size: [4.5 / giga * (size / 224) ** 2.2] * len(LINE_UP) for size in (224, 288, 384, 512)}
    fitted = fit_batches(settings(calls=1), images, ON_CPU)
    made = plan(fitted, images)
    assert fitted.training_batch_size == training
    assert min(made.rounds.values()) >= fewest
    assert not made.over_budget


@pytest.mark.parametrize(
    "changes",
    [{"models": ()}, {"sizes": (0,)}, {"rounds": 0}, {"minutes": 0}, {"conditions": Conditions(precision="tf32")}],
)
def test_impossible_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|tf32"):
        settings(**changes)


def test_exponents() -> None:
    pixels = [224**2, 288**2, 384**2, 512**2]
    linear, quadratic = fit(pixels, [3 * p for p in pixels]), fit(pixels, [p * p for p in pixels])
    assert linear is not None
    assert quadratic is not None
    assert (linear.exponent, quadratic.exponent) == (pytest.approx(1), pytest.approx(2))
    assert linear.standard_error == pytest.approx(0, abs=1e-9)
    bent = fit(pixels, [p * (1.1 if i % 2 else 1.0) for i, p in enumerate(pixels)])
    assert bent is not None
    # numpy's fit of the same points, with its covariance, as an independent reference.
    import numpy as np

    x = np.log(pixels)
    y = np.log([p * (1.1 if i % 2 else 1.0) for i, p in enumerate(pixels)])
    slope, covariance = np.polyfit(x, y, 1, cov=True)
    assert bent.exponent == pytest.approx(slope[0])
    assert bent.standard_error == pytest.approx(math.sqrt(covariance[0, 0]))
    two = fit(pixels[:2], pixels[:2])
    assert two is not None
    assert two.standard_error is None
    assert fit(pixels[:1], [1.0]) is None
    assert fit(pixels[:2], [1.0, 0.0]) is None


def test_a_training_step_leaves_the_weights() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    before = model[1].weight.clone()
    images = random_images(2, 4, Conditions())
    training(model, images, Conditions())()
    assert model.training
    assert torch.equal(model[1].weight, before)
    inference(model, images, Conditions(precision="bf16"))()
    assert not model.training


def test_memory_of_a_process_that_was_ended() -> None:
    reported = {"start": 104857600, "inference": 209715200, "doing": "training"}
    ended = Memory.of(reported, "does not fit memory (the system ended the process)")
    assert (ended.start, ended.inference, ended.training) == (100, 100, None)
    assert ended.problem == "training: does not fit memory (the system ended the process)"
    assert Memory.of({}, "exit code 1") == Memory(problem="starting: exit code 1")


def test_what_counts_as_out_of_memory() -> None:
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"))
    assert not out_of_memory(RuntimeError("shapes do not match"))


# --- a whole comparison, of tiny networks ---------------------------------------------------------------------------

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TINY = ("convnextv2_atto", "timm:test_vit")


@pytest.fixture(scope="module")
def results() -> Results:
    """Two tiny networks at three sizes; the memory processes are left out, and one does not fit at 96²."""
    patch = pytest.MonkeyPatch()

    def memory(processes: Any, entry: Any, size: int, given: Settings) -> Memory:
        if entry.model == "test_vit" and size == 96:
            return Memory(400.0, None, None, "inference: does not fit memory")
        return Memory(400.0, 10.0 * size, 20.0 * size)

    patch.setattr(measuring.Processes, "measure", memory)
    patch.setattr(measuring, "SHORTEST_TIMED", 0.002)
    said: list[tuple[str, float]] = []
    found = count(settings(models=TINY, sizes=(32, 64, 96), rounds=2))
    measure(found, lambda words, share: said.append((words, share)))
    patch.undo()
    assert found.complete
    shares = [share for _, share in said]
    assert shares == sorted(shares)
    assert shares[-1] > 0.9
    return collect(found, "nextify compare", NOW, NOW, {"cpu": "a", "torch": "2", "load_average_start": 0.0})


@pytest.fixture(scope="module")
def compared(results: Results) -> dict[str, Any]:
    """What is written to results.json."""
    return to_json(results)


def row(found: dict[str, Any], model: str, size: int) -> dict[str, Any]:
    return next(r for r in found["rows"] if (r["model"], r["image_size"]) == (model, size))


def test_every_figure_is_there(compared: dict[str, Any]) -> None:
    found = row(compared, "convnextv2_atto", 64)
    assert found["status"] == "measured"
    assert found["latency_calls"] == 2 * VISITS * 2  # rounds, visits, calls
    assert 0 < found["latency_ms_p50"] <= found["latency_ms_p95"] <= found["latency_ms_p99"]
    assert [s["batch_size"] for s in found["throughput"]] == [1, 2]
    assert all(s["n"] == 2 and s["low"] <= s["images_per_second"] <= s["high"] for s in found["throughput"])
    assert found["training"]["batch_size"] == 2
    assert found["training_mib"] == 1280


def test_what_does_not_fit_is_recorded_and_the_rest_goes_on(compared: dict[str, Any]) -> None:
    found = row(compared, "test_vit", 96)
    assert (found["status"], found["latency_ms_p50"]) == ("does not fit memory", None)
    assert found["macs"] > 0
    assert row(compared, "convnextv2_atto", 96)["status"] == "measured"
    assert any("test_vit at 96²: inference: does not fit memory" in line for line in compared["findings"])


def test_ratios_are_paired_by_round(compared: dict[str, Any]) -> None:
    found = next(r for r in compared["ratios"] if (r["image_size"], r["what"], r["batch_size"]) == (64, "inference", 2))
    ours, theirs = (row(compared, name, 64)["throughput"][1]["rounds"] for name in ("convnextv2_atto", "test_vit"))
    assert found["n"] == 2
    assert [found["low"], found["high"]] == sorted(t / o for t, o in zip(theirs, ours, strict=True))


def test_growth_of_the_counts(compared: dict[str, Any]) -> None:
    found = {(g["model"], g["quantity"]): g for g in compared["growth"]}
    assert found["convnextv2_atto", "macs"]["exponent"] == pytest.approx(1, abs=0.02)
    assert found["test_vit", "attention_macs"]["exponent"] > 1.7  # a class token keeps it below 2
    assert ("convnextv2_atto", "attention_macs") not in found


def test_what_is_written(results: Results, compared: dict[str, Any], tmp_path: Path) -> None:
    written = write(results, tmp_path)
    assert {p.name for p in written} == {p.name for p in tmp_path.iterdir()}
    assert json.loads((tmp_path / "results.json").read_text()) == compared
    lines = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert list(lines[0]) == [column.key for column in COSTS if column.key]
    assert len(lines) == 3 * 3 + 2 * 3 + 1
    training = [r for r in lines if r["what"] == "training" and r["model"] == "convnextv2_atto"]
    assert [float(r["images_per_second"]) > 0 for r in training] == [True] * 3
    for drawing in tmp_path.glob("*.svg"):
        ET.parse(drawing)
    page = (tmp_path / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert "does not fit memory" in page


def test_what_is_written_is_read_again(results: Results, compared: dict[str, Any]) -> None:
    assert Results.from_dict(compared) == results
    older = {**compared, "schema": 1, "ratios": [{**r, "ratio": 0.0} for r in compared["ratios"]]}
    del older["table_12"]
    assert to_json(Results.from_dict(older))["ratios"] == compared["ratios"]


def test_the_tables_fit_a_terminal(results: Results) -> None:
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    for part in terminal(results):
        console.print(part)
    shown = console.export_text()
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_figures_of_an_interrupted_comparison() -> None:
    found = count(settings(models=TINY))
    partial = collect(found, "", NOW, NOW, {})
    assert to_json(partial)["settings"]["complete"] is False
    assert {"growth", "accuracy-flops"} == set(figures(partial))
    assert csv_text(partial).count("\n") == 1 + 4


def test_counts_of_small_networks_have_three_digits() -> None:
    found = count(settings(models=("convnext_tiny", "convnext_tiny@tiny"), sizes=(224,)))
    large, small = markdown_counts(collect(found, "", NOW, NOW, {})).splitlines()[2:]
    assert "| 28.59M |" in large
    assert "| 4.46G |" in large
    assert re.search(r"\| \d{3}k \|.*\| \d{3}M \|", small)


def test_the_reference_is_a_convnext() -> None:
    assert reference(["resnet50", "convnext_small", "convnext_tiny"]) == "convnext_tiny"
    assert reference(["resnet50", "convnext_small"]) == "convnext_small"
    assert reference(["resnet50", "swin"]) == "resnet50"


def test_counts_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("convnext_tiny", "timm:swin_tiny_patch4_window7_224", "--counts", "--json", "--sizes", "224", "7")
    assert main(["compare", *arguments]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert row(found, "convnext_tiny", 224)["macs"] == nextify.macs(find_design("convnext_tiny"))
    assert row(found, "convnext_tiny", 7)["status"] == "cannot be built"
    assert "cannot be built at 7×7" in captured.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "compare"),
        (["--minutes", "3"], "compare"),
        (["--task", "detection"], "compare-detection"),
        (["--data", "images/cifar10", "--scale", "tiny", "--precision", "bf16"], "compare-cifar10-tiny-bf16"),
        (["runs/a/latest", "timm:test_vit", "--sizes", "64", "96"], "compare-64-96-a-latest-timm-test_vit"),
    ],
)
def test_the_default_folder_is_named_by_what_is_compared(arguments: list[str], name: str) -> None:
    assert tyro.cli(Options, args=arguments).folder == Path("runs") / name


def test_no_comparison_replaces_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["compare", "convnext_atto", "--counts", "--sizes", "64", "--out", str(tmp_path)]
    assert main(own) == 0
    for name in ("accuracy.csv", "growth.svg", "growth.png", "notes.txt"):  # of earlier runs, and the user's own
        (tmp_path / name).write_text("earlier")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert main(["compare", "convnext_femto", "--counts", "--sizes", "96", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "holds another comparison (not the same models and sizes), whose results would be lost: choose ano" in said
    assert said.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert main(own) == 0
    assert {path.name for path in tmp_path.iterdir()} == before.keys() - {"accuracy.csv", "growth.svg", "growth.png"}
    (tmp_path / "results.json").write_text('{"study": {}}')
    assert main(own) == 1
    assert "results.json is not of this comparison and would be replaced" in capsys.readouterr().err


def test_another_training_of_a_bundle_is_another_comparison(tmp_path: Path) -> None:
    def asked(seed: int) -> dict[str, Any]:
        bundle = tiny_bundle(tmp_path / "bundle", ("a", "b"), 8, 1.0, seed=seed)
        return request(settings(models=(str(bundle),)), None, 1, False, "convnext", {})

    first = asked(0)
    assert asked(0) == first == json.loads(json.dumps(first))
    assert [name for name, value in asked(1).items() if value != first[name]] == ["models"]


def test_unknown_models_are_refused_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "timm:swin_tinny_patch4_window7_224"]) == 2
    assert "did you mean timm:swin_tiny_patch4_window7_224" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_memory_in_a_process_of_its_own(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "worker_context", lambda *modules: multiprocessing.get_context(method))
    given = settings(batch_sizes=(4,), training_batch_size=4)
    with Processes() as processes:
        late = processes.measure(find("convnextv2_atto"), 64, given, timeout=0.0)
        assert late.problem == "starting: took longer than 0 s"
        wrong = processes.measure(replace(find("convnextv2_atto"), name="no_such"), 64, given)
        assert wrong.problem is not None
        assert "no_such" in wrong.problem
        small, large = (processes.measure(find("convnextv2_atto"), size, given) for size in (64, 192))
    assert small.problem is None
    assert large.inference is not None
    assert small.training is not None
    assert large.training is not None
    assert large.training > large.inference
    assert large.training > 1.5 * small.training


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc there")
def test_the_peak_is_of_the_process_itself() -> None:
    """And not of the one that started it, which ``getrusage`` goes on from."""
    code = "from nextify.system.environment import resident_bytes; print(*resident_bytes())"
    large = np.ones(2**27, np.uint8)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    now, most = map(int, done.stdout.split())
    assert now <= most < large.nbytes


def test_ratios_lean_on_the_fastest_rounds() -> None:
    assert ratio([2.0] * 5, [1.0] * 5).ratio == pytest.approx(2)
    assert ratio([1.0], [4.0]).ratio == pytest.approx(0.25)
    disturbed = [3.0, 1.0, 4.0, 2.0]  # weights 1, 4, 9 and 16 from the slowest on
    assert ratio(disturbed, [1.0] * 4).ratio == pytest.approx((1 + 8 + 27 + 64) / 30)
    shares = [[0.9] * slow + [1.0] * (20 - slow) for slow in (8, 12)]  # a network that others slow down, a tenth
    kept = [ratio(rounds, [1.0] * 20).ratio for rounds in shares]
    assert abs(kept[1] / kept[0] - 1) < 0.03 < abs(float(np.median(shares[1]) / np.median(shares[0])) - 1)


def test_the_interval_of_a_ratio() -> None:
    few = ratio([3.0, 1.0, 4.0, 2.0], [1.0, 1.0, 2.0, 1.0])  # the rounds' own ratios: 3, 1, 2, 2
    assert (few.low, few.high, few.n) == (1, 3, 4)
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        shared = random.uniform(0.5, 1.0, 20)  # a machine whose speed both networks share
        ours, theirs = (shared * random.uniform(0.95, 1.05, 20) for _ in range(2))
        found = ratio(list(1.2 * ours), list(theirs))
        assert found.low < found.ratio < found.high < 1.1 * found.low
        covered += found.low <= 1.2 <= found.high
    assert covered > 170
    assert ratio([1.0] * 9, [1.0] * 7).n == 7


def test_table_12_beside_the_paper() -> None:
    names = ("convnext_tiny", "timm:swin_tiny_patch4_window7_224", "convnext_xlarge", "resnet50")
    settings = Settings(names, (224, 288), Conditions("cuda", "tf32"), 1, (2,), 1, 1)
    cells = [
        Cell(entry, size, throughput={2: [4.0 * (i + 1), 2.0 * (i + 1)]})
        for size in (224, 288)
        for i, entry in enumerate(find_all(names))
    ]
    found = collect(Comparison(settings, cells), "", NOW, NOW, {})
    rows = found.table_12
    assert [(row.model, row.image_size) for row in rows] == [
        ("convnext_tiny", 224), ("swin_tiny_patch4_window7", 224), ("convnext_xlarge", 224)
    ]  # fmt: skip
    first = rows[0]
    assert first.ratio is not None
    assert (first.swin, first.ratio.ratio, first.ratio.n) == ("swin_tiny_patch4_window7", 0.5, 2)
    assert first.published_ratio == pytest.approx(1943.5 / 1325.6)
    assert rows[1].ratio is rows[2].ratio is None
    assert [TABLE_12[3].text(row) for row in rows] == ["1,943.5", "1,325.6", "424.4"]
    said = [line for line in findings(found) if "in the paper" in line]
    assert len(said) == 1
    assert "0.50 here (cuda, tf32, batches of 2, n = 2 rounds, 0.50 to 0.50), 1.47 in the paper" in said[0]


def test_calls_on_a_gpu_take_a_while_however_small() -> None:
    on_cpu = Settings(("convnext_atto",), (224,), Conditions(), 1, (1, 8), 4, 20)
    on_gpu = replace(on_cpu, conditions=Conditions("cuda", "tf32"))
    assert on_gpu.inference_seconds(1e-4) == pytest.approx(VISITS * 21 * CALL_ON_GPU + SHORTEST_TIMED)
    assert on_cpu.inference_seconds(1e-4) == pytest.approx(VISITS * SHORTEST_TIMED / 2 + SHORTEST_TIMED)
    assert on_gpu.inference_seconds(1.0) == on_cpu.inference_seconds(1.0)


def test_a_network_that_cannot_be_compiled_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its memory is measured all the same, without the compiler."""

    def broken(*given: Any, **options: Any) -> Any:
        raise InternalTorchDynamoError("no C++ compiler\nand a long explanation")

    monkeypatch.setattr(torch, "compile", broken)
    given = settings(sizes=(32,), conditions=Conditions(compile=True), rounds=1)
    reported: dict[str, Any] = {}
    memory.measure_here("convnext_atto", 32, given, reported.update)
    assert Memory.of(reported).problem is None
    monkeypatch.setattr(measuring.Processes, "measure", lambda *given: Memory(400.0, 10.0, 20.0))
    found = count(given)
    measure(found, lambda words, share: None)
    cell = found.cells[0]
    assert cell.status == "not measured"
    assert cell.problems[0] == "inference in batches of 1: InternalTorchDynamoError: no C++ compiler"


@pytest.mark.slow
def test_compiled_networks_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring.Processes, "measure", lambda *given: Memory(400.0, 10.0, 20.0))
    monkeypatch.setattr(measuring, "SHORTEST_TIMED", 0.002)
    found = count(settings(models=TINY, sizes=(32,), conditions=Conditions(compile=True), rounds=2))
    measure(found, lambda words, share: None)
    assert [cell.status for cell in found.cells] == ["measured"] * 2
    assert all(len(cell.latency) == len(cell.training) == 2 for cell in found.cells)


def test_memory_in_one_process_as_on_a_gpu() -> None:
    reported: dict[str, Any] = {}
    given = settings(batch_sizes=(1,), training_batch_size=1, num_classes=10)
    memory.measure_here("convnext_atto", 32, given, reported.update)
    found = Memory.of(reported)
    assert found.problem is None
    assert found.inference is not None
    assert found.training is not None
    reported.clear()
    memory.measure_here("convnext_nano_of_nobody", 32, given, reported.update)
    assert str(Memory.of(reported).problem).startswith("starting: UnknownModel")
