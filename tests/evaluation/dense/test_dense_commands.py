"""``nextify evaluate`` and ``predict`` with bundles of detectors and segmenters; the commands that refuse such bundles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextify.cli import main
from nextify.data.dense.placement import canvas_of
from nextify.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from nextify.evaluation.dense import evaluate_dense
from nextify.evaluation.finder import open_finder
from nextify.networks.dense.design import Head, fitted_head
from nextify.networks.dense.network import build_dense
from nextify.networks.zoo import find_design
from nextify.weights.bundle import DenseAbout, save_bundle
from tests.evaluation.dense.helpers import made

CONVNEXT = find_design("convnext_atto").with_(depths=(1, 1, 1, 1), widths=(16, 24, 32, 48), layer_scale=0.1)


def bundle(folder: Path, head: Head) -> Path:
    """Fresh weights; a detector's are so sure of themselves that it finds something."""
    images = made("segmentation" if head == "fpn" else "detection")
    design = fitted_head(CONVNEXT, head, canvas_of(images)).with_(width=32, convolutions=1)
    torch.manual_seed(0)
    network = build_dense(design, images.num_classes, canvas_of(images))
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


@pytest.mark.parametrize("head", ["fcos", "fpn"])
def test_evaluate(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = made("segmentation" if head == "fpn" else "detection")
    monkeypatch.setattr("nextify.cli.progress.read_any", lambda *args, **options: images)
    path = bundle(tmp_path, head)
    assert main(["evaluate", str(path), "--data", "scenes", "--device", "cpu", "--kernels", "off"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"tiny with {head} on 3 images of made, fp32"
    assert lines[1].startswith("mIoU " if head == "fpn" else "AP ")
    assert {"cat", "dog", "owl"} <= {line.split()[0] for line in lines[2:] if line}
    assert main(["evaluate", str(path), "--data", "scenes", "--device", "cpu", "--kernels", "off", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["task"] == images.task
    assert printed["metrics"] == evaluate_dense(open_finder(path, kernels="off"), images).metrics


@pytest.mark.parametrize("head", ["fcos", "fpn"])
def test_predict(head: Head, tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", str(bundle(tmp_path, head)), str(photo), "--device", "cpu", "--kernels", "off"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["image", "class"]
    assert lines[-1] == f"written: {tmp_path / 'out'}"
    assert (tmp_path / "out" / "drawn" / "x.png").exists()
    assert main([*words, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["height"], found["width"], found["error"]) == (64, 128, None)
    assert main([*words, "--csv"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 1 + len(found["regions" if head == "fpn" else "objects"]) > 1
    assert main([*words, "nowhere.jpg"]) == 1
    assert "nowhere.jpg: no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "BUNDLE", "--data", "digits", "--class-order", "natural"], "--class-order is for classifiers"),
        (["predict", "BUNDLE", "PHOTO", "--top", "3"], "--top is for classifiers"),
        (["export", "BUNDLE", "--to", "onnx"], "holds a network for detection, where a classifier is asked for"),
        (["serve", "BUNDLE"], "holds a network for detection, where a classifier is asked for"),
        (["explain", "BUNDLE", "PHOTO"], "holds a network for detection, where a classifier is asked for"),
        (["quantize", "BUNDLE", "--data", "digits"], "holds a network for detection, where a classifier is asked for"),
        (
            ["robustness", "BUNDLE", "--data", "digits"],
            "holds a network for detection, where a classifier is asked for",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_refused(
    words: list[str], message: str, tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"BUNDLE": str(bundle(tmp_path, "fcos")), "PHOTO": str(photo)}
    assert main([known.get(word, word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
