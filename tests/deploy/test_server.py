"""The server as a process: kills, SIGTERM, other people's clients, and the page in a real browser."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

from nextify.data.decode import decode
from nextify.deploy.runners import predict
from nextify.evaluation.dense_predict import DensePrediction, find
from nextify.evaluation.finder import open_finder
from nextify.weights import load
from nextify.weights.bundle import Metric
from tests.deploy.kills import CLASSES, fire, photo
from tests.deploy.test_export_dense import bundle_of
from tests.helpers import tiny_bundle

pytestmark = pytest.mark.slow


@contextmanager
def serving(bundle: Path, *options: str) -> Iterator[str]:
    """A server's address; SIGTERM ends it with 0."""
    arguments = ("serve", str(bundle), "--port", "0", "--threads", "1", "--device", "cpu", *options)
    with subprocess.Popen([sys.executable, "-m", "nextify", *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+(?=;)", process.stdout.readline())
            assert found
            yield found[0]
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("model") / "bundle", CLASSES, 24, 0.75, sharpness=200, name="tiny")


@pytest.fixture(scope="module")
def address(bundle: Path) -> Iterator[str]:
    with serving(bundle) as address:
        yield address


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    bundle = bundle_of(tmp_path_factory.mktemp("boxes"), "fcos")
    with serving(bundle, "--name", "boxes", "--workers", "1") as address:
        yield address, bundle


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    bundle = bundle_of(tmp_path_factory.mktemp("masks"), "fpn")
    with serving(bundle, "--name", "masks", "--workers", "1") as address:
        yield address, bundle


@pytest.fixture(params=["classes", "boxes", "masks"])
def each(request: pytest.FixtureRequest) -> str:
    """The address of a server for each kind of network."""
    if request.param == "classes":
        return str(request.getfixturevalue("address"))
    return str(request.getfixturevalue("detector" if request.param == "boxes" else "segmenter")[0])


def test_nothing_accepted_is_lost_or_mixed_up(tmp_path: Path) -> None:
    counts = asyncio.run(fire(tmp_path, 4000, 2))
    assert not [name for name in counts if name.startswith("WRONG")], counts
    assert counts["workers killed"] > 0
    assert counts["answered"] > 2800


def test_an_idle_connection_is_kept_open(address: str) -> None:
    """uvicorn's default is 5 s; a proxy that sends a request just then would answer it with 502."""
    connection = HTTPConnection(address.removeprefix("http://"))
    for pause in (6.5, 0):
        connection.request("GET", "/health/live")
        assert connection.getresponse().read()
        connection.auto_open = 0  # the same connection must serve the next request
        time.sleep(pause)
    connection.close()


def test_triton_client(address: str, bundle: Path) -> None:
    http: Any = pytest.importorskip("tritonclient.http")
    loaded = load(bundle)
    images = loaded.preprocessing.batch([decode(photo(i)) for i in range(3)])
    logits = loaded.model(images).detach().numpy()
    client = http.InferenceServerClient(address.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.get_server_metadata()["name"] == "nextify"
    assert client.get_model_metadata("tiny")["inputs"][0]["shape"] == [-1, 3, 24, 24]
    for binary in (True, False):
        given = http.InferInput("images", list(images.shape), "FP32")
        given.set_data_from_numpy(images.numpy(), binary_data=binary)
        for outputs in (None, [http.InferRequestedOutput("logits", binary_data=binary)]):
            answer = client.infer("tiny", [given], outputs=outputs, request_id="7")
            np.testing.assert_allclose(answer.as_numpy("logits"), logits, rtol=1e-3, atol=1e-3)
            assert answer.get_response()["id"] == "7"
    given = http.InferInput("images", [1, 3, 9, 9], "FP32")
    given.set_data_from_numpy(np.zeros((1, 3, 9, 9), np.float32))
    with pytest.raises(Exception, match=r"images must be FP32 of \[N, 3, 24, 24\]"):
        client.infer("tiny", [given])


def test_triton_client_for_boxes(detector: tuple[str, Path]) -> None:
    http: Any = pytest.importorskip("tritonclient.http")
    address, bundle = detector
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 96)).astype(np.float32)
    client = http.InferenceServerClient(address.removeprefix("http://"))
    names = [output["name"] for output in client.get_model_metadata("boxes")["outputs"]]
    for binary in (True, False):
        given = http.InferInput("images", list(images.shape), "FP32")
        given.set_data_from_numpy(images, binary_data=binary)
        wanted = [http.InferRequestedOutput(name, binary_data=binary) for name in names]
        answer = client.infer("boxes", [given], outputs=wanted)
        count, boxes, scores, classes = (answer.as_numpy(name) for name in names)
        assert (count.shape, boxes.shape, scores.shape, classes.shape) == ((2, 1), (2, 100, 4), (2, 100), (2, 100))
        for i, expected in enumerate(open_finder(bundle).outputs(images)):
            assert count[i, 0] == len(expected.scores) > 20
            np.testing.assert_allclose(scores[i, : count[i, 0]], expected.scores, atol=1e-4)


def test_openapi_document_is_valid(each: str) -> None:
    validator: Any = pytest.importorskip("openapi_spec_validator")
    with urlopen(f"{each}/openapi.json") as answer:
        validator.validate(json.load(answer))


def test_answers_are_those_that_openapi_promises(each: str, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    # Which bytes are an image is more than a schema can say.
    options = ("--max-examples", "20", "--exclude-checks", "positive_data_acceptance")
    found = subprocess.run(
        [Path(sys.executable).with_name("schemathesis"), "run", f"{each}/openapi.json", *options],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,  # where it leaves a folder
    )
    assert found.returncode == 0, found.stdout[-4000:]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api: Any = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as driver:
        path = shutil.which("chromium") or shutil.which("google-chrome") or driver.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium: make slow installs one")
        yield driver.chromium.launch(executable_path=path, args=["--no-sandbox"])


def test_page_classifies_a_photo(address: str, browser: Any, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(photo(0))
    expected = next(iter(predict(bundle, [tmp_path / "photo.png"], threads=1)))
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#facts dd")
    assert page.title() == "tiny"
    page.set_input_files("#file", tmp_path / "photo.png")
    page.wait_for_selector("#heat:not([hidden])")
    lines = page.locator("#classes button")
    assert [lines.nth(i).locator("span").first.inner_text() for i in range(5)] == [g.name for g in expected.guesses]
    assert expected.guesses[0].name in page.inner_text("#status")
    crop, shown = page.locator("#crop").bounding_box(), page.locator("#photo").bounding_box()
    # 60×40 resized to a short side of 32 and cropped to 24: the middle 30 by 30 pixels
    assert crop["width"] / shown["width"] == pytest.approx(30 / 60, abs=0.02)
    assert crop["height"] / shown["height"] == pytest.approx(30 / 40, abs=0.02)
    page.locator("#strength").focus()
    page.keyboard.press("Home")
    assert page.evaluate("document.getElementById('heat').style.opacity") == "0"
    lines.nth(1).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#classes li:nth-child(2) button[aria-pressed=true]")
    (tmp_path / "bad.png").write_bytes(b"<img src=x onerror=alert(1)>")
    page.set_input_files("#file", tmp_path / "bad.png")
    page.wait_for_selector("#status.bad")
    assert page.inner_text("#status") == "image 1: not an image"
    assert page.input_value("#file") == ""  # so that choosing the same file again counts as a change
    Image.open(tmp_path / "photo.png").resize((6, 4)).save(tmp_path / "tiny.png")
    page.set_input_files("#file", tmp_path / "tiny.png")
    page.wait_for_selector("#status:not(.bad)")
    page.wait_for_function("document.getElementById('photo').naturalWidth == 6")
    shown = page.locator("#photo").bounding_box()
    assert (round(shown["width"]), round(shown["height"])) == (224, 149)
    assert [line for line in said if "400" not in line] == []
    page.close()


def shown(browser: Any, served: tuple[str, Path], file: Path) -> tuple[Any, DensePrediction, list[str]]:
    """The page of a detector or segmenter after a photo of 60×40 was chosen, what ``predict`` finds in it, and what
    the browser complains of."""
    address, bundle = served
    file.write_bytes(photo(0))
    (expected,) = find(open_finder(bundle), file)
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#facts dd")
    page.set_input_files("#file", file)
    page.wait_for_selector("#result:not([hidden])")
    return page, expected, said


def test_page_draws_boxes(detector: tuple[str, Path], browser: Any, tmp_path: Path) -> None:
    page, expected, said = shown(browser, detector, tmp_path / "photo.png")
    lines, boxes = page.locator("#classes button"), page.locator("#boxes div")
    assert boxes.count() == lines.count() == len(expected.objects) > 1
    for i, one in enumerate(expected.objects):
        assert lines.nth(i).locator("span").all_inner_texts() == [one.name, f"{100 * one.score:.1f} %"]
    whole, best = page.locator("#photo").bounding_box(), boxes.last.bounding_box()  # the surest on top
    x1, y1, x2, y2 = expected.objects[0].box
    assert (best["x"] - whole["x"]) / whole["width"] == pytest.approx(x1 / 60, abs=0.02)
    assert (best["y"] - whole["y"]) / whole["height"] == pytest.approx(y1 / 40, abs=0.02)
    assert best["width"] / whole["width"] == pytest.approx((x2 - x1) / 60, abs=0.02)
    assert best["height"] / whole["height"] == pytest.approx((y2 - y1) / 40, abs=0.02)
    names = [one.name for one in expected.objects]
    counted = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
    assert page.inner_text("#status") == counted
    assert not page.is_visible("#slide")
    assert not page.is_visible("#sees")
    lines.nth(1).focus()
    for pressed in ("true", "false"):
        page.keyboard.press("Enter")
        assert lines.nth(1).get_attribute("aria-pressed") == pressed
        assert page.locator("#boxes.chosen div.on").count() == (pressed == "true")
    (tmp_path / "bad.png").write_bytes(b"no image")
    page.set_input_files("#file", tmp_path / "bad.png")
    page.wait_for_selector("#status.bad")
    assert not page.is_visible("#boxes")
    assert [line for line in said if "400" not in line] == []
    page.close()


def test_page_lays_the_mask_over_the_photo(segmenter: tuple[str, Path], browser: Any, tmp_path: Path) -> None:
    page, expected, said = shown(browser, segmenter, tmp_path / "photo.png")
    page.wait_for_function("document.getElementById('heat').naturalWidth == 60")
    mask, whole = page.locator("#heat").bounding_box(), page.locator("#photo").bounding_box()
    assert mask == pytest.approx(whole, abs=1)
    lines = page.locator("#classes li")
    assert lines.count() == len(expected.regions)
    for i, one in enumerate(expected.regions):
        assert lines.nth(i).locator("span").all_inner_texts() == [one.name, f"{100 * one.share:.1f} %"]
    assert page.inner_text("#status") == f"{expected.regions[0].name}, {100 * expected.regions[0].share:.1f} %"
    page.get_by_label("Mask over the image").focus()
    for key, opacity in (("Home", "0"), ("End", "1")):
        page.keyboard.press(key)
        assert page.evaluate("document.getElementById('heat').style.opacity") == opacity
    assert page.locator("#boxes div").count() == 0
    assert said == []
    page.close()


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:5]], ids=len)
def test_page_states_metrics(classes: tuple[str, ...], tmp_path: Path, browser: Any) -> None:
    metrics = (Metric("top1", 200 / 3, "photos", 3), Metric("top5", 100.0, "others"))
    with serving(tiny_bundle(tmp_path / "b", classes, 24, 0.75, metrics=metrics), "--workers", "0") as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#facts dd")
        assert page.inner_text("#facts dt:last-of-type") == ("top-5" if len(classes) > 5 else "top-1")
        assert "66.67 % on 3 images of photos" in page.inner_text("#facts")
        assert ("100.00 % on others" in page.inner_text("#facts")) == (len(classes) > 5)  # else it is always so
        page.close()


def test_page_lists_every_label(tmp_path: Path, browser: Any) -> None:
    """Also those beyond the five most probable, which have low thresholds."""
    bundle = tiny_bundle(tmp_path / "bundle", CLASSES, 24, 0.75, thresholds=(0.0,) * len(CLASSES))
    (tmp_path / "photo.png").write_bytes(photo(0))
    with serving(bundle, "--workers", "0") as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#facts dd")
        page.set_input_files("#file", tmp_path / "photo.png")
        page.wait_for_selector("#result:not([hidden])")
        names = page.locator("#classes .name").all_inner_texts()
        page.close()
    expected = next(iter(predict(bundle, [tmp_path / "photo.png"], threads=1)))
    assert names == [f"{guess.name} ✓" for guess in expected.guesses]


def test_page_asks_for_the_token(bundle: Path, browser: Any) -> None:
    with serving(bundle, "--token", "secret", "--workers", "0") as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#token")
        assert page.inner_text("#status") == ""
        assert not page.is_visible("#links")  # they could not send it
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=This is not the server's token.")
        page.fill("#token", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#login", state="hidden")
        assert page.title() == "tiny"
        page.close()
