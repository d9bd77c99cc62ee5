"""Detectors and segmenters behind the server, in process: what ``nextify predict`` finds, as JSON, PNG and tensors."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from nextify.cli import main
from nextify.deploy import dense
from nextify.deploy.export import export
from nextify.deploy.runners import Exported
from nextify.deploy.serve.app import Settings, create_app
from nextify.deploy.serve.workers import InProcess, open_network
from nextify.evaluation.dense_predict import DensePrediction, find
from nextify.evaluation.finder import Finder, open_finder
from nextify.system.files import write_json_atomic
from nextify.tasks import restoring
from nextify.weights.reading import ExportError, read_json
from tests.deploy.test_export_dense import CANVAS, bundle_of
from tests.helpers import Captured, encoded, noise

PHOTOS = [encoded(Image.fromarray(noise(seed, *size))) for seed, size in enumerate([(64, 96), (50, 31), (90, 200)])]
LEAST = 0.2


def pixels(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


class Batches(InProcess):
    """Notes how many images each call had."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sizes = list[int]()

    def __call__(self, call: str, batch: Any, arguments: Any) -> Any:
        self.sizes.append(len(batch))
        return super().__call__(call, batch, arguments)


class Served:
    """A head's bundle, opened as ``predict`` opens it, and behind a server."""

    def __init__(self, bundle: Path) -> None:
        self.bundle, self.finder = bundle, open_finder(bundle)
        self.worker = Batches(partial(open_network, bundle))
        app = create_app([self.worker], Settings(max_wait_ms=20), "tiny")
        self.client = TestClient(app, raise_server_exceptions=False)


@pytest.fixture(scope="module", params=["fcos", "mask_rcnn", "fpn"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = Served(bundle_of(tmp_path_factory.mktemp("model"), request.param))
    with found.client:
        yield found


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = Served(bundle_of(tmp_path_factory.mktemp("model"), "fcos"))
    with found.client:
        yield found


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = Served(bundle_of(tmp_path_factory.mktemp("model"), "fpn"))
    with found.client:
        yield found


def post(client: TestClient, path: str, body: bytes, **headers: str) -> Any:
    return client.post(path, content=body, headers={"Content-Type": "image/png", **headers})


def check(said: dict[str, Any], expected: DensePrediction) -> None:
    """An answer is what ``predict`` gives; boxes of nearly the same score may change places."""
    assert (said["width"], said["height"]) == (expected.width, expected.height)
    if expected.labels is not None:
        assert [(one["class"], one["index"]) for one in said["regions"]] == [
            (r.name, r.index) for r in expected.regions
        ]
        np.testing.assert_allclose([one["share"] for one in said["regions"]], [r.share for r in expected.regions])
        mask = np.asarray(pixels(base64.b64decode(said["mask"])))
        assert np.array_equal(mask, expected.labels)
        return
    assert len(said["boxes"]) == len(expected.objects) > 5
    for one, wanted in zip(said["boxes"], expected.objects, strict=True):
        assert one["score"] == pytest.approx(wanted.score, abs=1e-4)
        assert (one["class"], one["index"]) == (wanted.name, wanted.index)
        np.testing.assert_allclose(one["box"], wanted.box, atol=0.01)
        assert one.get("mask") == wanted.mask


def test_what_it_says_is_what_predict_finds(served: Served) -> None:
    def expected(*photos: bytes) -> Iterator[DensePrediction]:
        return find(served.finder, [pixels(data) for data in photos], least_score=LEAST)

    path = "/predict" if served.finder.about.task == "segmentation" else f"/predict?least_score={LEAST}"
    for data in PHOTOS:
        (wanted,) = expected(data)  # alone here too: a batch differs in the last digits, and so may which boxes stay
        answer = post(served.client, path, data)
        assert answer.status_code == 200, answer.text
        (said,) = answer.json()["predictions"]
        check(said, wanted)
    served.worker.sizes.clear()
    several = served.client.post(path, files=[(f"{i}", data) for i, data in enumerate(PHOTOS)]).json()
    assert served.worker.sizes == [3]  # images of all sizes share a batch
    for said, wanted in zip(several["predictions"], expected(*PHOTOS), strict=True):
        check(said, wanted)


def test_scores_below_the_least_are_left_out_as_in_predict(detector: Served) -> None:
    for query, least in (("", 0.3), ("?least_score=0.45", 0.45), ("?least_score=1", 1.0), ("?least_score=2e-1", 0.2)):
        (said,) = post(detector.client, f"/predict{query}", PHOTOS[0]).json()["predictions"]
        (wanted,) = find(detector.finder, pixels(PHOTOS[0]), least_score=least)
        assert [one["score"] for one in said["boxes"]] == pytest.approx([one.score for one in wanted.objects], abs=1e-4)
    scores = [
        one["score"]
        for one in post(detector.client, "/predict?least_score=0", PHOTOS[0]).json()["predictions"][0]["boxes"]
    ]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) > 20


def test_a_mask_as_a_picture(segmenter: Served) -> None:
    (wanted,) = find(segmenter.finder, pixels(PHOTOS[2]))
    answer = post(segmenter.client, "/predict", PHOTOS[2], Accept="image/png")
    assert answer.headers["content-type"] == "image/png"
    image = pixels(answer.content)
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), wanted.labels)
    colors = segmenter.client.get("/model").json()["colors"]
    palette = image.getpalette()
    assert palette is not None
    assert colors == ["#" + bytes(palette[3 * k : 3 * k + 3]).hex() for k in range(3)]
    less = ("image/png;q=0", "image/png; q=0.0, */*", "image/png;q=0.5, application/json;q=0.9")
    for accept in ("*/*", "image/*", "application/json, image/png", "text/html", *less):
        assert post(segmenter.client, "/predict", PHOTOS[2], Accept=accept).json()["predictions"]
    for accept in ("image/png, */*;q=0.8", "image/PNG, application/json;Q=0.5", "application/json;q=0,image/png;q=0.1"):
        assert post(segmenter.client, "/predict", PHOTOS[2], Accept=accept).content == answer.content
    both = [("Content-Type", "image/png"), ("Accept", "text/html"), ("Accept", "image/png")]
    assert segmenter.client.post("/predict", content=PHOTOS[2], headers=both).content == answer.content
    two = segmenter.client.post("/predict", files=[("a", PHOTOS[0])] * 2, headers={"Accept": "image/png"})
    assert (two.status_code, two.json()) == (400, {"error": "give one image"})


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/predict", b"garbage", 400, "image 1: not an image"),
        ("/predict", PHOTOS[0][:-40], 400, "image 1: truncated"),
        ("/predict?least_score=1.5", PHOTOS[0], 400, "least_score must be a number from 0 to 1"),
        ("/predict?least_score=-0.5", PHOTOS[0], 400, "least_score must be a number from 0 to 1"),
        ("/predict?least_score=nan", PHOTOS[0], 400, "least_score must be a number from 0 to 1"),
        ("/predict?least_score=1e999", PHOTOS[0], 400, "least_score must be a number from 0 to 1"),
        ("/predict?least_score=0_1", PHOTOS[0], 400, "least_score must be a number from 0 to 1"),
        ("/predict?least_score=0.5&least_score=0.6", PHOTOS[0], 400, "least_score must be given once"),
        ("/predict?top=3", PHOTOS[0], 400, "unknown query parameter 'top': /predict takes least_score"),
        ("/explain?class=1", PHOTOS[0], 404, "/explain is for classifiers, and for bundles of one network only"),
    ],
)
def test_refusals_are_a_line(detector: Served, path: str, body: bytes, status: int, message: str) -> None:
    answer = post(detector.client, path, body)
    assert (answer.status_code, answer.json()) == (status, {"error": message})


def test_outputs_that_are_no_numbers_are_refused_and_alone(
    segmenter: Served, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    found, bad = Finder.outputs, []

    def outputs(self: Finder, canvases: Any) -> Any:
        logits = found(self, canvases).clone()  # type: ignore[union-attr]
        logits[[bool((canvas[:40] == 0).all()) for canvas in canvases]] = float("nan")
        bad.append(len(canvases))
        return logits

    monkeypatch.setattr(Finder, "outputs", outputs)
    black = encoded(Image.new("RGB", (96, 64)))
    answer = post(segmenter.client, "/predict", black)
    assert (answer.status_code, answer.json()) == (
        500,
        {"error": "the network failed: its outputs are NaN or infinite"},
    )
    assert post(segmenter.client, "/predict", PHOTOS[0]).status_code == 200


def test_facts_and_openapi(served: Served) -> None:
    told = served.client.get("/model").json()
    task = served.finder.about.task
    assert (told["task"], told["class_names"], told["input"]) == (task, ["a", "b", "c"], [3, *CANVAS])
    assert (told["licence"], told["explains"], len(told["colors"])) == ("yours", False, 3)
    assert told["runtime"] == f"bundle fp32, torch {torch.__version__}"
    described = served.client.get("/openapi.json").json()
    predict = described["paths"]["/predict"]["post"]
    assert [one["name"] for one in predict.get("parameters", [])] == (["least_score"] if task == "detection" else [])
    assert ("image/png" in predict["responses"]["200"]["content"]) == (task == "segmentation")
    assert ("boxes" in described["components"]["schemas"]["Prediction"]["properties"]) == (task == "detection")
    assert "predictions" not in described


# The Open Inference Protocol


def inputs(finder: Finder) -> np.ndarray[Any, Any]:
    """Two images, normalized and on the canvas."""
    canvases = np.stack([noise(seed, *CANVAS) for seed in range(2)]).astype(np.float32) / 255
    return np.ascontiguousarray(((canvases - 0.5) / 0.25).transpose(0, 3, 1, 2))


def test_protocol_finds_boxes(detector: Served) -> None:
    outputs = detector.client.get("/v2/models/tiny").json()["outputs"]
    assert [(one["name"], one["datatype"], one["shape"]) for one in outputs] == [
        ("num_detections", "INT32", [-1, 1]),
        ("detection_boxes", "FP32", [-1, 100, 4]),
        ("detection_scores", "FP32", [-1, 100]),
        ("detection_classes", "INT32", [-1, 100]),
    ]
    images = inputs(detector.finder)
    tensor = {"name": "images", "datatype": "FP32", "shape": list(images.shape), "data": images.ravel().tolist()}
    answer = detector.client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}).json()
    found = {one["name"]: np.reshape(one["data"], one["shape"]) for one in answer["outputs"]}
    assert [one["datatype"] for one in answer["outputs"]] == ["INT32", "FP32", "FP32", "INT32"]
    for i, expected in enumerate(detector.finder.outputs(images)):
        many = len(expected.scores)
        assert found["num_detections"][i, 0] == many > 20
        np.testing.assert_allclose(found["detection_scores"][i, :many], expected.scores, atol=1e-4)
        np.testing.assert_allclose(found["detection_boxes"][i, :many], expected.boxes, atol=0.01)
        assert np.array_equal(found["detection_classes"][i, :many], expected.labels)
        for name in ("detection_scores", "detection_boxes", "detection_classes"):
            assert not found[name][i, many:].any()
    wrong = {"inputs": [tensor], "outputs": [{"name": "logits"}]}
    refused = detector.client.post("/v2/models/tiny/infer", json=wrong)
    assert refused.status_code == 400
    assert refused.json()["error"].startswith(
        "outputs are num_detections, detection_boxes, detection_scores and detect"
    )


def test_protocol_finds_the_class_of_each_pixel(segmenter: Served) -> None:
    images = inputs(segmenter.finder)
    head = {"name": "images", "datatype": "FP32", "shape": list(images.shape)}
    head["parameters"] = {"binary_data_size": images.nbytes}
    asked = json.dumps({"inputs": [head], "parameters": {"binary_data_output": True}}).encode()
    answer = segmenter.client.post(
        "/v2/models/tiny/infer",
        content=asked + images.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(asked))},
    )
    length = int(answer.headers["inference-header-content-length"])
    (told,) = json.loads(answer.content[:length])["outputs"]
    assert (told["name"], told["datatype"], told["shape"]) == ("classes", "UINT8", [2, *CANVAS])
    outputs: Any = segmenter.finder.outputs(images)
    expected = outputs.argmax(1).numpy()
    found = np.frombuffer(answer.content[length:], np.uint8).reshape(2, *CANVAS)
    assert (found == expected).mean() > 0.999


# Exports, large images, and the command


@pytest.mark.slow
@pytest.mark.parametrize("head", ["fcos", "retinanet", "fpn"])
def test_an_export_finds_what_its_bundle_finds(head: str, tmp_path: Path, capsys: Captured) -> None:
    bundle, out = bundle_of(tmp_path, head), tmp_path / "out"
    export(bundle, "torch", out)
    expected = list(find(open_finder(bundle), [pixels(data) for data in PHOTOS], least_score=LEAST))
    with TestClient(create_app([InProcess(partial(open_network, str(out)))], Settings(), "tiny")) as client:
        query = {} if head == "fpn" else {"least_score": LEAST}
        several = client.post("/predict", params=query, files=[("x", data) for data in PHOTOS]).json()
        assert client.get("/model").json()["runtime"] == Exported("torch", "fp32", CANVAS).name
    for said, wanted in zip(several["predictions"], expected, strict=True):
        check(said, wanted)
    (tmp_path / "photo.png").write_bytes(PHOTOS[0])
    common = (str(tmp_path / "photo.png"), "--json", *(("--least-score", str(LEAST)) if head != "fpn" else ()))
    told = []
    for network in (bundle, out):
        capsys.readouterr()
        assert main(["predict", str(network), *common]) == 0
        (one,) = json.loads(capsys.readouterr().out)
        told.append(
            [
                round(o["score"] if head != "fpn" else o["share"], 3)
                for o in one["objects" if head != "fpn" else "regions"]
            ]
        )
    assert told[0] == pytest.approx(told[1], abs=2e-3)
    with pytest.raises(ExportError, match="leave --device cuda out"):
        dense.open_finder(out, device="cuda")
    with pytest.raises(ExportError, match="leave --multi-scale out"):
        dense.open_finder(out, multi_scale=True)
    if head != "fpn":
        stated = read_json(out / "nextify.json")
        del stated["export"]["least_score"]
        write_json_atomic(out / "nextify.json", stated)
        with pytest.raises(ExportError, match="has no least_score and suppression_iou: export again"):
            dense.open_finder(out)


def test_the_classes_of_a_large_image_are_compared_one_by_one(
    segmenter: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = find(segmenter.finder, pixels(PHOTOS[2]))
    monkeypatch.setattr(restoring, "TOGETHER", 3 * 90 * 200 - 1)
    (found,) = find(segmenter.finder, pixels(PHOTOS[2]))
    assert np.array_equal(found.labels, expected.labels)  # type: ignore[arg-type]
    assert len(np.unique(found.labels)) > 1  # type: ignore[arg-type]


def test_options_of_classifiers_are_refused(detector: Served, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    arguments = ["serve", str(detector.bundle), "--port", "0", "--class-order", str(tmp_path / "names.txt")]
    assert main(arguments) == 2
    assert "--class-order is for classifiers, and the bundle is for detection" in capsys.readouterr().err
