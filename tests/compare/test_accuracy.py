"""Accuracy in a comparison: small line-ups, other families trained by our recipe, budgets, and the whole command."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import nextify
from nextify.cli import compare_accuracy, main
from nextify.compare import measure as measuring
from nextify.compare.accuracy import (
    epochs_within,
    evaluate,
    kept_epochs,
    make_plan,
    read_weights_options,
    timm_with_weights,
)
from nextify.compare.budget import BudgetError, read, recommend
from nextify.compare.entries import build, find, find_all, line_up, network
from nextify.compare.figures import figures, front
from nextify.compare.findings import findings
from nextify.compare.memory import Memory
from nextify.compare.records import Accuracy, AccuracyRow, Model, Row, Run, Speed, Variant, Why
from nextify.compare.results import Results
from nextify.compare.settings import Settings
from nextify.compare.tables import ACCURACY
from nextify.compare.why import findings as why_findings
from nextify.compare.why import kind_of
from nextify.data import Images, open_images
from nextify.evaluation.profiling import Conditions, count
from nextify.fitting.scale import ScaleError
from nextify.networks.foreign import Foreign, timm_network
from nextify.networks.foreign import build as build_network
from nextify.networks.zoo import UnknownModel, create_model
from nextify.paper.design import Design
from nextify.paper.published import PublishedModel
from nextify.paper.recipe import RECIPES
from nextify.study.engine import Job, run_job
from nextify.study.plan import PlanError
from nextify.study.results import StudyData
from nextify.study.statistics import binomial_standard_error
from nextify.study.study import StudyEstimate
from nextify.system.files import FOREIGN_JSON
from nextify.training.loop import TrainingStopped
from nextify.training.optimizers import classifier, parameter_groups, undecayed_parameters
from nextify.training.prepare_classifier import default_side
from nextify.training.run import run_trial
from nextify.training.trial import Data, Runtime, Trial
from nextify.weights import About, Preprocessing, WeightsError, save_bundle

SMALL_RECIPE = RECIPES["convnext"].with_(
    epochs=2, warmup_epochs=0.0, batch_size=8, crop="shift", rand_augment="off", test_crop_ratio=1.0
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noise around a colour, 16 images to train and 4 to test on each."""
    root = tmp_path_factory.mktemp("colours")
    random = np.random.RandomState(0)
    for name, color in {"blue": (60, 80, 200), "green": (60, 180, 60), "red": (200, 60, 40)}.items():
        for part, number in (("train", 16), ("test", 4)):
            (root / part / name).mkdir(parents=True)
            for i in range(number):
                pixels = np.clip(random.normal(color, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def images(folder: Path) -> Images:
    return open_images(str(folder))


# --- line-ups ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["tiny", "small"])
def test_a_small_line_up_has_similar_multiply_adds(scale: str) -> None:
    macs = {}
    for name in line_up(scale):
        with torch.device("meta"):
            macs[find(name).family] = count(build(find(name), 32, 10), 32).macs
    assert set(macs) == {"ResNet", "ViT", "Swin", "ConvNeXt"}
    assert all(abs(value / macs["ConvNeXt"] - 1) < 0.04 for value in macs.values())


def test_names_at_a_scale() -> None:
    assert line_up(None) == line_up("full")
    with pytest.raises(ScaleError, match="tiny or small"):
        line_up("half")
    with pytest.raises(UnknownModel, match="swin@tiny"):
        find("swin@half")
    with pytest.raises(ScaleError, match="no scale 'wee'"):
        find("convnext_tiny@wee")
    with pytest.raises(UnknownModel, match="did you mean"):
        find("convnext_tin@tiny")
    fitted = network(find("convnext_tiny@tiny"), 16, fitted_to=8)
    assert fitted != network(find("convnext_tiny@tiny"), 16)


# --- other families by our recipe -------------------------------------------------------------------------------------


def tiny_vit(side: int = 16) -> Foreign:
    return timm_network(
        "deit_small_patch16_224", img_size=side, patch_size=4, embed_dim=12, depth=2, num_heads=3, fused_attention=False
    )


def trial(made: Any, images: Images, seed: int = 0, **recipe: Any) -> Trial:
    data = Data(images.name, images.fingerprint, images.num_classes, 16)
    return Trial(made, SMALL_RECIPE.with_(**recipe), data, seed)


def test_a_fingerprint_names_the_network_and_timms_version(images: Images) -> None:
    given = trial(tiny_vit(), images)
    design = given.to_dict()["design"]
    assert design["library"] == "timm"
    assert design["version"]
    assert (design["name"], design["arguments"]["embed_dim"]) == ("deit_small_patch16_224", 12)
    other = Foreign(tiny_vit().name, tiny_vit().arguments, "0.0", fused_attention=False)
    assert len({given.fingerprint, trial(other, images).fingerprint, trial(tiny_vit(32), images).fingerprint}) == 3


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (tiny_vit(), {"cls_token", "pos_embed"}),
        (network(find("swin@tiny"), 32), {"layers.0.blocks.0.attn.relative_position_bias_table"}),
        (timm_network("test_resnet"), {"bn1.weight", "bn1.bias", "fc.bias"}),
    ],
)
def test_what_weight_decay_spares(made: Foreign, named: set[str]) -> None:
    model = build_network(made, 10)
    spared = undecayed_parameters(model)
    assert named <= spared
    sizes = {name: p.ndim for name, p in model.named_parameters()}
    assert all(name in spared for name, ndim in sizes.items() if ndim <= 1)
    assert classifier(model).out_features == 10
    groups = parameter_groups(model, RECIPES["convnext"])
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(p) for name, p in model.named_parameters() if name not in spared}
    muon = parameter_groups(model, RECIPES["scratch_small"])
    matrices = {id(p) for g in muon if g["matrix"] for p in g["params"]}
    assert not matrices & {id(p) for p in classifier(model).parameters()}


def test_stochastic_depth_reaches_timms_networks() -> None:
    rates = [m.drop_prob for m in build_network(tiny_vit(), 10, 0.3).modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)


def test_settings_that_only_our_networks_have_are_refused(images: Images, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layer_decay"):
        run_trial(trial(tiny_vit(), images, layer_decay=0.8), images, Runtime(), tmp_path)
    given = trial(tiny_vit(), images)
    with pytest.raises(ValueError, match="frozen"):
        run_trial(Trial(given.design, given.recipe, given.data, 0, frozen_stages=1), images, Runtime(), tmp_path)


def test_a_stopped_training_of_timms_network_ends_with_the_same_weights(images: Images, tmp_path: Path) -> None:
    given = trial(tiny_vit(), images, ema=0.9, stochastic_depth=0.2)
    whole = run_trial(given, images, Runtime(), tmp_path / "whole")
    asked: list[None] = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) == 4

    with pytest.raises(TrainingStopped):
        run_trial(given, images, Runtime(), tmp_path / "cut", should_stop=stop)
    resumed = run_trial(given, images, Runtime(), tmp_path / "cut")
    assert (resumed.top1, resumed.final_train_loss) == (whole.top1, whole.final_train_loss)
    first, second = (load_file(result.bundle / "model.safetensors") for result in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    build_network(given.design, 3).load_state_dict(first)
    about = json.loads((whole.bundle / FOREIGN_JSON).read_text())
    assert about["network"]["name"] == "deit_small_patch16_224"
    assert about["metrics"][0]["value"] == whole.top1
    other = run_trial(trial(tiny_vit(), images, seed=1), images, Runtime(), tmp_path / "other")
    assert other.final_train_loss != whole.final_train_loss


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_all_share_one_recipe_and_the_seeds(images: Images) -> None:
    entries = find_all(["convnext_tiny@tiny", "vit@tiny", "timm:test_resnet"])
    plan = make_plan(entries, images, image_size=16, seeds=2, epochs=3, precision="bf16")
    assert [p.trial.seed for p in plan.trials] == [0, 0, 0, 1, 1, 1]
    assert {p.trial.recipe for p in plan.trials} == {plan.recipe}
    assert (plan.recipe.epochs, plan.recipe.precision) == (3, "bf16")
    assert all(":" not in p.folder and "/" not in p.folder for p in plan.trials)
    assert default_side(images.native_side) == 16
    with pytest.raises(PlanError, match="takes no part"):
        make_plan(entries, images, image_size=16, seeds=1, epochs=1, weights={"resnet50": "a.pth"})
    with pytest.raises(PlanError, match="cannot evaluate vit@tiny: leave it out"):
        make_plan(entries, images, image_size=16, seeds=1, epochs=1, weights={"vit@tiny": "a.pth"})
    with pytest.raises(PlanError, match="no recipe 'x'"):
        make_plan(entries, images, image_size=16, seeds=1, epochs=1, recipe="x")
    with pytest.raises(PlanError, match="--seeds 1"):
        make_plan(entries, images, image_size=16, seeds=0, epochs=1)


def test_networks_that_averaging_harms_are_named(images: Images) -> None:
    def said(recipe: str, *names: str) -> list[str]:
        notes = make_plan(find_all(names), images, image_size=16, seeds=1, epochs=100, recipe=recipe).notes
        return [note for note in notes if "batch norm" in note]

    names = "resnet50@tiny", "vit@tiny", "timm:test_resnet", "convnext_tiny@tiny"
    assert said("convnext", *names) == []
    assert said("scratch_small", *names[1::2]) == []
    (note,) = said("scratch_small", *names)
    assert "so resnet50@tiny and test_resnet may be far less accurate" in note


def test_epochs_fill_the_minutes_and_a_restart_keeps_them(images: Images, tmp_path: Path) -> None:
    plan = make_plan(find_all(["convnext_tiny@tiny", "vit@tiny"]), images, image_size=16, seeds=3, epochs=10)
    a_batch = plan.recipe.batch_size
    seen = a_batch * (48 // a_batch)
    speeds = {"convnext_tiny@tiny": seen / 2.0, "vit@tiny": seen / 1.0}  # 2 s and 1 s an epoch
    seconds = {p.folder: 10 * seen / speeds[p.step] + 5 for p in plan.trials}  # and 5 s of tests
    estimate = StudyEstimate(0.0, seconds, speeds)
    # 6 trainings: 9 s an epoch together and 30 s of tests, on 2 processors of 60 s each, 8 % kept back.
    assert epochs_within(plan, estimate, 48, 1.0, 2) == int((0.92 * 120 - 30) / 9)
    assert epochs_within(plan, estimate, 48, 0.01, 2) == 1
    assert kept_epochs(tmp_path, plan, 50.0, lambda: 7) == 7
    assert kept_epochs(tmp_path, plan, 50.0, lambda: 8) == 7
    assert kept_epochs(tmp_path, plan, 40.0, lambda: 9) == 9


# --- budgets ----------------------------------------------------------------------------------------------------------


def results_of(rows: list[dict[str, Any]], budget: str, accuracy: dict[str, float] | None = None) -> Results:
    """As much of a comparison as a recommendation reads."""
    empty = {"macs": 4.5e9, "parameters": 28e6, "image_size": 224, "status": "measured"}
    given = Settings(("convnext_tiny",), (224,), Conditions(), 1, (1,), 1, 1)
    published = {"convnext_tiny": 82.1, "resnet50": 76.1}
    part = None
    if accuracy is not None:
        found = tuple(AccuracyRow(model=m, how="trained", mean=v, n=3) for m, v in accuracy.items())
        data = StudyData(name="photos", classes=2, train_images=8, test_images=8)
        part = Accuracy(data, 224, "convnext", {"epochs": 1}, (0, 1, 2), 1, 1, 1.0, (), found, ())
    return Results(
        Run(given, "", "", "", 1.0, 1.0, True, True),
        {},
        tuple(Model(name, name, "", PublishedModel(None, None, top1)) for name, top1 in published.items()),
        tuple(Row(**{**empty, **row}) for row in rows),
        part,
        limits=tuple(limit.said for limit in read(budget)),
    )


def speed(images_per_second: float) -> tuple[Speed, ...]:
    return (Speed.of(1, [images_per_second]),)


ROWS: list[dict[str, Any]] = [
    {"model": "convnext_tiny", "latency_ms_p50": 30.0, "throughput": speed(40.0), "inference_mib": 300.0},
    {"model": "resnet50", "latency_ms_p50": 18.0, "throughput": speed(60.0), "inference_mib": None},
]


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("latency<0.05s", "convnext_tiny at 224²: 82.10 % top-1 on ImageNet-1K as the paper prints it, not measured"),
        ("latency<20ms", "take resnet50 at 224²: 76.10 %"),
        ("throughput > 50, macs<5G", "resnet50"),
        ("memory<1GiB", "convnext_tiny"),
        (
            "latency<5ms",
            "Nothing compared here stays within latency<5ms; nearest is resnet50 at 224² with median latency 18 ms.",
        ),
        ("memory<100MiB", "nearest is convnext_tiny at 224² with memory 300 MiB."),
        ("parameters<30M", "parameters 28.0 M"),
        (
            "latency<10ms, parameters<27M",
            "nearest is resnet50 at 224² with median latency 18 ms, parameters 28.0 M, which breaks latency<10ms most.",
        ),
        ("latency<5ms, throughput>50", "which breaks latency<5ms most."),
        ("latency<29ms, throughput>100", "nearest is resnet50"),
        ("latency<10ms, throughput>100", "which breaks latency<10ms most."),
        ("latency<20ms, throughput>0", "take resnet50"),
        ("parameters<=28M", "take convnext_tiny"),
        ("parameters<28M", "Nothing compared here stays within parameters<28M; nearest is convnext_tiny"),
        ("throughput>=60", "take resnet50"),
        ("throughput>60", "Nothing compared here"),
    ],
)
def test_the_most_accurate_within_a_budget(budget: str, words: str) -> None:
    said = recommend(results_of(ROWS, budget))
    assert said is not None
    assert words in said
    assert said.count(". ") == 0


def test_measured_accuracies_go_before_published_ones() -> None:
    found = results_of(ROWS, "latency<50ms", {"resnet50": 91.0, "convnext_tiny": 88.0})
    said = "take resnet50 at 224²: 91.00 % top-1 measured here on photos (n = 3)"
    assert said in str(recommend(found))
    assert [value for _, value in found.candidates()] == [88.0, 91.0]
    counted = results_of([{**row, "latency_ms_p50": None} for row in ROWS], "latency<50ms")
    assert "did not measure latency" in str(recommend(counted))
    unknown: list[dict[str, Any]] = [{**ROWS[0], "image_size": 100}]
    assert "no accuracy is known" in str(recommend(results_of(unknown, "macs<9G")))
    said = "Nothing compared here stays within macs<9k; nearest is convnext_tiny at 100² with multiply-adds 4.50 G."
    assert recommend(results_of(unknown, "macs<9k")) == said


def test_an_accuracy_at_another_shape_goes_with_no_cost() -> None:
    found = results_of(ROWS, "latency<50ms", {"resnet50": 91.0, "convnext_tiny": 88.0})
    assert found.accuracy is not None
    oblong, square = found.accuracy.rows
    rows = replace(oblong, how="evaluated", image_size=0), square
    found = replace(found, accuracy=replace(found.accuracy, rows=rows))
    assert [(row.model, value) for row, value in found.candidates()] == [("convnext_tiny", 88.0)]
    assert "take convnext_tiny" in str(recommend(found))


def test_the_nearest_is_the_one_whose_worst_limit_is_broken_least() -> None:
    rows: list[dict[str, Any]] = [
        {"model": "a", "latency_ms_p50": 5.0, "parameters": 30_000_000},
        {"model": "b", "latency_ms_p50": 50.0, "parameters": 5_000_000},
        {"model": "c", "latency_ms_p50": 21.0, "parameters": 10_600_000},
    ]
    found = results_of(rows, "latency<20ms, parameters<10M", {"a": 91.0, "b": 88.0, "c": 70.0})
    assert str(recommend(found)) == (
        "Nothing compared here stays within latency<20ms, parameters<10M; nearest is c at 224² with median latency "
        "21 ms, parameters 10.6 M, which breaks parameters<10M most."
    )
    apart = [{**ROWS[0], "latency_ms_p50": None}, ROWS[1]]
    assert "no network was measured in all of these" in str(recommend(results_of(apart, "latency<20ms, memory<1GiB")))


@pytest.mark.parametrize(
    ("lead", "told"), [((1.0, 1.1, 0.9, 1.0, 1.2, 0.8), True), ((9.0, -8.0), False), ((1.0,), False)]
)
def test_a_lead_within_chance_is_said(lead: tuple[float, ...], told: bool) -> None:
    found = results_of(ROWS, "latency<50ms", {"resnet50": 91.0, "convnext_tiny": 88.0})
    trials = [{"model": "convnext_tiny", "seed": seed, "top1": 80.0} for seed in range(6)]
    trials += [{"model": "resnet50", "seed": seed, "top1": 80 + ahead} for seed, ahead in enumerate(lead)]
    assert found.accuracy is not None
    said = str(recommend(replace(found, accuracy=replace(found.accuracy, trials=tuple(trials)))))
    assert "take resnet50" in said
    words = "; its lead over the next, convnext_tiny (88.00 %), cannot be told from chance with"
    assert (words in said) == (not told)
    assert said.count(". ") == 0


@pytest.mark.parametrize("best", ["resnet50", "convnext_tiny"])
@pytest.mark.parametrize("verdict", ["higher", "no conclusion"])
def test_a_lead_is_told_as_the_table_tells_it(best: str, verdict: str) -> None:
    top1 = {"resnet50": 88.0, "convnext_tiny": 88.0, best: 91.0}
    found = results_of(ROWS, "latency<50ms", top1)
    assert found.accuracy is not None
    rows = tuple(
        replace(row, compared_with="convnext_tiny", verdict=verdict) if row.model == "resnet50" else row
        for row in found.accuracy.rows
    )
    trials = [{"model": m, "seed": s, "top1": v} for m, v in top1.items() for s in range(3)]  # too few for their signs
    said = str(recommend(replace(found, accuracy=replace(found.accuracy, rows=rows, trials=tuple(trials)))))
    assert f"take {best}" in said
    assert ("cannot be told from chance with 3 paired seeds" in said) == (verdict == "no conclusion")


@pytest.mark.parametrize("budget", ["fast", "latency>20ms", "latency<20", "latency<20ms,", "speed<3", "macs<5GiB", ""])
def test_a_budget_that_is_none_gives_examples(budget: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BudgetError, match="latency<20ms, throughput>100"):
        read(budget)
    if budget:
        assert main(["compare", "resnet50", "--counts", "--budget", budget]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_front_is_what_nothing_beats() -> None:
    assert front([(3, 80.0), (1, 70.0), (2, 70.0), (2, 75.0), (4, 79.0)]) == [(1, 70.0), (2, 75.0), (3, 80.0)]


# --- why --------------------------------------------------------------------------------------------------------------


def test_kinds_of_operators() -> None:
    depthwise, full = [[1, 8, 4, 4], [8, 1, 7, 7], []], [[1, 8, 4, 4], [8, 8, 3, 3], []]
    assert kind_of("aten::mkldnn_convolution", depthwise) == "depthwise convolutions"
    assert kind_of("aten::mkldnn_convolution", full) == "convolutions"
    assert kind_of("nextify::depthwise_forward", []) == "depthwise convolutions"
    assert kind_of("aten::_scaled_dot_product_flash_attention_for_cpu", []) == "attention"
    assert kind_of("aten::addmm", []) == "matrix products"
    assert kind_of("aten::native_layer_norm", []) == "norms"
    assert kind_of("aten::copy_", []) == "copies and casts"
    assert kind_of("aten::sin", []) == "other"


def test_findings_say_what_the_rounds_show() -> None:
    def variant(layout: Any, precision: Any, rounds: list[float], depthwise: float) -> Variant:
        shares = {"matrix products": 1 - depthwise, "depthwise convolutions": depthwise}
        return Variant(layout, precision, rounds[1], tuple(rounds), shares)

    variants = (
        variant("channels_last", "fp32", [10, 10, 10], 0.1),
        variant("channels_last", "bf16", [5, 6, 5], 0.2),
        variant("contiguous", "fp32", [11, 9, 10], 0.1),
        variant("contiguous", "bf16", [10, 11, 10], 0.38),
    )
    found = Why("a", 224, 8, variants)
    said = list(why_findings(found, "ConvNeXt"))
    assert "cannot be told apart" in said[0]
    assert "bf16: NCHW (contiguous) takes 100 % more time than channels-last (n = 3 rounds, +83 to +100 %)" in said[1]
    assert "bf16 takes 50 % less time than fp32 (n = 3 rounds, −50 to −40 %)" in said[2]
    assert "depthwise convolutions take 10 % in NHWC fp32, 20 % in NHWC bf16" in said[-1]
    assert "38 % in NCHW bf16" in said[-1]
    assert not any("NCHW" in line for line in why_findings(found, "ViT") if "takes" in line and "more" in line)


def test_a_finding_has_the_one_interval_that_its_verdict_goes_by() -> None:
    found = results_of(ROWS, "macs<9G", {"resnet50": 91.0})
    assert found.accuracy is not None
    line = AccuracyRow(
        model="resnet50",
        how="trained",
        n=3,
        mean=91.0,
        compared_with="convnext_tiny",
        change=1.0,
        change_low=0.5,
        change_high=1.5,
        conclusion="No conclusion: −3.00 to 5.00.",
    )
    for row, ends in ((line, "[+0.50, +1.50] "), (replace(line, interval_low=-3.0, interval_high=5.0), "")):
        lines = findings(replace(found, accuracy=replace(found.accuracy, rows=(row,))))
        (said,) = (line for line in lines if "against" in line)
        words = f"resnet50 against convnext_tiny on photos: +1.00 {ends}points of top-1. No conclusion: −3.00 to 5.00."
        assert said == words


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_for_networks_of_ours_and_of_timms(images: Images, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vit = build_network(timm_network("test_vit"), 3)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    entry = find("timm:test_vit")
    found = evaluate(entry, str(tmp_path / "vit.pth"), images, "cpu", 1)
    loaded = timm_with_weights("test_vit", str(tmp_path / "vit.pth"))
    right = 0
    with torch.no_grad():
        for i in range(len(images.test)):
            logits = loaded.model(loaded.preprocessing(images.test.load(i))[None])
            right += int(logits.argmax()) == images.test.labels[i]
    assert found.mean == pytest.approx(100 * right / 12)
    assert found.binomial_standard_error == pytest.approx(binomial_standard_error(100 * right / 12, 12))
    assert (found.how, found.n) == ("evaluated", 1)
    with pytest.raises(ValueError, match="MODEL=FILE"):
        read_weights_options(["vit.pth"])
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"has no head\.weight"):
        evaluate(entry, str(tmp_path / "other.pth"), images, "cpu", 1)


def test_weights_for_a_network_at_a_scale(images: Images, tmp_path: Path) -> None:
    entry, settings = find("convnext_tiny@tiny"), Preprocessing.from_crop_ratio(16, 1)
    design = network(entry, 16, 16)
    assert isinstance(design, Design)
    about = About(design, 3, name="mine", classes=("blue", "green", "red"), preprocessing=settings)
    bundle = str(save_bundle(tmp_path / "mine", create_model(design, 3).state_dict(), about))
    given = images, "cpu", 1, 16
    expected = evaluate(find(bundle), bundle, *given)
    assert evaluate(entry, bundle, *given) == replace(expected, model="convnext_tiny@tiny")
    with pytest.raises(WeightsError, match="not the design asked for: depths"):
        evaluate(find("convnext_small@tiny"), bundle, *given)
    plan = make_plan([entry], images, image_size=16, seeds=1, epochs=1, weights={entry.name: bundle})
    assert (plan.trials, plan.notes) == ((), ())


# --- the command ------------------------------------------------------------------------------------------------------


class HereEngine:
    """Runs trials in this process, as workers would: processes cost more than such trainings."""

    def __init__(self, runtime: Runtime, side_by_side: int) -> None:
        self.runtime, self.side_by_side = runtime, side_by_side

    def __enter__(self) -> HereEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def run(self, jobs: list[Job], on_event: Any) -> None:
        for job in jobs:
            run_job(job, self.runtime, on_event)


def test_the_command_trains_evaluates_recommends_and_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare_accuracy, "LocalEngine", HereEngine)
    monkeypatch.setattr(measuring.Processes, "measure", lambda *given: Memory(400.0, 10.0, 20.0))
    monkeypatch.setattr(measuring, "SHORTEST_TIMED", 0.002)
    design = network(find("convnext_tiny@tiny"), 16)
    settings = Preprocessing.from_crop_ratio(16, 1)
    about = About(design, 3, name="mine", classes=("blue", "green", "red"), preprocessing=settings)
    bundle = save_bundle(tmp_path / "mine", create_model(design, 3).state_dict(), about)
    out = tmp_path / "out"
    arguments = ["compare", "convnext_tiny@tiny", "vit@tiny", str(bundle), "--data", str(folder), "--out", str(out)]
    arguments += ["--seeds", "2", "--rounds", "1", "--threads", "1", "--batch-sizes", "1", "2", "--device", "cpu"]
    arguments += ["--training-batch-size", "2", "--training-minutes", "0.02", "--budget", "latency<10s"]
    arguments += ["--kernels", "off"]
    assert main([*arguments, "--why"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"2 networks × 2 seeds, \d+ epochs? of the convnext recipe", said)
    found = json.loads((out / "results.json").read_text())
    accuracy = {row["model"]: row for row in found["accuracy"]["rows"]}
    assert [(row["how"], row["n"]) for row in accuracy.values()] == [("trained", 2), ("trained", 2), ("evaluated", 1)]
    trained = [t for t in found["accuracy"]["trials"] if t["model"] == "vit@tiny"]
    assert accuracy["vit@tiny"]["top1_mean"] == pytest.approx(np.mean([t["top1"] for t in trained]))
    assert accuracy["vit@tiny"]["compared_with"] == "convnext_tiny@tiny"
    assert "2 seeds, 12 images" in accuracy["vit@tiny"]["conclusion"]
    assert accuracy["vit@tiny"]["p_crossed_holm"] is not None
    assert accuracy["mine"]["weights"] == str(bundle)
    assert [row["image_size"] for row in found["rows"]] == [16, 16, 16]
    assert "measured here on colours" in found["budget"]["recommendation"]
    assert {w["model"] for w in found["why"]} == {"convnext_tiny@tiny", "vit@tiny", "mine"}
    shares = found["why"][0]["variants"][0]["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["depthwise convolutions"] > 0
    lines = list(csv.DictReader((out / "accuracy.csv").read_text().splitlines()))
    assert list(lines[0]) == [column.key for column in ACCURACY if column.key]
    for drawing in out.glob("*.svg"):
        ET.parse(drawing)
    page = (out / "report.html").read_text()
    assert "Within the budget" in page
    assert "2 seeds" in page
    assert "http" not in page.replace("http-equiv", "")

    before = {path: path.stat().st_mtime_ns for path in out.glob("trials/*/result.json")}
    assert len(before) == 4
    assert {json.loads(path.read_text())["runtime"]["kernels"] for path in before} == {"off"}
    monkeypatch.setattr("nextify.cli.comparison.write", lambda results, out: [])  # the figures once more
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    again = json.loads(captured.out)
    assert "4 of 4 runs are finished already" in captured.err
    assert {path: path.stat().st_mtime_ns for path in out.glob("trials/*/result.json")} == before
    assert again["accuracy"]["rows"] == found["accuracy"]["rows"]


def test_a_bundle_is_recommended_by_the_cost_at_the_size_of_its_accuracy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring.Processes, "measure", lambda *given: Memory(400.0, 10.0, 20.0))
    monkeypatch.setattr(measuring, "SHORTEST_TIMED", 0.002)
    design, names = network(find("convnext_tiny@tiny"), 16), []
    for side in (16, 24):
        settings = Preprocessing.from_crop_ratio(side, 1)
        about = About(design, 3, name="mine", classes=("blue", "green", "red"), preprocessing=settings)
        names.append(str(save_bundle(tmp_path / f"at{side}", create_model(design, 3).state_dict(), about)))
    bundle = save_bundle(tmp_path / "bundle", create_model(design, 3).state_dict(), about)
    assert [find(str(path)).model for path in (bundle, names[0])] == [str(bundle), "at16"]
    out = tmp_path / "out"
    arguments = ["compare", *names, "--data", str(folder), "--out", str(out), "--rounds", "1", "--threads", "1"]
    arguments += ["--batch-sizes", "1", "--training-batch-size", "2", "--device", "cpu", "--budget", "latency<10s"]
    assert main(arguments) == 0
    found = json.loads((out / "results.json").read_text())
    assert {row["image_size"] for row in found["rows"]} == {16, 24}
    assert [row["image_size"] for row in found["accuracy"]["rows"]] == [16, 24]
    assert not any("its cost at" in p for row in found["accuracy"]["rows"] for p in row["problems"])
    drawn = figures(Results.from_dict(found))
    assert "each at its own size (16², 24²)" in drawn["latency-accuracy"][1].get_suptitle()
    assert "each at its own size (16², 24²)" in drawn["accuracy-flops"][1].axes[1].get_xlabel()
    assert re.search("take at16 at 16²|take at24 at 24²", found["budget"]["recommendation"])
    at_16 = tmp_path / "at 16"
    assert main([str(at_16) if each == str(out) else each for each in arguments] + ["--sizes", "16"]) == 0
    found = json.loads((at_16 / "results.json").read_text())
    assert any(
        "its cost at 16² is not this accuracy's: --sizes 24" in p for p in found["accuracy"]["rows"][1]["problems"]
    )
    assert "take at16 at 16²" in found["budget"]["recommendation"]


def test_a_comparison_that_was_stopped_in_training_keeps_its_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compare_accuracy, "LocalEngine", HereEngine)
    monkeypatch.setattr(compare_accuracy, "_train", stop)
    command = ["compare", "convnext_tiny@tiny", "--data", str(folder), "--out", str(tmp_path), "--device", "cpu"]
    command += ["--epochs", "1"]
    assert main([*command, "--recipe", "nobodys"]) == 2
    assert not (tmp_path / "results.json").exists()
    assert main([*command, "--seeds", "2"]) == 130
    (run,) = nextify.runs(tmp_path)
    assert (run.kind, run.state) == ("comparison", "stopped")
    assert main([*command, "--seeds", "6", "--minutes", "1"]) == 130  # more of the same
    capsys.readouterr()
    assert main([*command, "--recipe", "resnet"]) == 1
    assert "holds another comparison (not the same recipe)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--weights", "resnet50=a.pth"], "give --data too"),
        (["--counts", "--data", "digits"], "leave --data and --why out"),
        (["--scale", "half"], "tiny or small"),
        (["swin@tin"], "no scale 'tin'"),
    ],
)
def test_options_that_cannot_be_are_refused_in_a_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["compare", *arguments, "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr().err
    assert words in captured
    assert captured.count("\n") == 1
