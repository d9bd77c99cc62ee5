"""Detectors and segmenters as files: what other runtimes find is what the bundle finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from nextify import cli
from nextify.data.dense import open_dense
from nextify.deploy import dense
from nextify.deploy.dense import DenseSource
from nextify.deploy.export import export
from nextify.deploy.formats import FormatError
from nextify.deploy.runners import Exported, Format, start
from nextify.deploy.verify import ExportFailed
from nextify.networks.dense.design import fitted_head
from nextify.networks.dense.network import DenseNetwork
from nextify.networks.zoo import find_design
from nextify.weights import WeightsError, save_bundle
from nextify.weights.bundle import DenseAbout
from tests.deploy.test_export import installed
from tests.helpers import noise

CANVAS = (64, 96)
TINY = find_design("convnext_atto").with_(depths=(1, 1, 1, 1), widths=(16, 24, 32, 48))


def bundle_of(folder: Path, head: str) -> Path:
    """A bundle of three classes, whose untrained network finds objects."""
    torch.manual_seed(0)
    design = fitted_head(TINY, head, CANVAS).with_(width=32)  # type: ignore[arg-type]
    network = DenseNetwork(design, 3, CANVAS)
    for name, parameter in network.named_parameters():
        if name.endswith("cls_logits.bias"):
            torch.nn.init.constant_(parameter, -1.5)
        if "cls_logits" in name and name.endswith("weight"):
            torch.nn.init.normal_(parameter, std=0.3)
    about = DenseAbout(design, ("a", "b", "c"), CANVAS, (0.5,) * 3, (0.25,) * 3, licence="yours")
    return save_bundle(folder / head, network.state_dict(), about)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["fcos", "retinanet", "fpn", "upernet"])
@pytest.mark.parametrize("to", ["onnx", "torch", "openvino"])
def test_a_file_finds_what_the_bundle_finds(head: str, to: Format, tmp_path: Path) -> None:
    installed(to)
    source = DenseSource.of(bundle_of(tmp_path, head))
    done = export(tmp_path / head, to, tmp_path / "out")
    stated = json.loads((tmp_path / "out" / "nextify.json").read_text())["export"]
    run = start(tmp_path / "out" / done.exported.file, Exported(to, "fp32", CANVAS))
    image = open_dense("scenes").test.load(3)
    found = torch.from_numpy(run(source.input(image)[None]))[0]
    with torch.no_grad():
        network = source.outputs.network(torch.from_numpy(source.input(image))[None])
    if head in ("fpn", "upernet"):
        assert stated["output"] == "logits"
        torch.testing.assert_close(found, network[0], rtol=0, atol=1e-4 * float(network.abs().max()))
        return
    assert stated["output"] == "places"
    boxes, scores = found[:, :4] * torch.tensor([96.0, 64, 96, 64]), found[:, 4:]
    place, label = (scores > stated["least_score"]).nonzero(as_tuple=True)
    kept = batched_nms(boxes[place], scores[place, label], label, stated["suppression_iou"])[:100]
    (expected,) = network
    assert len(expected.scores) > 20
    torch.testing.assert_close(scores[place, label][kept], expected.scores, rtol=0, atol=1e-4)
    same = (boxes[place][kept] - expected.boxes).abs().amax(1) < 0.05
    assert same.float().mean() > 0.95  # scores that are nearly alike may change places


@pytest.mark.parametrize("head", ["fcos", "retinanet"])
def test_candidates_are_limited_as_in_the_bundle(head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On each level: of an undertrained network they are so many that suppressing them would take minutes."""
    source = DenseSource.of(bundle_of(tmp_path, head))
    network: Any = source.outputs.network
    assert network.head.net.topk_candidates == dense.CANDIDATES
    monkeypatch.setattr(dense, "CANDIDATES", 20)
    network.head.net.topk_candidates = 20
    image = torch.from_numpy(source.input(noise(0, *CANVAS)))[None]
    with torch.no_grad():
        (expected,), places = network(image), source.outputs(image)[0]
    levels = dense._levels(source.about)
    assert sum(levels) == len(places)
    assert (places[: levels[0], 4:] > 0.05).sum() > 100
    found = dense._found(places, CANVAS, levels, 0.05, network.head.net.nms_thresh)
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=1e-3)
    assert found.labels.tolist() == expected.labels.tolist()


def test_the_command_says_what_was_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, out = bundle_of(tmp_path, "fcos"), tmp_path / "out"
    assert cli.main(["export", str(bundle), "--to", "torch", "--out", str(out)]) == 0
    assert "verified on 7 images of scenes: largest difference" in capsys.readouterr().out
    with pytest.raises(WeightsError, match="holds no weights"):
        DenseSource.of(out)


@pytest.mark.parametrize(
    ("head", "arguments", "message"),
    [
        ("faster_rcnn", {"to": "torch"}, "train with --head fcos or retinanet"),
        ("fpn", {"to": "aotinductor"}, "choose onnx, openvino, torch"),
        ("fpn", {"to": "torch", "image_size": 64}, "for its canvas"),
        ("fpn", {"to": "torch", "precision": "bf16"}, "in fp32"),
    ],
)
def test_what_is_not_written_is_refused(head: str, arguments: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=message):
        export(bundle_of(tmp_path, head), out=tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["quantize", "export --fastest", "export --to onnx --precision int8"])
def test_what_cannot_be_quantized_names_export(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = command.split()
    assert cli.main([name, str(bundle_of(tmp_path, "fcos")), *options, "--data", "scenes"]) == 2
    said = "is for detection: nextify export writes segmenters and one-stage detectors in fp32"
    assert said in capsys.readouterr().err


def test_a_file_that_finds_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_of(tmp_path, "fpn")
    loaded = dense.start

    def wrong(*arguments: object) -> object:
        run = loaded(*arguments)  # type: ignore[arg-type]
        return lambda inputs: run(inputs) + np.float32(0.01)

    monkeypatch.setattr(dense, "start", wrong)
    with pytest.raises(ExportFailed, match="of scenes at batch 1 differs by"):
        export(bundle, "torch", tmp_path / "out")
    assert not (tmp_path / "out").exists()
