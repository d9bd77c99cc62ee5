"""Training detectors and segmenters: prepared from a request, resumed bit for bit, kept as bundles of their own."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import nextify.training.probe
from nextify import cli
from nextify.data import DataError
from nextify.data.dense import open_dense
from nextify.data.dense.placement import canvas_of
from nextify.networks.dense.design import DenseDesign
from nextify.networks.zoo import create_model, find_design
from nextify.paper.recipe import RECIPES, RecipeError
from nextify.tasks.detection import Detection
from nextify.tasks.segmentation import pixel_weights
from nextify.training.loop import TrainingStopped
from nextify.training.optimizers import parameter_groups
from nextify.training.overfit import overfit_batch
from nextify.training.prepare import prepare
from nextify.training.probe import Speed
from nextify.training.request import Request, RequestError
from nextify.training.result import finished
from nextify.training.run import run_trial
from nextify.training.schedule import learning_rate
from nextify.training.train import PREDICTIONS, prepare_in, run_prepared, train
from nextify.training.trainer import Trainer, build_network
from nextify.training.trial import Data, Runtime, Trial
from nextify.weights import About, WeightsError, load_bundle, rename, save_bundle
from nextify.weights.bundle import JSON_FILE, DenseAbout, load_dense, stated
from tests.training.helpers import small_trial

TINY = {"depths": (1, 1, 1, 1), "widths": (16, 24, 32, 48), "batch_size": 4}
RUNTIME = Runtime(evaluations=1)
LIGHT = ("fcos", "fpn")
HEADS = [*LIGHT, *(pytest.param(head, marks=pytest.mark.slow) for head in ("retinanet", "mask_rcnn", "upernet"))]


@pytest.fixture(scope="module")
def scenes():
    """Few images of the embedded set, for detection and for segmentation."""
    found = {}
    for task in ("detection", "segmentation"):
        images = open_dense("scenes", task=task)
        train, test = (part.selected(np.arange(n)) for part, n in ((images.train, 16), (images.test, 3)))
        found[task] = replace(images, train=train, test=test)
    return found


def prepared(scenes, head="fcos", **request):
    images = scenes["segmentation" if head in ("fpn", "upernet") else "detection"]
    settings = {**TINY, **request.pop("settings", {})}
    return prepare(Request("convnext_atto", head=head, epochs=2, settings=settings, image_size=64, **request), images)


def weights(trainer):
    return {name: value.clone() for name, value in trainer.kept().state_dict().items()}


def advance(trainer, steps):
    for pixels, targets in trainer.batches.iterate(trainer.step, trainer.step + steps):
        assert trainer.train_step(pixels, targets).isfinite()
    return trainer


@pytest.mark.parametrize("head", HEADS)
def test_a_resumed_training_is_the_undisturbed_one(scenes, head, tmp_path):
    made = prepared(scenes, head, settings={"stochastic_depth": 0.2})
    whole = advance(Trainer(made.trial, made.images, RUNTIME), 4)
    first = advance(Trainer(made.trial, made.images, RUNTIME), 2)
    torch.save(first.state(), tmp_path / "state.pt")
    second = Trainer(made.trial, made.images, RUNTIME)
    second.load_state(torch.load(tmp_path / "state.pt"))
    advance(second, 2)
    there, again = weights(whole), weights(second)
    assert all(torch.equal(there[name], again[name]) for name in there)


@pytest.fixture(scope="module")
def measured_in_parts():
    """Each image by itself is a batch to test on, after which a training may stop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nextify.training.learned.DENSE_TEST_BATCH", 1)
        yield


@pytest.fixture(scope="module")
def undisturbed(scenes, measured_in_parts, tmp_path_factory):
    """A detector's training that measures twice, and its folder."""
    made, folder = prepared(scenes), tmp_path_factory.mktemp("undisturbed") / "whole"
    return made, run_trial(made.trial, made.images, Runtime(evaluations=2), folder), folder


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_training_stops_while_it_measures_and_loses_nothing(undisturbed, epoch, tmp_path, monkeypatch):
    made, whole, folder = undisturbed
    seen, observe = [], Detection.observe
    monkeypatch.setattr(Detection, "observe", lambda *arguments: seen.append(0) or observe(*arguments))
    with pytest.raises(TrainingStopped, match=f"stopped at step {4 * epoch} of 8"):
        run_trial(
            *(made.trial, made.images, Runtime(evaluations=2), tmp_path / "stopped"),
            should_stop=lambda: len(seen) == 3 * epoch - 1,
        )
    assert len(seen) == 3 * epoch - 1
    again = run_trial(made.trial, made.images, Runtime(evaluations=2), tmp_path / "stopped")
    assert (again.curve, again.metrics) == (whole.curve, whole.metrics)
    assert (tmp_path / "stopped" / "log.jsonl").read_text() == (folder / "log.jsonl").read_text()


@pytest.mark.parametrize("head", ["fcos", pytest.param("fpn", marks=pytest.mark.slow)])
def test_a_training_leaves_a_bundle_and_a_picture(scenes, head, tmp_path, capsys):
    made = prepared(scenes, head)
    ids = tuple(3 * k for k in range(made.images.num_classes))
    made = replace(made, images=replace(made.images, category_ids=ids, ignore_index=99))
    result = run_prepared(made, tmp_path, RUNTIME)
    folder = tmp_path / made.trial.fingerprint
    assert (folder / PREDICTIONS).read_bytes().startswith(b"\x89PNG")
    split = (folder / "split.csv").read_text().splitlines()
    assert split[0] == "path,split,digest"
    assert split[-4:] == [
        f"{made.images.train.name(15)},train,",  # scenes lie in no files
        *(f"{made.images.test.name(i)},test," for i in range(3)),
    ]
    done = finished(folder, made.trial)
    assert done is not None
    assert done.metrics == {spec: result.metrics[spec] for spec in done.metrics}
    bundle = load_dense(result.bundle)
    about = bundle.about
    assert (about.task, about.design, about.canvas) == (made.images.task, made.trial.design, made.trial.data.canvas)
    assert about.classes == made.images.classes
    assert (about.category_ids, about.ignore_index) == (ids, 99)
    assert stated(result.bundle) == about
    again = save_bundle(tmp_path / "again.safetensors", bundle.state, about)
    assert load_dense(again).about == about
    for wrong in (result.bundle, again):
        with pytest.raises(WeightsError, match=f"a network for {about.task}, but a classifier is needed"):
            load_bundle(wrong)
    source = result.bundle / JSON_FILE
    source.write_text(json.dumps({**json.loads(source.read_text()), "canvas": [96, 96]}))
    with pytest.raises(WeightsError, match="edited"):
        load_dense(result.bundle)
    assert finished(folder, made.trial) is None


@pytest.mark.parametrize(
    "command",
    [
        ["explain", "BUNDLE", "IMAGE"],
        ["export", "BUNDLE", "--to", "onnx", "--precision", "int8", "--data", "scenes"],
        ["export", "BUNDLE", "--to", "executorch", "--image-size", "64"],
        ["quantize", "BUNDLE", "--data", "digits"],
        ["robustness", "BUNDLE", "--data", "digits"],
        pytest.param(["serve", "BUNDLE"], marks=pytest.mark.slow),
        ["convert", "BUNDLE", "timm.safetensors", "--to", "timm"],
    ],
)
def test_other_commands_refuse_it_in_one_line(scenes, command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = prepared(scenes)
    trainer = Trainer(made.trial, made.images, RUNTIME)
    data = made.trial.data
    about = DenseAbout(made.trial.design, made.images.classes, data.canvas, data.mean, data.std)
    save_bundle(tmp_path / "BUNDLE", trainer.kept_weights(), about)
    (tmp_path / "IMAGE").mkdir()
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert "classifier" in error
    assert error.count("\n") == 1


def test_accumulated_parts_are_part_of_the_trial(scenes):
    made = prepared(scenes, accumulation=2)
    assert made.trial.accumulation == 2
    assert made.trial.fingerprint != prepared(scenes).trial.fingerprint
    assert Trainer(made.trial, made.images, RUNTIME).parts == 2
    with pytest.raises(ValueError, match="boxes and masks"):
        Trainer(made.trial, made.images, replace(RUNTIME, accumulation=4))


def test_one_batch_is_learned_by_heart(scenes):
    found = overfit_batch(prepared(scenes), RUNTIME, steps=12)
    assert found.images == 4
    assert found.last_loss < found.first_loss
    assert (found.metric.key, found.least) == ("ap50", 50)


def test_layer_decay_and_freezing_reach_the_backbone(scenes):
    made = prepared(scenes, settings={"layer_decay": 0.5, "depths": (1, 1, 6, 1), "optimizer": "adamw"})
    network = build_network(made.trial)
    names = {id(p): name for name, p in network.named_parameters()}
    scales = {
        names[id(p)]: g["learning_rate_scale"]
        for g in parameter_groups(network, made.trial.recipe)
        for p in g["params"]
    }
    assert scales["head.neck.pyramid.inner_blocks.0.0.weight"] == scales["backbone.norms.1.weight"] == 1
    assert scales["backbone.stages.3.blocks.0.spatial.weight"] == 0.5
    assert scales["backbone.stages.2.blocks.0.spatial.weight"] == 0.125
    assert scales["backbone.stem.conv.weight"] == 0.5**6
    frozen = build_network(replace(made.trial, frozen_stages=2))
    still = {name for name, p in frozen.named_parameters() if not p.requires_grad}
    assert "backbone.stages.1.blocks.0.spatial.weight" in still
    assert not any(name.startswith(("head", "backbone.stages.2", "backbone.norms")) for name in still)


def test_the_backbone_starts_from_a_classifier(scenes, tmp_path):
    design = find_design("convnext_atto").with_(depths=TINY["depths"], widths=TINY["widths"])
    model = create_model(design, 7)
    save_bundle(tmp_path / "classifier", model.state_dict(), About(design, 7, name="convnext_atto", licence="mit"))
    images = scenes["detection"]
    request = Request("convnext_atto", epochs=2, image_size=64, weights=str(tmp_path / "classifier"))
    made = prepare(request, images)
    assert made.licence == "mit"
    network = build_network(made.trial, made.start)
    started = network.state_dict()["backbone.stages.2.blocks.0.pointwise1.weight"]
    assert torch.equal(started, model.state_dict()["stages.2.blocks.0.pointwise1.weight"])
    assert any("backbone starts from" in note for note in made.notes)
    advice = "--weights timm:convnext_atto"
    assert not any(advice in note for note in made.notes)
    assert any(advice in note for note in prepare(replace(request, weights=None), images).notes)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"head": "upernet"}, "another task than detection: choose fcos"),
        ({"head": "yolo"}, "no head 'yolo'"),
        ({"image_size": 50}, None),
    ],
)
def test_what_boxes_cannot_be_trained_with_is_refused(scenes, request_, message):
    request = Request("convnext_atto", **{"epochs": 1, "image_size": 64, "settings": TINY, **request_})
    with pytest.raises(RequestError, match=message or "multiple of 32"):
        prepare(request, scenes["detection"])


def test_augmentation_that_boxes_cannot_follow_is_refused(scenes):
    made = prepared(scenes, settings={"mixing.mixup": 0.8})
    with pytest.raises(ValueError, match="mixing=off"):
        Trainer(made.trial, made.images, RUNTIME)


def test_a_head_is_refused_for_labels(digits):
    with pytest.raises(RequestError, match="--head is for boxes and masks"):
        prepare(Request("convnext_atto", head="fcos"), digits)


def test_the_papers_recipes_bring_the_papers_heads(scenes):
    for task, recipe, head in (
        ("detection", "coco_3x", "mask_rcnn"),
        ("segmentation", "ade20k_160k", "upernet"),
    ):
        made = prepare(Request("convnext_atto", recipe=recipe, image_size=64), scenes[task])
        assert made.trial.design.head == head


def test_the_papers_schedules():
    recipe = RECIPES["coco_3x"]
    rates = [learning_rate(recipe, epoch * 100 + 50, 100) for epoch in (20, 28, 34)]
    assert rates == pytest.approx([1e-4, 1e-5, 1e-6])
    linear = RECIPES["ade20k_160k"].with_(epochs=100, warmup_epochs=0.0)
    assert learning_rate(linear, 50, 1) == pytest.approx(0.5e-4)


def test_classifications_are_fingerprinted_and_written_as_before():
    trial = small_trial("separate_downsampling", RECIPES["resnet"])
    data = trial.to_dict()["data"]
    assert "canvas" not in data
    assert "task" not in data
    assert replace(trial, data=replace(trial.data, task="classification", canvas=None)).fingerprint == trial.fingerprint
    assert "head" not in Request("convnext_atto").to_dict()


def test_a_dense_trial_is_fingerprinted_by_all_its_parts():
    data = Data("scenes", "1", 3, 96, task="detection", canvas=(64, 96))
    design = DenseDesign(find_design("convnext_atto"))
    trials = [
        Trial(design, RECIPES["detection_small"], data, 0),
        Trial(design.with_(head="retinanet"), RECIPES["detection_small"], data, 0),
        Trial(design.with_(width=64), RECIPES["detection_small"], data, 0),
        Trial(design, RECIPES["detection_small"], replace(data, canvas=(96, 96)), 0),
        Trial(DenseDesign(find_design("convnext_femto")), RECIPES["detection_small"], data, 0),
    ]
    assert len({trial.fingerprint for trial in trials}) == len(trials)


def test_a_run_without_its_request_leaves_a_bundle_too(scenes, tmp_path):
    made = prepared(scenes)
    trial = replace(made.trial, recipe=made.trial.recipe.with_(epochs=1, ema="off"))
    result = run_trial(trial, made.images, RUNTIME, tmp_path)
    assert load_dense(result.bundle).about.recipe == trial.recipe


def test_the_backbone_starts_from_mmdetections_checkpoint(scenes, tmp_path):
    design = find_design("convnext_atto")
    own = create_model(design, 7).state_dict()
    official = {
        f"backbone.{n}": t for n, t in rename(own, design, "official").items() if not n.startswith(("head", "norm"))
    }
    norms = {
        f"backbone.norm{i}.{part}": torch.full((w,), 2.0)
        for i, w in enumerate(design.widths)
        for part in ("weight", "bias")
    }
    others = {"neck.lateral_convs.0.conv.weight": torch.zeros(4, 4, 1, 1), "bbox_head.fc_cls.bias": torch.zeros(81)}
    torch.save({"meta": {}, "state_dict": {**official, **norms, **others}}, tmp_path / "mask_rcnn.pth")
    settings = {"batch_size": 4}
    request = Request(
        "convnext_atto", epochs=2, image_size=64, weights=str(tmp_path / "mask_rcnn.pth"), settings=settings
    )
    made = prepare(request, scenes["detection"])
    started = build_network(made.trial, made.start).state_dict()
    name = "stages.2.blocks.0.pointwise1.weight"
    assert torch.equal(started[f"backbone.{name}"], own[name])
    assert started["backbone.norms.3.bias"].eq(2).all()


def test_rare_classes_of_pixels_count_more(scenes, tmp_path):
    weights = pixel_weights(np.array([8, 1, 0]))
    assert weights[1] / weights[0] == pytest.approx(8**0.5)
    assert (8 * weights[0] + weights[1]) / 9 == pytest.approx(1)
    made = prepared(scenes, "fpn", settings={"class_balance": "loss"})
    trainer = Trainer(made.trial, made.images, RUNTIME)
    head, train = trainer.model.head, made.images.train
    counts = sum(np.bincount(train.mask(i).reshape(-1), minlength=256) for i in range(len(train)))
    assert torch.equal(head.pixel_weights, pixel_weights(counts[: len(head.pixel_weights)]))
    pixels, targets = next(iter(trainer.batches.iterate(0, 1)))
    inputs, targets = trainer.task.training_batch(pixels, targets, 0, None)
    with torch.no_grad():
        loss = trainer.model.eval()(inputs, targets)["pixels"]
        logits = trainer.model(inputs)
    by_hand = torch.nn.functional.cross_entropy(logits, targets.long(), head.pixel_weights, ignore_index=255)
    assert loss == pytest.approx(float(by_hand), rel=1e-4)
    assert not any("pixel_weights" in name for name in trainer.kept().state_dict())
    with pytest.raises(RecipeError, match="needs class_balance=off"):
        Trainer(prepared(scenes, settings={"class_balance": "loss"}).trial, scenes["detection"], RUNTIME)


@pytest.mark.parametrize(
    "setting", [{"label_smoothing": 0.1}, {"test_mirror": "on"}, {"test_crop_ratio": 0.9}, {"head_init_scale": 0.001}]
)
@pytest.mark.parametrize("head", LIGHT)
def test_settings_that_would_be_ignored_are_refused(scenes, head, setting):
    (name,) = setting
    with pytest.raises(RequestError, match=f"{name} is for classification, not for boxes and masks: leave it out"):
        prepared(scenes, head, settings=setting)
    recipe = prepared(scenes, head).trial.recipe
    prepared(scenes, head, settings={name: recipe.get(name)})  # what it is anyway


@pytest.mark.parametrize(("epochs", "side"), [(700, 128), (400, 96), (9, 64)])
def test_minutes_make_the_canvas_smaller_for_enough_steps_but_not_by_more_than_half(
    scenes, epochs, side, tmp_path, monkeypatch
):
    images = scenes["detection"]  # a minute holds so many epochs of 4 steps on its own canvas
    step = 58 / (4 * epochs) / 128**2

    def probe(trial, *_, **__):
        return Speed(step * trial.data.image_size**2, 0.0, 4 * trial.recipe.epochs)

    monkeypatch.setattr(nextify.training.probe, "probe", probe)
    made = prepare_in(tmp_path, Request("convnext_atto", minutes=1.0, settings={"batch_size": 4}), images, RUNTIME)
    assert max(made.trial.data.canvas) == made.trial.data.image_size == side
    height, width = made.trial.data.canvas
    assert (height, width) == canvas_of(images, side)
    assert (
        next(n for n in made.notes if n.startswith("head fcos, on a canvas of ")).count(f"{width}×{height} pixels") == 1
    )
    assert made.trial.recipe.epochs == pytest.approx(epochs * (128 / side) ** 2, rel=0.05)


@pytest.mark.parametrize("kept", [True, False])
def test_a_detector_starts_from_a_detector(scenes, kept, tmp_path):
    made = prepared(scenes)
    state = build_network(replace(made.trial, seed=7)).state_dict()
    classes = made.images.classes if kept else tuple(f"other {name}" for name in made.images.classes)
    data = made.trial.data
    about = DenseAbout(made.trial.design, classes, data.canvas, data.mean, data.std, name="convnext_atto")
    save_bundle(tmp_path / "detector", state, about)
    request = Request(
        "convnext_atto", epochs=2, image_size=64, weights=str(tmp_path / "detector"), settings={"batch_size": 4}
    )
    again = prepare(request, made.images)
    assert any(
        note.endswith("the head is kept" if kept else "the head is new, for other classes") for note in again.notes
    )
    larger = prepare(replace(request, image_size=288), made.images)
    assert any(note.endswith("--head fcos --image-size 64 would keep it") for note in larger.notes) == kept
    started = build_network(again.trial, again.start).state_dict()
    same = {name for name in state if torch.equal(state[name], started[name])}
    assert {name for name in state if name.startswith("backbone.")} <= same
    assert ("head.neck.pyramid.inner_blocks.0.0.weight" in same) == kept


@pytest.mark.parametrize(
    ("data", "asked", "words"),
    [
        ("digits", {"ignore_index": 3}, "--ignore-index is for masks, but digits has none"),
        ("scenes", {"ignore_index": 3}, "--ignore-index is for masks, but scenes is used for its boxes"),
        ("scenes", {"without": "list.csv"}, "--without is for classification, but scenes is annotated for detection"),
    ],
)
def test_python_refuses_what_the_images_have_no_use_for(data, asked, words, tmp_path):
    with pytest.raises(DataError, match=words):
        train("convnext_atto", data, out=tmp_path, device="cpu", **asked)


def test_an_index_to_ignore_is_for_masks(tmp_path, capsys):
    arguments = ["train", "convnext_atto", "--data", "scenes", "--ignore-index", "3", "--out", str(tmp_path)]
    assert cli.main(arguments) == 2
    assert "--ignore-index is for masks, but scenes is used for its boxes" in capsys.readouterr().err
