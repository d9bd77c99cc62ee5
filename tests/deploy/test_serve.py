"""The server's routes, limits and refusals, in process with a tiny network."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import nextify.deploy.runners
from nextify.cli import main
from nextify.data.decode import decode
from nextify.deploy.runners import open_runner, predict
from nextify.deploy.serve import app as serving
from nextify.deploy.serve.app import Settings, create_app
from nextify.deploy.serve.door import OPEN
from nextify.deploy.serve.tasks import Classes
from nextify.deploy.serve.workers import Died, Facts, InProcess, ServeError, open_network
from nextify.evaluation.predict import Prediction
from nextify.weights import Preprocessing, load
from nextify.weights.bundle import save_ensemble
from tests.deploy.kills import photo
from tests.helpers import Captured, tiny_bundle

CLASSES = ("ant", "bee", "<script>alert(1)</script>", "dog", "eel", "fox")
PHOTOS = [photo(i) for i in range(4)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(
        tmp_path_factory.mktemp("model") / "bundle", CLASSES, 24, 0.75, sharpness=200, licence="MIT", temperature=1.5
    )


class Preparing(InProcess):
    prepares = True


@pytest.fixture(scope="module", params=[InProcess, Preparing])
def client(bundle: Path, request: pytest.FixtureRequest) -> Iterator[TestClient]:
    with TestClient(
        create_app([request.param(partial(open_runner, bundle))], Settings(max_wait_ms=0), "tiny")
    ) as client:
        yield client


@pytest.fixture(scope="module")
def expected(bundle: Path) -> list[Prediction]:
    return list(predict(bundle, [decode(data) for data in PHOTOS], threads=1))


def serve(bundle: Path, **settings: Any) -> TestClient:
    app = create_app([InProcess(partial(open_runner, bundle))], Settings(max_wait_ms=0, **settings), "tiny")
    return TestClient(app, raise_server_exceptions=False)


def post(client: TestClient, path: str, body: bytes, kind: str = "image/png", **headers: str) -> Any:
    return client.post(path, content=body, headers={"Content-Type": kind, **headers})


def check(answer: Any, expected: Sequence[Prediction]) -> None:
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    assert len(found) == len(expected)
    for one, wanted in zip(found, expected, strict=True):
        assert [guess["class"] for guess in one["classes"]] == [guess.name for guess in wanted.guesses]
        np.testing.assert_allclose(
            [guess["probability"] for guess in one["classes"]], [guess.probability for guess in wanted.guesses], 1e-4
        )


def test_predictions_are_those_of_predict(client: TestClient, expected: list[Prediction]) -> None:
    check(post(client, "/predict", PHOTOS[0]), expected[:1])
    for kind in ("", "application/octet-stream", "application/x-www-form-urlencoded"):
        check(post(client, "/predict", PHOTOS[1], kind), expected[1:2])
    check(client.post("/predict", files=[("x", (f"../{i}", data)) for i, data in enumerate(PHOTOS)]), expected)
    check(client.post("/predict", json=[base64.b64encode(data).decode() for data in PHOTOS]), expected)
    assert [g["index"] for g in post(client, "/predict?top=2", PHOTOS[0]).json()["predictions"][0]["classes"]] == [
        guess.index for guess in expected[0].guesses[:2]
    ]


MULTIPART = "multipart/form-data; boundary=x"
TEXT_FIELD = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nphoto.jpg\r\n--x--\r\n'
FILE_FIELD = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n' + PHOTOS[0] + b"\r\n"


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "message"),
    [
        ("/predict", b"", "image/png", 400, "image 1: empty file"),
        ("/predict", b"garbage", "image/png", 400, "image 1: not an image"),
        ("/predict", PHOTOS[0][:-40], "image/png", 400, "image 1: truncated"),
        (
            "/predict",
            PHOTOS[0],
            "text/plain",
            415,
            "send an image (curl -H 'Content-Type: image/jpeg')",
        ),
        ("/predict", b"a=1", "application/x-www-form-urlencoded", 400, "image 1: not an image"),
        ("/predict?top=0", PHOTOS[0], "image/png", 400, "top must be a whole number from 1"),
        ("/predict?top=5&top=2", PHOTOS[0], "image/png", 400, "top must be given once"),
        ("/predict?top=²", PHOTOS[0], "image/png", 400, "top must be"),
        ("/predict?tops=2", PHOTOS[0], "image/png", 400, "unknown query parameter 'tops': /predict takes top"),
        ("/predict?top=2&", b"garbage", "image/png", 400, "image 1: not an image"),
        ("/explain?class=1&%0A", PHOTOS[0], "image/png", 400, r"parameter '\n': /explain takes class"),
        ("/v2/models/tiny/infer?top=2", b"{}", "application/json", 400, "/v2/models/tiny/infer takes none"),
        ("/predict", b"[", "application/json", 400, "must be a list of images in base64"),
        ("/predict", b"[" * 10**4, "application/json", 400, "must be a list of images in base64"),
        ("/predict", b"[1]", "application/json", 400, "must be a list of images in base64"),
        ("/predict", b'["AAAA", "/etc/passwd"]', "application/json", 400, "image 2 is not valid base64"),
        ("/predict", b'["\xc3\xbc"]', "application/json", 400, "image 1 is not valid base64"),
        ("/predict", b"[]", "application/json", 400, "no image"),
        ("/predict", b"x", MULTIPART, 400, "not valid multipart/form-data: send files as curl -F"),
        ("/predict", b"x", "multipart/form-data", 400, "let the client set Content-Type with its boundary"),
        ("/predict", b"--x--\r\n", MULTIPART, 400, "no image"),
        ("/predict", FILE_FIELD + FILE_FIELD[:-9], MULTIPART, 400, "not valid multipart/form-data"),
        ("/predict", FILE_FIELD * 2, MULTIPART, 400, "not valid multipart/form-data"),
        ("/predict", TEXT_FIELD, MULTIPART, 400, "field 'a' is text: send files, as curl -F a=@photo.jpg does"),
        ("/predict", b"x" * 30_000, "image/png", 413, "at most 20,000 bytes"),
        ("/explain", PHOTOS[0], "image/png", 400, "class must be a whole number from 0 to 5"),
        ("/explain?class=6", PHOTOS[0], "image/png", 400, "class must be a whole number from 0 to 5"),
        ("/nowhere", b"", "image/png", 404, "Not Found"),
        ("/health/live", b"", "image/png", 405, "Method Not Allowed"),
    ],
)
def test_refusals_are_a_line(bundle: Path, path: str, body: bytes, kind: str, status: int, message: str) -> None:
    with serve(bundle, max_bytes=20_000) as client:
        answer = post(client, path, body, kind)
        assert answer.status_code == status
        assert message in answer.json()["error"]
        assert "\n" not in answer.json()["error"]
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "nextify_accepted_images 0.0" in client.get("/metrics").text


def test_a_bad_image_names_its_place_among_several(client: TestClient) -> None:
    answer = client.post("/predict", files=[("x", PHOTOS[0]), ("y", b"bad")])
    assert (answer.status_code, answer.json()) == (400, {"error": "image 2: not an image"})


def test_an_image_of_too_many_pixels_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    answer = post(client, "/predict", PHOTOS[0])
    assert (answer.status_code, answer.json()) == (400, {"error": "image 1: more than 2,000 pixels"})


class Slow(InProcess):
    """Takes a while from its second call on; the first is at the start."""

    calls = 0

    def __call__(self, call: str, batch: Any, arguments: Any) -> Any:
        time.sleep(0.2 if self.calls else 0)
        self.calls += 1
        return super().__call__(call, batch, arguments)


def test_the_start_runs_what_a_first_request_runs(bundle: Path) -> None:
    calls = []

    class Noting(InProcess):
        def __call__(self, call: str, batch: Any, arguments: Any) -> Any:
            calls.append((call, batch.dtype, batch.shape))
            return super().__call__(call, batch, arguments)

    app = create_app([Noting(partial(open_runner, bundle))], Settings(max_wait_ms=0), "tiny")
    with TestClient(app) as client:
        assert len(calls) == 1
        post(client, "/predict", PHOTOS[0])
    assert calls[0] == calls[1]


class Counting(Preparing):
    """Counts the files that it is given, and takes its time."""

    seen = 0

    def __call__(self, call: str, batch: Any, arguments: Any) -> Any:
        if call == "encoded":
            self.seen += len(batch)
            time.sleep(0.05)
        return super().__call__(call, batch, arguments)


def test_the_rest_of_a_request_with_a_bad_image_is_not_decoded(bundle: Path) -> None:
    cut, worker = PHOTOS[0][: len(PHOTOS[0]) // 2], Counting(partial(open_runner, bundle))
    with TestClient(create_app([worker], Settings(max_wait_ms=0, max_batch=1), "tiny")) as client:
        files = [("x", PHOTOS[0]), ("x", cut), ("x", cut[:-9]), *[("x", PHOTOS[1])] * 60]
        refused = client.post("/predict", files=files)
        assert (refused.status_code, refused.json()["error"][:8]) == (400, "image 2:")
        assert post(client, "/predict", PHOTOS[2]).status_code == 200
    assert worker.seen < 12


def test_the_server_itself_decodes_large_images(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Counting(partial(open_runner, bundle))
    with TestClient(create_app([worker], Settings(max_wait_ms=0), "tiny")) as client:
        small = post(client, "/predict", PHOTOS[0]).json()["predictions"]
        assert worker.seen == 1
        monkeypatch.setattr(serving, "SMALL", 10)
        assert post(client, "/predict", PHOTOS[0]).json()["predictions"] == small
    assert worker.seen == 1


def test_a_full_queue_is_said_at_once(bundle: Path) -> None:
    app = create_app([Slow(partial(open_runner, bundle))], Settings(queue=2, max_wait_ms=0), "tiny")
    with TestClient(app) as client, ThreadPoolExecutor() as threads:
        first = threads.submit(client.post, "/predict", files=[("x", PHOTOS[0])] * 2)
        time.sleep(0.1)
        full = post(client, "/predict", PHOTOS[0])
        assert (full.status_code, full.headers["retry-after"]) == (503, "1")
        assert first.result().status_code == 200
        many = client.post("/predict", files=[("x", PHOTOS[0])] * 3)
        assert (many.status_code, many.json()["error"]) == (413, "a request has at most 2 images")


@pytest.mark.parametrize("what", ["classes", "weights"])
def test_a_bundle_that_was_replaced_is_not_served_under_the_old_names(what: str, tmp_path: Path) -> None:
    """A worker that dies loads what is there now."""

    class Dying(InProcess):
        dies = False

        def __call__(self, call: str, batch: Any, arguments: Any) -> Any:
            if self.dies:
                self.dies = False
                raise Died("signal 9")
            return super().__call__(call, batch, arguments)

    bundle = tiny_bundle(tmp_path / "bundle", CLASSES, 24, 0.75)
    worker = Dying(partial(open_network, str(bundle)))
    with TestClient(create_app([worker], Settings(max_wait_ms=0), "tiny")) as client:
        assert post(client, "/predict", PHOTOS[0]).status_code == 200
        tiny_bundle(bundle, CLASSES[::-1] if what == "classes" else CLASSES, 24, 0.75, seed=what == "weights")
        worker.dies = True
        for _ in range(2):
            answer = post(client, "/predict", PHOTOS[0])
            said = "the bundle was replaced while it was being served: restart the server"
            assert (answer.status_code, answer.json()) == (503, {"error": said})
        assert client.get("/health/ready").status_code == 503
        assert client.get("/model").json()["class_names"] == list(CLASSES)
        tiny_bundle(bundle, CLASSES, 24, 0.75)
        for _ in range(100):
            if client.get("/health/ready").status_code == 200:
                break
            time.sleep(0.1)
        assert post(client, "/predict", PHOTOS[0]).status_code == 200


def test_an_export_explains_nothing(bundle: Path) -> None:
    class Export(InProcess):
        def start(self) -> Facts:
            return replace(super().start(), explains=False)

    with TestClient(create_app([Export(partial(open_runner, bundle))], Settings(), "tiny")) as client:
        answer = post(client, "/explain?class=1", PHOTOS[0])
    assert (answer.status_code, "for bundles of" in answer.json()["error"]) == (404, True)


def test_an_ensemble_explains_nothing(tmp_path: Path) -> None:
    members = [tiny_bundle(tmp_path / f"{seed}", CLASSES, 24, 0.75, seed=seed) for seed in (0, 1)]
    ensemble = save_ensemble(tmp_path / "ensemble", members)
    with serve(ensemble) as client:
        assert client.get("/model").json()["explains"] is False  # else the page asked, and the network failed
        check(post(client, "/predict?top=6", PHOTOS[0]), predict(ensemble, [Image.open(io.BytesIO(PHOTOS[0]))], top=6))
        assert post(client, "/explain?class=1", PHOTOS[0]).status_code == 404


def test_images_of_a_client_that_has_gone_are_not_run(bundle: Path) -> None:
    worker = Slow(partial(open_runner, bundle))
    app = create_app([worker], Settings(max_wait_ms=200), "tiny")
    messages: Any = iter([{"type": "http.request", "body": PHOTOS[0]}, {"type": "http.disconnect"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": []}
    with TestClient(app) as client:
        assert client.portal is not None
        client.portal.call(app, scope, receive, send)
        assert sent[0]["status"] == serving.GONE
        assert post(client, "/predict", PHOTOS[1]).status_code == 200
        assert "nextify_batch_images_sum 1.0" in client.get("/metrics").text
    assert worker.calls == 2  # the start's, and the second client's


def test_a_late_answer(bundle: Path) -> None:
    app = create_app([Slow(partial(open_runner, bundle))], Settings(timeout=0.05, max_wait_ms=0), "tiny")
    with TestClient(app) as client:
        late = post(client, "/predict", PHOTOS[0])
        assert (late.status_code, late.json()["error"]) == (504, "no answer within 0.05 s")


@pytest.mark.parametrize("leaves", [False, True])
def test_images_that_nobody_waits_for_are_not_decoded(
    leaves: bool, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small body can hold many large images, which take the server minutes."""
    decoded = []

    def slow(self: Classes, data: bytes) -> Any:
        decoded.append(data)
        time.sleep(0.1)
        return prepare(self, data)

    prepare = Classes.prepare
    parts = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n%s\r\n' % PHOTOS[0] for _ in range(40)
    )
    messages: list[Any] = [{"type": "http.request", "body": parts + b"--x--\r\n"}]
    sent: list[Any] = []

    async def receive() -> Any:
        if not messages:
            await asyncio.sleep(0.1 if leaves else 30)
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", MULTIPART.encode())]
    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": headers}
    with serve(bundle, timeout=30 if leaves else 1) as client:
        monkeypatch.setattr(Classes, "prepare", slow)
        assert client.portal is not None
        client.portal.call(client.app, scope, receive, send)
        assert sent[0]["status"] == (serving.GONE if leaves else 504)
        assert post(client, "/predict", PHOTOS[1]).status_code == 200
    assert len(decoded) < 20


def test_the_token_guards_all_but_the_page_and_health(bundle: Path) -> None:
    with serve(bundle, token="secret") as client:
        for path in ("/model", "/metrics", "/v2", "/openapi.json", "/nowhere"):
            assert client.get(path).status_code == 401
        for value in ("", "secret", "Bearer", "Bearer wrong", "Bearer secrets", "Basic secret"):
            answer = post(client, "/predict", PHOTOS[0], authorization=value)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        answer = client.get("/metrics", headers={"Authorization": "Bearer secret"})
        assert 'nextify_requests_total{route="none",status="401"} 11.0' in answer.text
        assert post(client, "/predict", PHOTOS[0], authorization="Bearer secret").status_code == 200
        for path in OPEN:
            assert client.get(path).status_code == 200


def test_health_and_metrics(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"live": True}
    assert client.get("/health/ready").json() == {"name": "tiny", "ready": True}
    post(client, "/predict", PHOTOS[0])
    client.get("/anything/at/all")
    text = client.get("/metrics").text
    assert 'nextify_requests_total{route="predict",status="200"}' in text
    assert 'nextify_requests_total{route="none",status="404"}' in text
    assert "anything" not in text
    assert "nextify_workers 1.0" in text


def test_an_error_that_nobody_expected_is_counted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    with serve(bundle) as client:
        monkeypatch.setattr(Classes, "prepare", broken)
        answer = post(client, "/predict", PHOTOS[0])
        assert (answer.status_code, answer.json()) == (500, {"error": "an error in the server; its log says more"})
        assert 'nextify_requests_total{route="predict",status="500"} 1.0' in client.get("/metrics").text


def test_explanations_are_pictures_of_the_input(client: TestClient) -> None:
    answer = post(client, "/explain?class=3", PHOTOS[0])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert decode(answer.content).shape == (24, 24, 3)


def test_explanations_leave_out_what_is_padded(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny", CLASSES, 24, 1.5)  # short sides of 16 pixels in an input of 24
    with serve(bundle) as client:
        answer = post(client, "/explain?class=3", PHOTOS[0])
    assert decode(answer.content).shape == (16, 24, 3)


@pytest.mark.slow
def test_the_first_explanation_imports_no_compiler_which_would_take_seconds(bundle: Path) -> None:
    code = (
        "import sys, numpy as np; from functools import partial; "
        "from nextify.deploy.serve.workers import InProcess, open_network; "
        "worker = InProcess(partial(open_network, sys.argv[1])); worker.start(); "
        "(heat,) = worker('explain', np.full((1, 24, 24, 3), 99, np.uint8), [1]); "
        "print(heat.shape, *{'torch._dynamo', 'sympy', 'triton'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "(24, 24)"


def test_the_page_is_one_file_that_loads_nothing_and_shows_nothing_unescaped(client: TestClient) -> None:
    answer = client.get("/")
    page = answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert page.count("<script>") == 1  # whose hash the policy names
    assert not re.search(r"(src|href)=\"(https?:)?//", page)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", page)
    told = client.get("/model").json()
    assert told["licence"] == "MIT"
    assert len(told["class_names"]) == told["classes"]
    assert "alert(1)" not in page


def test_openapi_describes_every_route(bundle: Path, client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    app: Any = create_app([InProcess(partial(open_runner, bundle))], Settings(), "tiny")
    routes = {(route.path, method.lower()) for route in app.routes for method in route.methods - {"HEAD"}}
    assert {(path, method) for path, methods in described["paths"].items() for method in methods} == routes
    assert "MODEL" not in json.dumps(described)
    with TestClient(create_app([InProcess(partial(open_runner, bundle))], Settings(), "VERSION")) as other:
        assert "/v2/models/VERSION/versions/1/infer" in other.get("/openapi.json").json()["paths"]


# The Open Inference Protocol


def tensors(bundle: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Inputs of two photos, and their logits."""
    loaded = load(bundle)
    inputs = loaded.preprocessing.batch([decode(data) for data in PHOTOS[:2]])
    return inputs.numpy(), loaded.model(inputs).detach().numpy()


def of(images: np.ndarray[Any, Any], **more: Any) -> dict[str, Any]:
    tensor = {"name": "images", "datatype": "FP32", "shape": list(images.shape), "data": images.ravel().tolist()}
    return {"inputs": [tensor | more]}


def test_protocol_describes_the_model(client: TestClient) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
    found = client.get("/v2/models/tiny").json()
    assert found["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 24, 24]}]
    assert found["outputs"][0] == {"name": "logits", "datatype": "FP32", "shape": [-1, 6]}
    for path in ("", "/ready"):
        assert client.get(f"/v2/models/tiny/versions/1{path}").json() == client.get(f"/v2/models/tiny{path}").json()
    asked = of(ONE)
    assert client.post("/v2/models/tiny/versions/1/infer", json=asked).json()["model_name"] == "tiny"
    for path in ("other", "other/infer", "tiny/versions/2"):
        answer = client.get(f"/v2/models/{path}")
        assert (answer.status_code, "the model is /v2/models/tiny," in answer.json()["error"]) == (404, True)


@pytest.mark.parametrize("nested", [False, True])
def test_protocol_in_json(client: TestClient, bundle: Path, nested: bool) -> None:
    images, logits = tensors(bundle)
    asked = of(images, data=images.tolist()) if nested else of(images)
    answer = client.post("/v2/models/tiny/infer", json=asked | {"id": "seven"}).json()
    assert (answer["id"], answer["model_name"]) == ("seven", "tiny")
    found = {o["name"]: np.reshape(o["data"], o["shape"]) for o in answer["outputs"]}
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("everything", [True, False])
def test_protocol_in_binary(client: TestClient, bundle: Path, everything: bool) -> None:
    images, logits = tensors(bundle)
    asked = of(images, parameters={"binary_data_size": images.nbytes})
    del asked["inputs"][0]["data"]
    if everything:
        asked["parameters"] = {"binary_data_output": True}
    else:
        asked["outputs"] = [{"name": "probabilities"}, {"name": "logits", "parameters": {"binary_data": True}}]
    head = json.dumps(asked).encode()
    answer = client.post(
        "/v2/models/tiny/infer",
        content=head + images.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    length = int(answer.headers["inference-header-content-length"])
    told, binary = json.loads(answer.content[:length]), answer.content[length:]
    place = [o["name"] for o in told["outputs"]].index("logits")
    assert told["outputs"][place]["parameters"] == {"binary_data_size": logits.nbytes}
    np.testing.assert_allclose(np.frombuffer(binary[: logits.nbytes], "<f4"), logits.ravel(), rtol=1e-3, atol=1e-3)


ONE = np.zeros((1, 3, 24, 24), np.float32)


def binary(size: Any) -> dict[str, Any]:
    asked = of(ONE, parameters={"binary_data_size": size})
    del asked["inputs"][0]["data"]
    return asked


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (b"[]", "the request must be an object"),
        (b"", "the request has no body"),
        (b"{", "the request is not JSON"),
        (b"\xff", "the request is not JSON"),
        (b"{}", "inputs must be a list of objects"),
        ({"inputs": []}, "inputs must hold exactly one tensor, named images"),
        (of(ONE, name="x"), "inputs must hold exactly one tensor, named images"),
        (of(ONE, datatype="FP64"), "images must be FP32 of [N, 3, 24, 24]"),
        (of(ONE, shape=[1, 3, 24, 25]), "images must be FP32 of [N, 3, 24, 24]"),
        (of(ONE, shape=[0, 3, 24, 24]), "N from 1"),
        (of(ONE, shape=[True, 3, 24, 24]), "N from 1"),
        (of(ONE, shape=[2, 3, 24, 24]), "images has 1,728 values, but its shape needs 3,456"),
        (of(ONE, data=["1"] * 1728), "data must be a list of numbers"),
        (of(ONE, data=[[1], [1, 2]]), "data must be a list of numbers"),
        (
            of(ONE, data=np.zeros((1, 24, 24, 3)).tolist()),
            "data is nested as [1, 24, 24, 3], but images has the shape [1, 3,",
        ),
        (of(ONE, data=None), "data must be a list of numbers"),
        (of(ONE, data=[10**400] * 1728), "data must be a list of numbers"),
        (of(ONE, data=[1e300] * 1728), "NaN or infinite"),
        (of(ONE, data=[1.0]), "images has 1 value, but its shape needs 1,728"),
        (of(ONE, data=[-1.1e6] * 1728), "beyond ±1,000,000"),
        (of(ONE, parameters={"binary_data_size": 4}), "either data or binary_data_size"),
        (binary(4), "binary_data_size is 4, but 0 bytes follow the JSON"),
        (binary(5), "a whole number of bytes, 4 for each value, got 5"),
        (binary(4.0), "a whole number of bytes, 4 for each value, got 4.0"),
        (binary(-4), "a whole number of bytes, 4 for each value, got -4"),
        (binary(None), "either data or binary_data_size"),
        (of(ONE) | {"outputs": [{"name": "x"}]}, "outputs are logits and probabilities"),
        (of(ONE) | {"outputs": [{"name": "logits", "parameters": {"classification": 3}}]}, "outputs are logits"),
        (of(ONE) | {"id": 7}, "id must be a string"),
        (of(ONE) | {"parameters": []}, "parameters must be an object"),
    ],
)
def test_protocol_refuses_what_it_does_not_say(client: TestClient, asked: Any, message: str) -> None:
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    answer = post(client, "/v2/models/tiny/infer", body, "application/json")
    assert answer.status_code == 400
    assert message in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "0", "9999999", "9" * 5000, "x", "1.0", "²", ""])
def test_protocol_refuses_a_wrong_header(client: TestClient, length: str) -> None:
    headers = {"inference-header-content-length": length.encode()}
    answer = client.post("/v2/models/tiny/infer", json=of(ONE), headers=headers)
    assert answer.status_code == 400
    assert "Inference-Header-Content-Length must be a whole number from 1 to" in answer.json()["error"]


# What the network sees, and the command


@pytest.mark.parametrize(
    ("settings", "width", "height", "box"),
    [
        (Preprocessing((20, 20), 25), 50, 25, (15, 2, 35, 22)),
        (Preprocessing((20, 20), 25), 250, 500, (20, 150, 220, 350)),
        (Preprocessing((20, 30), 20, fit="squash"), 90, 45, (0, 0, 90, 45)),
        (Preprocessing((30, 30), 20), 40, 20, (5, 0, 35, 20)),
    ],
)
def test_box(settings: Preprocessing, width: int, height: int, box: tuple[float, ...]) -> None:
    assert settings.box(width, height) == pytest.approx(box, abs=1)
    shown = settings.pixels(Image.new("RGB", (width, height), "white")).numpy().any(-1)
    expected = np.zeros_like(shown)
    expected[settings.filled(width, height)] = True
    np.testing.assert_array_equal(shown, expected)


def test_a_host_that_is_not_there_is_said_in_words(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert main(["serve", str(bundle), "--host", "nowhere.invalid"]) == 2
    assert "nowhere.invalid port 8000 (Name or service not known): choose" in capsys.readouterr().err


def test_the_command_says_what_is_wrong(bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, monkeypatch.context() as patch:
        patch.setitem(sys.modules, "nextify.deploy.runners", None)  # which imports torch
        port = taken.getsockname()[1]
        assert main(["serve", str(bundle), "--port", str(port)]) == 2
    message = f"cannot listen on 127.0.0.1 port {port} (Address already in use): choose another --host or --port"
    assert capsys.readouterr().err == f"nextify: {message}\n"
    monkeypatch.setattr(nextify.deploy.runners, "version", lambda package: None)
    assert main(["serve", str(bundle), "--port", "0"]) == 1
    assert "pip install 'nextify[serve]'" in capsys.readouterr().err


def test_a_network_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="none"):
        create_app([InProcess(partial(open_runner, tmp_path / "none"))], Settings())
    overflowing = tiny_bundle(tmp_path / "bundle", CLASSES, 24, 0.75, temperature=1e-40)
    with pytest.raises(ServeError, match="fails on a black image: its outputs are NaN or infinite"):
        create_app([InProcess(partial(open_runner, overflowing))], Settings())
