"""``nextify evaluate`` and ``predict`` with bundles for dense tasks; the commands that refuse such bundles."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextify.cli import main
from nextify.data.dense.batches import DenseTestBatches
from nextify.data.dense.placement import canvas_of
from nextify.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from nextify.evaluation.dense import DetectionEvaluation, evaluate_dense
from nextify.evaluation.finder import open_finder
from nextify.networks.dense.design import Head, fitted_head
from nextify.networks.dense.network import DenseNetwork
from nextify.networks.zoo import find_design
from nextify.report.text import percent
from nextify.tasks.detection import Detection
from nextify.tasks.segmentation import Segmentation
from nextify.weights.bundle import DenseAbout, dense_from_json, load_dense, save_bundle, signed_json
from nextify.weights.naming import WeightsError
from tests.data.dense.layouts import PARTS, coco_beside, masks_inner
from tests.evaluation.dense.helpers import made

CONVNEXT = find_design("convnext_atto").with_(depths=(1, 1, 1, 1), widths=(16, 24, 32, 48), layer_scale=0.1)


@pytest.fixture(scope="module", params=["fcos", "fpn"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fresh(tmp_path_factory.mktemp("bundles"), request.param)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fresh(tmp_path_factory.mktemp("detector"), "fcos")


def fresh(folder: Path, head: Head) -> Path:
    """A bundle of fresh weights; a detector's are so sure of themselves that it finds something."""
    images = made("segmentation" if head == "fpn" else "detection")
    design = fitted_head(CONVNEXT, head, canvas_of(images)).with_(width=32, convolutions=1)
    torch.manual_seed(0)
    network = DenseNetwork(design, images.num_classes, canvas_of(images))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("cls_logits.bias"):
                parameter.fill_(1.0)
    about = DenseAbout(design, images.classes, canvas_of(images), IMAGENET_MEAN, IMAGENET_STD, "tiny")
    return save_bundle(folder / head, network.state_dict(), about)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)).save(tmp_path / "x.jpg")
    return tmp_path / "x.jpg"


def test_evaluate(bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    head = bundle.name
    images = made("segmentation" if head == "fpn" else "detection")
    monkeypatch.setattr("nextify.cli.evaluation.read_any", lambda *args, **options: images)
    assert main(["evaluate", str(bundle), "--data", "scenes", "--device", "cpu", "--kernels", "off"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"tiny with {head} on 3 images of made, fp32"
    assert lines[1].startswith("mIoU " if head == "fpn" else "AP ")
    assert re.search(r" % \(\d+\.\d\d to \d+\.\d\d\)[,;].* 95 % intervals from 1,000 bootstrap draws$", lines[1])
    assert {"cat", "dog", "owl"} <= {line.split()[0] for line in lines[2:] if line}
    assert main(["evaluate", str(bundle), "--data", "scenes", "--device", "cpu", "--kernels", "off", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["task"] == images.task
    found = evaluate_dense(open_finder(bundle, kernels="off"), images)
    assert printed["metrics"] == found.metrics
    if isinstance(found, DetectionEvaluation):
        columns = np.array(found.confusion)
        for k, row in enumerate(found.classes):
            recall, precision = next(line.split()[-2:] for line in lines if line.startswith(row.name))
            assert recall == percent(100 * columns[k, k] / row.objects if row.objects else None)
            assert precision == percent(100 * columns[k, k] / columns[:, k].sum() if columns[:, k].any() else None)


def test_evaluate_on_the_part_asked_for(
    detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PARTS, "test", 3)
    source = coco_beside(tmp_path / "pets")
    words = ["evaluate", str(detector), "--device", "cpu", "--kernels", "off", "--data"]
    assert main([*words, str(source), "--split", "test"]) == 0
    assert capsys.readouterr().out.startswith("tiny with fcos on 3 images of pets (test), fp32\n")
    for arguments, message in (
        ([*words, "scenes", "--split", "val"], "scenes has no val split: choose --split test, or leave it out"),
        ([*words, "digits"], "digits has labels but no boxes or masks: give 'scenes', COCO's JSON"),
        (["train", "convnext_atto", "--task", "detection", "--data", "digits"], "digits has labels but no boxes"),
        (
            ["train", "convnext_atto", "--data", "/nowhere"],
            "with boxes or masks 'scenes', COCO's JSON, VOC's XML files",
        ),
    ):
        monkeypatch.chdir(tmp_path)
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_the_ignored_index_is_that_of_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = masks_inner(tmp_path / "set")
    for path in source.glob("masks/*/*.png"):
        values = np.asarray(Image.open(path)).copy()
        values[1] = 200
        Image.fromarray(values).save(path)
    loaded = load_dense(fresh(tmp_path, "fpn"))
    about = replace(loaded.about, classes=("0", "1", "2", "3"), ignore_index=200)
    bundle = save_bundle(tmp_path / "bundle", loaded.state, about)
    words = ["evaluate", str(bundle), "--data", str(source), "--device", "cpu", "--kernels", "off"]
    assert main(words) == 0
    assert "As in training, index 200 of the masks is ignored; --ignore-index 255 counts it" in capsys.readouterr().err
    assert main([*words, "--ignore-index", "255"]) == 2
    assert "has 197 of 201 classes that the bundle does not know: 4, 5" in capsys.readouterr().err


def test_what_a_bundle_says_of_its_annotations(detector: Path, tmp_path: Path) -> None:
    loaded = load_dense(detector)
    about = replace(loaded.about, category_ids=(1, 3, "owls"))
    saved = save_bundle(tmp_path / "bundle", loaded.state, about)
    assert load_dense(saved).about.category_ids == (1, 3, "owls")
    assert open_finder(saved, kernels="off").about.category_ids == (1, 3, "owls")
    path = detector / "nextify.json"
    stated = json.loads(path.read_text())
    earlier = {name: value for name, value in stated.items() if name not in ("category_ids", "ignore_index")}
    assert dense_from_json(earlier, path) == loaded.about
    with pytest.raises(WeightsError, match="edited"):
        dense_from_json({**stated, "category_ids": [1, 2, 3]}, path)
    for wrong, message in (
        ({"category_ids": (1, 2)}, "category_ids must be one number or text for each class"),
        ({"category_ids": (1, 2, None)}, "category_ids must be numbers or texts"),
        ({"ignore_index": 256}, "ignore_index must be a whole number from 0 to 255, got 256"),
    ):
        content = json.loads(json.dumps(signed_json(replace(loaded.about, **wrong))))
        with pytest.raises(WeightsError, match=message):
            dense_from_json(content, path)


def test_evaluating_gives_the_figures_of_the_training(bundle: Path) -> None:
    images = made("segmentation" if bundle.name == "fpn" else "detection")
    finder = open_finder(bundle, kernels="off")
    common = (finder.about.mean, finder.about.std, torch.device("cpu"))
    task: Detection | Segmentation = Segmentation(images.num_classes, *common)
    if images.task == "detection":
        task = Detection(images.classes, *common, images.test)
    batches = DenseTestBatches(images.test, finder.about.canvas, 8)
    with torch.no_grad():
        seen = [task.observe(finder.model, *task.test_batch(pixels, targets)) for pixels, targets in batches]
    assert evaluate_dense(finder, images).metrics == task.metrics(seen).values()


def test_predict(bundle: Path, tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", str(bundle), str(photo), "--device", "cpu", "--kernels", "off"]
    assert main([*words, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["height"], found["width"], found["error"]) == (64, 128, None)
    assert main([*words, "--csv"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 1 + len(found["regions" if bundle.name == "fpn" else "objects"]) > 1
    if bundle.name == "fcos":
        words += ["--least-score", str(found["objects"][2]["score"] - 1e-6)]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["image", "class"]
    assert lines[-1] == f"written: {tmp_path / 'out'}"
    assert (tmp_path / "out" / "drawn" / "x.png").exists()
    assert main([*words[:3], "nowhere.jpg", *words[3:]]) == 1
    assert "nowhere.jpg: no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "BUNDLE", "--data", "digits", "--class-order", "natural"], "--class-order is for classifiers"),
        (["predict", "BUNDLE", "PHOTO", "--top", "3"], "--top is for classifiers"),
        (["export", "BUNDLE", "--to", "executorch"], "executorch"),
        (["explain", "BUNDLE", "PHOTO"], "a classifier is needed: give the bundle of a classifier (docs/dense.md#not-"),
        (
            ["inspect", "BUNDLE", "--data", "digits"],
            "nextify inspect takes only classifiers, and the bundle is for detec",
        ),
        (
            ["robustness", "BUNDLE", "--data", "digits"],
            "holds a network for detection, but a classifier is needed",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_refused(
    words: list[str], message: str, detector: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"BUNDLE": str(detector), "PHOTO": str(photo)}
    assert main([known.get(word, word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
