"""``nextify train`` and what it leaves: fitted and resolved, resumed bit for bit, evaluated to the same figures."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nextify.training.probe
from nextify.cli import main
from nextify.cli.progress import Stopping
from nextify.cli.settings import setting, settings
from nextify.data import DataError, Images, ImageSet, TestBatches, finish, open_images
from nextify.data.batches import divided
from nextify.data.images import UniformStore
from nextify.data.kept import Kept
from nextify.data.preflight import preflight, read_split, split_csv
from nextify.deploy.runners import predict
from nextify.evaluation.evaluate import evaluate
from nextify.evaluation.pictures import curves_picture
from nextify.fitting.fit import FitError
from nextify.paper.design import RESNET50
from nextify.paper.recipe import CONVNEXT, RECIPES, RandAugment, Shift
from nextify.system import native
from nextify.system.files import UnusableFolder, write_json_atomic
from nextify.system.lease import taken
from nextify.tasks.classification import Inference, class_weights, fitted_temperature
from nextify.training.loop import TrainingStopped
from nextify.training.overfit import overfit_batch
from nextify.training.prepare import Prepared, prepare, resolved
from nextify.training.probe import OutOfMemory, Speed, measure
from nextify.training.request import Request, RequestError
from nextify.training.result import finished
from nextify.training.train import folder_of, prepare_in, run_prepared
from nextify.training.train import train as train_in_one_call
from nextify.training.trained_recipe import UNCALIBRATED_GROUPS
from nextify.training.trainer import Trainer
from nextify.training.trial import IMAGENET_MEAN, IMAGENET_STD, VERSION, Data, Runtime, Trial, _deciding
from nextify.weights import load, load_bundle, model_card, save_bundle
from tests.helpers import Captured

ONE_THREAD = Runtime(threads=1)
TINY = ("--scale", "tiny", "--device", "cpu", "--threads", "1")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the command has trained on the digits for two epochs."""
    folder = tmp_path_factory.mktemp("run") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nextify.training.train.curves_picture", curves_picture)  # as it is, unlike in other tests
        assert main(["train", "convnext_atto", "--data", "digits", "--epochs", "2", *TINY, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(out: Path) -> Path:
    (bundle,) = out.glob("*/bundle")
    return bundle


def bundle_state(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_bundle(path).state)


def refused(capsys: Captured, code: int, *arguments: str) -> str:
    assert main(["train", *arguments, "--device", "cpu", "--threads", "1"]) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning: " not in line]
    assert len(lines) == 1
    return lines[0]


# -- what a training leaves ----------------------------------------------------------------------------------------


def test_a_training_leaves_a_bundle_that_says_everything(trained: Path, digits: Images) -> None:
    about = load_bundle(trained).about
    assert about.classes == digits.classes
    assert about.recipe is not None
    assert (about.recipe.epochs, about.recipe.horizontal_flip) == (2, 0.0)
    assert about.preprocessing.size == (16, 16)
    assert about.preprocessing.crop_ratio == about.recipe.test_crop_ratio == 1.0
    top1, top5 = about.metrics
    assert (top1.name, top5.name, top1.dataset, top1.images) == ("top1", "top5", "digits", 1197)
    assert 20 < top1.value < top5.value
    for word in ("n = 1", "seed 0", "torch", "nextify"):
        assert word in top1.provenance


def test_a_training_leaves_its_records(trained: Path) -> None:
    folder = trained.parent
    assert not list(folder.glob("checkpoint*"))
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == [1, 2]
    resolved = json.loads((folder / "recipe.json").read_text())
    assert resolved["recipe_name"] == "scratch_small"
    assert resolved["recipe"]["optimizer"]["kind"] == "muon"
    assert {"batch_size", "epochs", "layer_scale"} <= {change["field"] for change in resolved["changes"]}
    assert all(change["reason"] for change in resolved["changes"])
    result = json.loads((folder / "result.json").read_text())
    assert folder.name == result["fingerprint"]
    assert result["environment"]["torch"]
    report = json.loads((folder / "preflight.json").read_text())
    assert (report["train_images"], report["test_images"], report["classes"]) == (600, 1197, 10)
    with Image.open(folder / "curves.png") as picture:
        assert picture.size[0] > 300


def test_evaluation_gives_the_trainings_own_figures(trained: Path, digits: Images) -> None:
    found = evaluate(trained, digits, threads=1)
    top1, top5 = load_bundle(trained).about.metrics
    assert (found.top1, found.top5, found.images) == (top1.value, top5.value, 1197)
    assert sum(map(sum, found.confusion)) == sum(c.images for c in found.classes) == 1197
    assert sum(found.confusion[i][i] for i in range(10)) == round(found.top1 / 100 * 1197)
    assert evaluate(trained, digits, part="all", threads=1).images == 1797


def test_evaluate_command_writes_and_prints(capsys: Captured, trained: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", str(trained), "--data", "digits", "--device", "cpu", "--threads", "1"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    top1 = load_bundle(trained).about.metrics[0].value
    text = capsys.readouterr().out
    assert f"top-1 {top1:.2f} %, top-5 " in text
    names = {"evaluation.json", "confusion.png", "reliability.png", "mistakes.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == top1
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    loaded = load(trained)
    save_bundle(tmp_path.parent / "warmer", loaded.model.state_dict(), replace(loaded.about, temperature=2.0))
    for other in ([*arguments, "--part", "all"], ["evaluate", str(tmp_path.parent / "warmer"), *arguments[2:]]):
        assert main([*other, "--out", str(tmp_path)]) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "holds another evaluation (convnext_atto on digits), whose results would be lost" in said
        assert said.endswith("choose another --out")
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_mirror_images_are_asked_wherever_the_network_is(trained: Path, digits: Images, tmp_path: Path) -> None:
    loaded = load(trained)
    recipe = loaded.about.recipe
    assert recipe is not None
    mirrored = save_bundle(
        tmp_path / "mirrored",
        loaded.model.state_dict(),
        replace(loaded.about, recipe=recipe.with_(test_mirror="on")),
    )
    pixels = torch.stack([loaded.preprocessing.pixels(image) for image in digits.test.array[:50]])  # type: ignore[index]
    mean, std = torch.tensor(loaded.preprocessing.mean), torch.tensor(loaded.preprocessing.std)
    x = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits = (loaded.model(x) + loaded.model(x.flip(3))) / 2
    part = replace(digits, test=ImageSet(digits.test.labels[:50], UniformStore(Kept(digits.test.array[:50]))))  # type: ignore[index]
    found = evaluate(mirrored, part, threads=1)
    assert found.top1 == 100 * np.mean(logits.argmax(1).numpy() == part.test.labels)
    assert found.notes[-1] == "logits are the mean of each image's and its mirror image's (test_mirror)"
    assert "mirror" in model_card(load_bundle(mirrored).about)
    Image.fromarray(digits.test.load(0)).save(tmp_path / "digit.png")
    (prediction,) = predict(mirrored, [tmp_path / "digit.png"])
    assert prediction.guesses[0].probability == pytest.approx(float(logits[0].softmax(0).max()), rel=1e-5)


def test_a_training_with_mirror_images_measures_with_them(digits: Images, tmp_path: Path) -> None:
    request = Request("convnext_atto", epochs=1, scale="tiny", settings={"test_mirror": "on", "batch_size": 100})
    few = replace(digits, test=digits.test.selected(np.arange(200)))
    prepared = prepare(request, few)
    done = run_prepared(prepared, tmp_path, ONE_THREAD)
    assert done.top1 == evaluate(done.bundle, few, threads=1).top1
    plain = prepare(replace(request, settings={"batch_size": 100}), few)
    assert prepared.trial.fingerprint != plain.trial.fingerprint


def test_a_temperature_is_fitted_on_images_that_were_not_trained_on(
    capsys: Captured, digits: Images, tmp_path: Path
) -> None:
    arguments = [*DIGITS, "--epochs", "2", *TINY, "--set", "calibration=0.1", "--out", str(tmp_path)]
    assert main(["train", *arguments]) == 0
    assert "95 % interval of top-1 " in capsys.readouterr().out
    (bundle,) = tmp_path.glob("*/bundle")
    parts = {part: len(rows) for part, rows in read_split(bundle.parent).items()}
    assert parts == {"train": 540, "calibration": 60, "test": 1197}
    about = load_bundle(bundle).about
    assert about.recipe is not None
    assert about.temperature < 1  # after two epochs with mixed and smoothed labels
    trained, held_out = divided(digits.train, about.recipe)
    assert not set(trained) & set(held_out)
    model = load(bundle).model
    logits = torch.cat([
        Inference().logits(model, images)
        for images, _ in (
            finish(pixels, labels, about.recipe, 10, 0, 0, "cpu", IMAGENET_MEAN, IMAGENET_STD, train=False)
            for pixels, labels in TestBatches(digits.train.selected(held_out), about.recipe, 16, 256)
        )
    ])  # fmt: skip
    labels = torch.from_numpy(digits.train.labels[held_out])
    assert about.temperature == pytest.approx(fitted_temperature(logits.detach(), labels), rel=1e-3)
    assert "temperature" in model_card(about)
    found = evaluate(bundle, digits, threads=1)
    plain = save_bundle(tmp_path / "plain", model.state_dict(), replace(about, temperature=1.0))
    without = evaluate(plain, digits, threads=1)
    assert found.top1 == without.top1 == about.metrics[0].value
    assert found.uncalibrated_error == pytest.approx(without.expected_calibration_error, abs=1e-5)
    assert found.expected_calibration_error < without.expected_calibration_error
    assert "--set calibration=0.1" in without.notes[-1]
    Image.fromarray(digits.test.load(0)).save(tmp_path / "digit.png")
    sure, unsure = (predict(path, tmp_path / "digit.png")[0].guesses[0] for path in (bundle, plain))
    assert sure.name == unsure.name
    assert sure.probability > unsure.probability


def test_images_are_held_out_for_confidences_where_there_are_enough(digits: Images) -> None:
    request = Request("convnext_atto", epochs=1, scale="tiny")
    many = images_of([600, 600], [5, 5])
    prepared = prepare(request, many)
    held_out = divided(many.train, prepared.trial.recipe)[1]
    assert len(held_out) == 100
    assert str(prepared.changes[-1]) == (
        "calibration: off → 0.0833 (100 training images are held out, and confidences fitted on them; "
        "--set calibration=off trains on all)"
    )
    assert prepared.steps_per_epoch == 1100 // prepared.trial.recipe.batch_size
    many.train.groups = [f"patient {i % 60}" for i in range(1200)]
    grouped = prepare(request, many)
    assert "(100 training images are held out, in whole groups," in str(grouped.changes[-1])
    held_out = divided(many.train, grouped.trial.recipe)[1]
    assert {i % 60 for i in held_out}.isdisjoint(i % 60 for i in {*range(1200)} - {*held_out.tolist()})
    many.train.groups = [f"patient {i % 5}" for i in range(1200)]
    assert UNCALIBRATED_GROUPS in prepare(request, many).notes
    many.train.groups = None
    for images, chosen, said in ((many, {"calibration": "off"}, False), (digits, {}, True)):
        without = prepare(replace(request, settings=chosen), images)
        assert without.trial.recipe.calibration == "off"
        assert any("confidences are not calibrated" in note for note in without.notes) == said
    assert prepare(replace(request, settings={"calibration": 0.2}), many).trial.recipe.calibration == 0.2


@pytest.mark.parametrize(
    ("settings", "trained"), [({}, 1100), ({"calibration": 0.5}, 600), ({"calibration": "off"}, 1200)]
)
def test_the_recipe_is_fitted_to_the_images_that_are_trained_on(settings: dict[str, object], trained: int) -> None:
    request = Request("convnext_atto", epochs=20, scale="tiny", settings={**settings, "ema": 0.99})
    prepared = prepare(request, images_of([600, 600], [5, 5]))
    steps = prepared.steps_per_epoch
    assert steps == trained // prepared.trial.recipe.batch_size
    assert any(
        f"({trained:,} images make {steps} steps an epoch, {20 * steps} in all)" in str(c) for c in prepared.changes
    )


def test_images_held_out_leave_fewer_for_a_batch() -> None:
    half = Request("convnext_atto", scale="tiny", settings={"calibration": 0.5, "batch_size": 601})
    with pytest.raises(ValueError, match="a batch of 601 images is larger than an epoch of 600"):
        prepare(half, images_of([600, 600], [5, 5]))


def test_a_training_that_was_fitted_otherwise_is_named_and_goes_on_by_its_settings(tmp_path: Path) -> None:
    request, images = Request("convnext_atto", epochs=1, scale="tiny"), images_of([600, 600], [5, 5])
    now = prepare(request, images)
    before = replace(now.trial, recipe=now.trial.recipe.with_(weight_decay=0.04))
    folder = tmp_path / before.fingerprint
    folder.mkdir()
    write_json_atomic(folder / "recipe.json", resolved(replace(now, trial=before)))
    said = prepare_in(tmp_path, request, images, ONE_THREAD)
    assert said.trial == now.trial
    assert (
        f"{folder} is this run as an earlier version of nextify fitted it (--set weight_decay=0.04)" in said.notes[-1]
    )
    assert prepare(replace(request, settings={"weight_decay": 0.04}), images).trial == before
    other = prepare_in(tmp_path, replace(request, seed=1), images, ONE_THREAD)
    assert not any("earlier version" in note for note in other.notes)


def test_another_licence_for_a_finished_training_is_reported(capsys: Captured, out: Path, trained: Path) -> None:
    arguments = ["train", *DIGITS, "--epochs", "2", *TINY, "--out", str(out)]
    for licence, said in (("mit", True), ("yours", False)):
        assert main([*arguments, "--licence", licence]) == 0
        assert ("finished with the licence yours" in capsys.readouterr().err) == said
    assert load_bundle(trained).about.licence == "yours"


def test_top5_of_at_most_five_classes_is_not_shown(capsys: Captured, shapes: Path, tmp_path: Path) -> None:
    machine = ["--data", str(shapes), "--device", "cpu", "--threads", "1"]
    assert main(["train", "convnext_atto", *machine, "--epochs", "1", "--scale", "tiny", "--out", str(tmp_path)]) == 0
    bundle = tmp_path / "latest"
    assert main(["evaluate", str(bundle), *machine]) == 0
    said, card = capsys.readouterr().out, model_card(load_bundle(bundle).about)
    assert (said.count("top-1 "), said.count("top-5")) == (5, 0)  # of the epoch and of both commands, with intervals
    assert ("| top1 |" in card, "| top5 |" in card) == (True, False)
    assert main(["evaluate", str(bundle), *machine, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top5"] == 100
    assert [metric.name for metric in load_bundle(bundle).about.metrics] == ["top1", "top5"]


def test_evaluate_refuses_other_classes(capsys: Captured, trained: Path, shapes: Path) -> None:
    arguments = ["evaluate", str(trained), "--data", str(shapes), "--device", "cpu", "--threads", "1"]
    assert main(arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "3 of 3 classes that the bundle does not know: blue, green, red; it knows 0, 1, 2" in line


def test_a_bundle_that_is_not_there_names_the_latest_beside_it(capsys: Captured, out: Path, trained: Path) -> None:
    assert main(["evaluate", str(out / "bundle"), "--data", "digits"]) == 1
    assert f"the last finished run there is {out / 'latest'}" in capsys.readouterr().err


def test_predictions_on_files_are_the_evaluations(trained: Path, digits: Images, tmp_path: Path) -> None:
    for i in range(20):
        Image.fromarray(digits.test.load(i)).save(tmp_path / f"{i:02}.png")
    part = ImageSet(digits.test.labels[:20], UniformStore(Kept(digits.test.array[:20])))  # type: ignore[index]
    right = [p.guesses[0].index == label for p, label in zip(predict(trained, [tmp_path]), part.labels, strict=True)]
    assert 100 * np.mean(right) == evaluate(trained, replace(digits, test=part), threads=1).top1


def test_the_same_command_trains_nothing_again(capsys: Captured, out: Path, trained: Path) -> None:
    before = (trained / "model.safetensors").stat().st_mtime_ns
    assert main(["train", "convnext_atto", "--data", "digits", "--epochs", "2", *TINY, "--out", str(out)]) == 0
    assert "finished already" in capsys.readouterr().out
    assert (trained / "model.safetensors").stat().st_mtime_ns == before


def test_a_stopped_training_resumes_to_the_same_weights(trained: Path, digits: Images, tmp_path: Path) -> None:
    prepared = prepare(Request("convnext_atto", epochs=2, scale="tiny"), digits)
    for steps in (10, 45):  # in the first epoch, then in the second
        asked = iter(range(1000))
        with pytest.raises(TrainingStopped):
            run_prepared(prepared, tmp_path, ONE_THREAD, should_stop=lambda asked=asked, n=steps: next(asked) >= n - 1)
        assert (tmp_path / prepared.trial.fingerprint / "checkpoint.pt").exists()
    done = run_prepared(prepared, tmp_path, ONE_THREAD)
    expected, resumed = bundle_state(trained), bundle_state(done.bundle)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in expected.items())
    log = (done.bundle.parent / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in log] == [1, 2]


def test_signals_ask_to_stop() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stopping() as stopping:
        assert not stopping.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_later_sigterm_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("nextify.cli.progress.time.monotonic", lambda: now[0])
    with Stopping() as stopping:
        for _ in range(3):  # as timeout sends it
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.asked()
        now[0] += 1.5
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


CHOSEN = {"norm": "batch", "mixing": "off", "rand_augment": RandAugment(7.0, 0.5), "optimizer.momentum": 0.9}


def test_in_python(shapes: Path, tmp_path: Path) -> None:
    wanted: dict[str, Any] = {"epochs": 1, "scale": "tiny", "settings": CHOSEN}
    done = train_in_one_call("resnet50", str(shapes), out=tmp_path / "out", device="cpu", threads=1, **wanted)
    about = load_bundle(done.bundle).about
    assert about.recipe is not None
    assert (about.recipe.rand_augment, about.recipe.get("optimizer.momentum")) == (RandAugment(7.0, 0.5), 0.9)
    assert (about.recipe.mixing, about.design.norm, about.classes) == ("off", "batch", ("blue", "green", "red"))


# -- fine-tuning ---------------------------------------------------------------------------------------------------


def test_fine_tuning_takes_a_new_head_and_leaves_frozen_stages(trained: Path, shapes: Path, tmp_path: Path) -> None:
    images = open_images(str(shapes))
    whole = load_bundle(trained)
    start = save_bundle(tmp_path / "start", whole.state, replace(whole.about, licence="dinov3-license"))
    request = Request("convnext_atto", weights=str(start), epochs=2, frozen_stages=2)
    prepared = prepare(request, images)
    assert prepared.recipe_name == "finetune_small"
    assert prepared.trial.recipe.layer_decay == 0.8
    assert any("the classifier is new: 3 classes" in note for note in prepared.notes)
    assert not {change.field for change in prepared.changes} & {"stem", "layer_scale", "stage_strides"}
    done = run_prepared(prepared, tmp_path, ONE_THREAD)
    assert load_bundle(done.bundle).about.licence == "dinov3-license"
    before, after = bundle_state(trained), bundle_state(done.bundle)
    assert after["head.classifier.weight"].shape[0] == 3
    for name, tensor in before.items():
        if not name.startswith("head.classifier."):
            frozen = name.startswith(("stem.", "stages.0.", "stages.1."))
            assert torch.equal(after[name], tensor) == frozen, name
    free = prepare(replace(request, frozen_stages=0), images)
    assert free.trial.fingerprint != prepared.trial.fingerprint


def test_fine_tuning_on_the_same_classes_keeps_the_head(trained: Path, digits: Images) -> None:
    prepared = prepare(Request("convnext_atto", weights=str(trained), epochs=1), digits)
    trainer = Trainer(prepared.trial, digits, ONE_THREAD, prepared.start)
    state = bundle_state(trained)
    assert all(torch.equal(tensor, state[name]) for name, tensor in trainer.model.state_dict().items())


def test_weights_that_know_the_test_images_are_named(trained: Path, shapes: Path, tmp_path: Path) -> None:
    images, whole = open_images(str(shapes)), load_bundle(trained)
    start = save_bundle(tmp_path / "bundle", whole.state, whole.about)

    def said(images: Images) -> list[str]:
        notes = prepare(Request("convnext_atto", weights=str(start), epochs=1), images).notes
        return [note for note in notes if "too good" in note]

    (tmp_path / "split.csv").write_text(split_csv(images))
    assert said(images) == []  # tested on then as now
    tests = len(images.test)
    fold = replace(images, test=images.train.selected(np.arange(tests)))
    assert said(fold) == [
        f"{start} was trained on {tests} of the {tests} images that are tested on, so the result will be too good: "
        "start from weights that do not know them"
    ]
    namesakes = replace(fold, test=ImageSet(fold.test.labels, fold.test.store, fold.test.names))
    assert said(namesakes) == []


def test_the_weights_decide_the_trial(trained: Path, digits: Images, tmp_path: Path) -> None:
    bundle = load_bundle(trained)
    state = {name: tensor.clone() for name, tensor in bundle.state.items()}
    state["stem.conv.weight"][0] += 1
    other = save_bundle(tmp_path / "other", state, bundle.about)
    prints = {
        prepare(Request("convnext_atto", weights=str(w), epochs=1), digits).trial.fingerprint for w in (trained, other)
    }
    assert len(prints) == 2


def test_settings_at_their_defaults_are_not_part_of_a_fingerprint() -> None:
    trial = Trial(RESNET50, CONVNEXT, Data("x", "y", 10, 32), 0)
    assert replace(trial, data=replace(trial.data, name="another name of the same images")) == replace(
        trial, data=Data("another name of the same images", "y", 10, 32)
    )
    assert replace(trial, data=replace(trial.data, name="z")).fingerprint == trial.fingerprint
    text = json.dumps(_deciding(trial))
    assert "class_balance" not in text
    assert "frozen_stages" not in text
    changed = (
        replace(trial, recipe=CONVNEXT.with_(class_balance="loss")),
        replace(trial, recipe=CONVNEXT.with_(class_balance="loss", label_smoothing=0.0)),
        replace(trial, recipe=CONVNEXT.with_(rand_augment=RandAugment(7.0))),
        replace(trial, recipe=CONVNEXT.with_(rand_augment="off")),
        replace(trial, recipe=CONVNEXT.with_(crop="shift")),
        replace(trial, recipe=CONVNEXT.with_(crop=Shift(0.25))),
        replace(trial, recipe=CONVNEXT.with_(optimizer="sgd")),
        replace(trial, recipe=CONVNEXT.with_(optimizer="muon")),
        replace(trial, design=RESNET50.with_(kernel_size=5)),
        replace(trial, data=replace(trial.data, fingerprint="z")),
        replace(trial, seed=1),
        replace(trial, start="abc"),
        replace(trial, frozen_stages=1),
        replace(trial, accumulation=2),
    )
    assert len({t.fingerprint for t in (trial, *changed)}) == 1 + len(changed)


def test_a_loss_that_was_weighted_otherwise_is_of_another_trial() -> None:
    """Weights of classes multiplied what smoothing gives to them; only trials with both are trained again."""
    trial = Trial(RESNET50, CONVNEXT, Data("", "y", 10, 32), 0)
    for changes, same in (
        ({}, True),
        ({"class_balance": "sampling"}, True),
        ({"class_balance": "loss"}, False),
        ({"class_balance": "loss", "label_smoothing": 0.0}, True),
    ):
        made = replace(trial, recipe=CONVNEXT.with_(**changes))
        before = hashlib.sha256(json.dumps([VERSION, _deciding(made)], sort_keys=True).encode()).hexdigest()[:12]
        assert (made.fingerprint == before) == same


def test_a_training_of_an_earlier_version_is_named_and_not_reused(out: Path, digits: Images, tmp_path: Path) -> None:
    request = Request("convnext_atto", epochs=2, scale="tiny")
    prepared = prepare(request, digits)
    (folder,) = (path.parent for path in out.glob("*/result.json"))
    earlier = shutil.copytree(folder, tmp_path / "0123456789ab")
    for name in ("result.json", "recipe.json"):
        content = json.loads((earlier / name).read_text())
        (earlier / name).write_text(json.dumps({**content, "version": 3}))
    assert finished(earlier, prepared.trial) is not None  # the same trial, but in a folder of another name
    (note,) = (note for note in prepare_in(tmp_path, request, digits, ONE_THREAD).notes if "earlier version" in note)
    assert str(earlier) in note
    assert not any("earlier version" in note for note in prepare_in(out, request, digits, ONE_THREAD).notes)


# -- settings and refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("batch_size=64", 64),
        ("learning_rate=1e-3", 1e-3),
        ("mixing=off", "off"),
        ("mixing.mixup=off", "off"),
        ("optimizer=muon", "muon"),
        ("optimizer.betas=0.9,0.95", (0.9, 0.95)),
        ("rand_augment=9,0.5", RandAugment(9, 0.5)),
        ("rand_augment=7", RandAugment(7)),
        ("kernel_size=9", 9),
        ("depths=1,1,3,1", (1, 1, 3, 1)),
        ("norm=batch", "batch"),
    ],
)
def test_settings(text: str, value: object) -> None:
    name, found = setting(text)
    assert (name, found) == (text.partition("=")[0], value)


def test_settings_stand_above_the_fit(digits: Images) -> None:
    plain = prepare(Request("convnext_atto", epochs=3, scale="tiny"), digits).trial
    texts = ("batch_size=32", "ema=off", "kernel_size=3", "layer_scale=1e-6", "horizontal_flip=0.5")
    changed = prepare(Request("convnext_atto", settings=settings(texts), epochs=3, scale="tiny"), digits)
    recipe, design = changed.trial.recipe, changed.trial.design
    assert (recipe.batch_size, recipe.ema, recipe.horizontal_flip) == (32, "off", 0.5)
    assert (design.kernel_size, design.layer_scale) == (3, 1e-6)
    assert plain.recipe.batch_size != 32
    slow = prepare(Request("convnext_atto", settings={"learning_rate": 1e-9}, epochs=3, scale="tiny"), digits)
    assert slow.trial.recipe.min_learning_rate == 0
    assert not {"ema", "layer_scale", "horizontal_flip"} & {change.field for change in changed.changes}


def test_weights_beside_batch_norm_are_not_averaged(digits: Images) -> None:
    def prepared(*texts: str) -> Prepared:
        return prepare(Request("convnext_atto", settings=settings(texts), epochs=3, scale="tiny"), digits)

    layer, batch, asked = prepared(), prepared("norm=batch"), prepared("norm=batch", "ema=0.5")
    assert layer.trial.recipe.ema != "off"
    assert (batch.trial.recipe.ema, asked.trial.recipe.ema) == ("off", 0.5)
    assert [change.after for change in batch.changes if change.field == "ema"] == ["off"]
    assert any("batch norm's running statistics" in warning for warning in asked.preflight.warnings)


DIGITS = ("convnext_atto", "--data", "digits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("convnext_ato", "--data", "digits"), "did you mean convnext_atto"),
        ((*DIGITS, "--recipe", "best"), "no recipe 'best'; there are resnet, convnext"),
        ((*DIGITS, "--set", "lr=1"), "--set Recipe and Design have no lr"),
        ((*DIGITS, "--set", "batch_sise=1"), "did you mean batch_size"),
        ((*DIGITS, "--set", "batch_size"), "--set needs FIELD=VALUE"),
        ((*DIGITS, "--set", "learning_rate=fast"), "--set learning_rate must be a number above 0"),
        ((*DIGITS, "--set", "optimizer.betas=0.9"), "--set optimizer.betas must be two numbers"),
        ((*DIGITS, "--set", "rand_augment=strong"), "--set rand_augment.magnitude must be a number"),
        (
            (*DIGITS, "--set", "mixing.probability=2"),
            "--set mixing.probability must be a number at least 0",
        ),
        ((*DIGITS, "--set", "batch_size=601"), "is larger than an epoch of 600"),
        ((*DIGITS, "--set", "batch_size=1.5"), "batch_size must be a whole number"),
        ((*DIGITS, "--set", "epochs=0"), "epochs must be a whole number at least 1"),
        ((*DIGITS, "--epochs", "0"), "--epochs must be 1 or more"),
        ((*DIGITS, "--minutes", "0"), "--minutes must be above 0"),
        ((*DIGITS, "--epochs", "1", "--minutes", "1"), "set the same thing: give only one"),
        ((*DIGITS, "--image-size", "0"), "--image-size must be 1 or more"),
        ((*DIGITS, "--freeze", "1"), "give --weights too"),
        ((*DIGITS, "--workers", "-1"), "--workers must be 0 or more"),
        ((*DIGITS, "--evaluations", "0"), "--evaluations must be 1 or more"),
        (("convnext_atto", "--data", "/nowhere/at/all"), "no such folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    capsys: Captured, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in refused(capsys, 2, *arguments, "--out", str(tmp_path))


def test_parts_that_were_asked_for_are_not_called_a_lack_of_memory(capsys: Captured, tmp_path: Path) -> None:
    arguments = ["train", *DIGITS, *TINY, "--epochs", "1", "--accumulation", "2", "--dry-run", "--out", str(tmp_path)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "split into 2 micro-batches, as --accumulation asks" in text
    assert "memory)" in text
    assert "fit in memory" not in text


def test_kernels_can_be_switched_off(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For this training, and not for what the process does after it."""
    modes: list[str] = []

    def noting(*arguments: Any) -> Trainer:
        modes.append(native.image_kernels())
        return Trainer(*arguments)

    monkeypatch.setattr("nextify.training.run.Trainer", noting)
    arguments = ["train", "convnext_atto", "--data", str(shapes), *TINY, "--epochs", "1", "--kernels", "off"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert (modes, native.image_kernels()) == (["off"], "auto")
    (result,) = tmp_path.glob("*/result.json")
    assert json.loads(result.read_text())["runtime"]["kernels"] == "off"


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_measured(capsys: Captured, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refused(capsys, 1, *DIGITS, "--scale", "tiny", "--out", str(tmp_path / "file" / "out"))
    assert "choose another --out" in line


def test_two_runs_do_not_train_the_same(digits: Images, tmp_path: Path) -> None:
    prepared = prepare(Request("convnext_atto", epochs=1, scale="tiny"), digits)
    folder = folder_of(tmp_path, prepared.trial)
    folder.mkdir()
    with taken(folder), pytest.raises(UnusableFolder, match="in use by another run"):
        run_prepared(prepared, tmp_path, ONE_THREAD)


def test_bad_weights_are_one_line(capsys: Captured, trained: Path, tmp_path: Path) -> None:
    there = ("--out", str(tmp_path))
    assert "no weights at" in refused(capsys, 1, *DIGITS, "--weights", str(tmp_path / "none.pth"), *there)
    line = refused(capsys, 2, "convnext_nano", "--data", "digits", "--weights", str(trained), *there)
    assert "holds convnext_atto, not convnext_nano" in line
    line = refused(capsys, 2, *DIGITS, "--weights", str(trained), "--scale", "tiny", *there)
    assert "--weights brings its own design" in line


def test_a_loss_that_is_no_number_ends_with_one_line(capsys: Captured, tmp_path: Path) -> None:
    arguments = (*DIGITS, "--scale", "tiny", "--epochs", "2", "--set", "optimizer=sgd", "--set", "learning_rate=1e30")
    line = refused(capsys, 1, *arguments, "--out", str(tmp_path))
    assert "nextify: the loss is" in line
    assert "the batch was" in line


def test_mixed_sizes_are_brought_to_their_middle_one(tmp_path: Path) -> None:
    for c in ("a", "b"):
        (tmp_path / c).mkdir()
        for i in range(12):
            colour = (20 * i, 10 * ord(c) % 256, 5)
            Image.new("RGB", (200, 60 + i), colour).save(tmp_path / c / f"{i}.png")
    prepared = prepare(Request("convnext_atto", epochs=1), open_images(str(tmp_path)))
    assert prepared.trial.data.image_size == 64
    assert any("images of 64 pixels" in note for note in prepared.notes)


# -- preflight, memory, time ---------------------------------------------------------------------------------------


def images_of(train: list[int], test: list[int], pixels: int | None = None) -> Images:
    """Images of noise, ``train[c]`` and ``test[c]`` of class c; all the same with ``pixels``."""
    rng = np.random.default_rng(0)
    sets = []
    for counts in (train, test):
        labels = np.repeat(np.arange(len(counts)), counts)
        array = rng.integers(0, 256, (len(labels), 8, 8, 3), np.uint8)
        if pixels is not None:
            array[:] = pixels
        sets.append(ImageSet(labels, UniformStore(Kept(array))))
    names = tuple(f"class {c}" for c in range(len(train)))
    return Images("noise", names, *sets, True, "f", (), (8, 8))


def test_preflight_tells_facts_and_what_will_hurt() -> None:
    recipe = RECIPES["scratch_small"].with_(epochs=5, warmup_epochs=0.5, batch_size=16, learning_rate=1.0)
    fitted = recipe.with_(learning_rate=0.01)
    report = preflight(images_of([100, 4, 0], [5, 5, 0]), recipe, fitted=fitted)
    assert report.facts.classes_without_test_images == ["class 2"]
    assert report.facts.images_per_class == {"class 0": 100, "class 1": 4, "class 2": 0}
    text = "\n".join(report.warnings)
    for part in (
        "no training images of class 2",
        "fewer than 5 training images of class 1",
        "25 times as many images as the smallest",
        "training for only 30 steps teaches little",
        "ema=0.999 averages over 1,000 of 30 steps",
        "learning_rate=1 is 100 times the fitted 0.01: training may diverge",
    ):
        assert part in text
    calm = RECIPES["scratch_small"].with_(epochs=50, batch_size=16, ema="off")
    assert preflight(images_of([100, 100], [9, 9]), calm, fitted=calm).warnings == ()


def test_preflight_refuses_what_cannot_work() -> None:
    with pytest.raises(DataError, match="a batch of 256 images is larger than an epoch of 40"):
        preflight(images_of([20, 20], [1, 1]), RECIPES["scratch_small"])
    with pytest.raises(DataError, match="no images to test on"):
        preflight(images_of([200, 200], [0, 0]), RECIPES["scratch_small"])
    with pytest.raises(FitError, match="too few to train on"):
        prepare(Request("convnext_atto", scale="tiny"), images_of([4, 4], [1, 1]))


def test_preflight_finds_test_images_among_the_training_images() -> None:
    recipe = RECIPES["scratch_small"].with_(batch_size=8)
    report = preflight(images_of([20, 20], [3, 4], pixels=7), recipe)
    assert report.facts.test_images_also_in_training == 7
    assert any("7 test images are also training images" in note for note in report.notes)
    assert preflight(images_of([20, 20], [3, 4]), recipe).facts.test_images_also_in_training == 0


def test_a_batch_that_does_not_fit_is_cut_until_it_does(monkeypatch: pytest.MonkeyPatch, digits: Images) -> None:
    tried = []

    def probe(trial: Trial, images: Images, runtime: Runtime, steps: int, together: bool) -> Speed:
        tried.append(runtime.accumulation)
        if runtime.accumulation < smallest:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return Speed(0.1, 1.0, 10)

    monkeypatch.setattr(nextify.training.probe, "probe", probe)
    prepared = prepare(Request("convnext_atto", epochs=2, scale="tiny"), digits)
    smallest = 4
    found = measure(prepared, ONE_THREAD)
    assert (tried, found.accumulation, found.seconds) == ([1, 2, 4], 4, pytest.approx(2.0))
    smallest = 1000
    with pytest.raises(OutOfMemory, match="smaller --image-size"):
        measure(prepared, ONE_THREAD)
    tried.clear()
    smallest = 2
    batch_norm = prepare(replace(prepared.request, settings={"norm": "batch"}), digits)
    with pytest.raises(OutOfMemory, match=r"--accumulation 2 .*a different run"):
        measure(batch_norm, ONE_THREAD)
    assert tried == [1]
    in_parts = prepare(replace(batch_norm.request, accumulation=2), digits)
    assert measure(in_parts, ONE_THREAD).accumulation == 2
    assert in_parts.trial.accumulation == 2
    assert prepare(replace(prepared.request, accumulation=2), digits).trial == prepared.trial


def test_minutes_become_epochs_once(monkeypatch: pytest.MonkeyPatch, digits: Images, tmp_path: Path) -> None:
    step = 0.01

    def probe(trial: Trial, images: Images, runtime: Runtime, steps: int, together: bool) -> Speed:
        total = trial.recipe.epochs * (len(images.train) // trial.recipe.batch_size)
        return Speed(step, 0.0, total)

    monkeypatch.setattr(nextify.training.probe, "probe", probe)
    request = Request("convnext_atto", minutes=1.0, scale="tiny")
    first = prepare_in(tmp_path, request, digits, ONE_THREAD).trial
    steps = first.recipe.epochs * (600 // first.recipe.batch_size)
    assert 0.5 * 60 < steps * step <= 60
    step = 0.05  # a slower moment must not make it another training
    assert prepare_in(tmp_path, request, digits, ONE_THREAD).trial.fingerprint == first.fingerprint
    step = 100.0
    with pytest.raises(RequestError, match=r"more than --minutes 1: give more minutes, or a smaller --image-size"):
        prepare_in(tmp_path / "other", request, digits, ONE_THREAD)


def test_one_batch_by_heart(capsys: Captured, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["train", "convnext_atto", "--data", str(shapes), *TINY, "--epochs", "20", "--set", "batch_size=8"]
    arguments += ["--set", "depths=1,1,1,1", "--set", "widths=8,16,24,32", "--set", "optimizer=adamw"]
    arguments += ["--out", str(tmp_path), "--overfit-batch"]
    assert main([*arguments, "--set", "learning_rate=2e-3"]) == 0
    assert "can learn" in capsys.readouterr().out
    assert not list(tmp_path.glob("*/bundle"))
    monkeypatch.setattr("nextify.cli.training.overfit_batch", partial(overfit_batch, steps=10))
    assert main([*arguments, "--set", "learning_rate=1e-9"]) == 1
    assert "could not memorize even one batch" in capsys.readouterr().err


def test_class_weights_are_one_on_average_over_the_images() -> None:
    labels = np.repeat([0, 1, 3], [60, 30, 10])
    weights = class_weights(labels, 4)
    assert float(weights[labels].mean()) == pytest.approx(1)
    assert weights[3] / weights[0] == pytest.approx(6)


@pytest.mark.parametrize("seed", ["-1", "2147483648", "99999999999"])
def test_a_seed_that_no_generator_takes_is_refused(capsys: Captured, tmp_path: Path, seed: str) -> None:
    line = refused(capsys, 2, *DIGITS, *TINY, "--seed", seed, "--out", str(tmp_path))
    assert "--seed must be 0 or more and at most 2,147,483,647" in line
