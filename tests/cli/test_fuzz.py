"""Settings, bundles' JSON, manifests and image files at random: each is accepted, or refused in one line.

No traceback, no case over 10 s, no memory over 2 GiB. The slow run has 20,000 cases.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from nextify.cli import _explain
from nextify.cli.settings import settings as parsed
from nextify.data import Images, ImageSet, open_images
from nextify.data.images import UniformStore
from nextify.data.kept import Kept
from nextify.evaluation.predict import Predictor
from nextify.evaluation.runner import Network
from nextify.paper.design import Design
from nextify.paper.recipe import Recipe
from nextify.paper.settings import names
from nextify.training.prepare import prepare
from nextify.training.request import Request
from nextify.weights.bundle import _checksum
from tests.helpers import encoded, noise, save_noise, tiny_bundle

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its limits are Linux's")
LONGEST = 10
"""Seconds of a case."""
MEMORY = 2 * 2**30


def cases(few: int, many: int) -> Any:
    return pytest.mark.parametrize("cases", [few, pytest.param(many, marks=pytest.mark.slow)])


def fuzzed(cases: int, **strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], None]:
    """Run a function on ``cases`` examples of the strategies."""
    health = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    wanted = settings(
        max_examples=cases,
        deadline=None,
        suppress_health_check=health,
        database=None,
        derandomize=True,
        phases=[Phase.generate],  # a failure is shown as it was found: shrinking it takes minutes
    )
    return lambda function: wanted(given(**strategies)(function))()


@contextmanager
def one_line_at_most() -> Iterator[None]:
    """Let through what the command line would say in one line; fail for all else, and for what takes too long."""

    def late(number: int, frame: object) -> None:
        raise AssertionError(f"over {LONGEST} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    except Exception as error:
        line = _explain(error)
        if line is None or isinstance(error, AssertionError):
            raise
        assert 0 < len(line) < 2000
        assert "\n" not in line
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """``MEMORY`` beyond what the process holds already, whichever tests ran in it before."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    held = next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmData:")), 0)
    resource.setrlimit(resource.RLIMIT_DATA, (held + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.fixture(scope="module")
def few_images() -> Images:
    pixels = np.stack([noise(i) for i in range(40)])
    part = ImageSet(np.arange(40) % 4, UniformStore(Kept(pixels)))
    return Images("few", ("a", "b", "c", "d"), part, part, True, "f", (), (16, 16), test_images_also_in_training=0)


# -- settings ------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
    st.floats(0, 2),
    st.sampled_from(["1e308", "nan", "inf", "-0", "1_0"]),
).map(str)
WORDS = st.sampled_from(
    ["off", "on", "sgd", "adamw", "muon", "shift", "none", "random_resized", "batch", "layer", "True", "None", "fast"]
)
VALUES = st.one_of(NUMBERS, WORDS, st.lists(NUMBERS | WORDS, max_size=5).map(",".join), st.text(max_size=12))
NAMES = st.one_of(st.sampled_from([*names(Recipe), *names(Design)]), st.text(max_size=10))


@cases(100, 8000)
def test_settings(cases: int, few_images: Images) -> None:
    @fuzzed(
        cases, given=st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=3), scale=st.sampled_from(["tiny", "full"])
    )
    def check(given: list[tuple[str, str]], scale: str) -> None:
        with one_line_at_most():
            values = parsed([f"{name}={value}" for name, value in given])
            prepared = prepare(Request("convnext_atto", epochs=2, scale=scale, settings=values), few_images)
            json.dumps(prepared.trial.to_dict(), allow_nan=False)
            assert Recipe.from_dict(prepared.trial.recipe.to_dict()) == prepared.trial.recipe


# -- bundles -------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 300)
    | st.floats()
    | st.sampled_from([1e400, 10**40, 10**5, "crop", "squash", "bicubic", "batch", "layer", "off"])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of everything inside a JSON value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from nodes(inner, (*path, key))


@cases(60, 5000)
def test_bundles(cases: int, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, warmup_epochs=0)
    bundle = tiny_bundle(tmp_path / "b", ("a", "b", "c"), 16, 1.0, recipe=recipe, temperature=0.5)
    picture = tmp_path / "a.png"
    save_noise(picture, 0)
    whole = (bundle / "nextify.json").read_text("utf-8")
    places = list(nodes(json.loads(whole)))

    @fuzzed(
        cases,
        changes=st.lists(st.tuples(st.sampled_from(places), JSON), min_size=1, max_size=3),
        known=st.booleans(),
        cut=st.none() | st.tuples(st.integers(0, len(whole)), st.text(max_size=5)),
    )
    def check(changes: list[tuple[tuple[Any, ...], Any]], known: bool, cut: tuple[int, str] | None) -> None:
        content = json.loads(whole)
        for (*path, last), value in changes:
            place = content
            try:
                for key in path:
                    place = place[key]
                place[last] = value
            except (TypeError, KeyError, IndexError):  # of a place that an earlier change took away
                continue
        content = json.loads(json.dumps(content))  # all keys are texts
        if known:  # as if it had been written so
            content["about_sha256"] = _checksum(content)
        text = json.dumps(content)
        if cut is not None:
            text = text[: cut[0]] + cut[1] + text[cut[0] + len(cut[1]) :]
        (bundle / "nextify.json").write_text(text, "utf-8", "surrogatepass")
        with one_line_at_most():
            (found,) = Predictor(Network(bundle))(picture)
            assert found.guesses or found.error
            assert all(0 <= guess.probability <= 1 for guess in found.guesses)


# -- manifests -----------------------------------------------------------------------------------------------------

FILES = ("a.png", "b.png", "c d.png", "sub/e.png", "broken.png", "notes.txt")
CELLS = st.one_of(
    st.sampled_from(
        [*FILES, "", "none.png", "..", "/dev/zero", "sub", ".", "train", "val", "test", "cat", "1", "1.0", "nan"]
    ),
    st.text(max_size=6),
)
HEADS = st.one_of(
    st.sampled_from(
        ["path,label", "file_name,label,split", "path;label", "path\tlabel", "path,label,group", "path,label,is_valid"]
    ),
    st.lists(CELLS, max_size=4).map(",".join),
)


@cases(60, 4000)
def test_manifests(cases: int, tmp_path: Path) -> None:
    for i, name in enumerate(FILES[:4]):
        save_noise(tmp_path / name, i)
    for name in FILES[4:]:
        (tmp_path / name).write_bytes(b"\x89PNG\r\n")

    @fuzzed(
        cases,
        head=HEADS,
        good=st.booleans(),
        rows=st.lists(st.lists(CELLS, max_size=4), max_size=6),
        joint=st.sampled_from([",", ",", ";", "\t", " ", "|"]),
        end=st.sampled_from(["\n", "\r\n", "\r"]),
        kind=st.sampled_from(["m.csv", "m.csv", "m.tsv", "m.txt", "m.jsonl"]),
        tail=st.binary(max_size=6),
        skip=st.booleans(),
    )
    def check(
        head: str, good: bool, rows: list[list[str]], joint: str, end: str, kind: str, tail: bytes, skip: bool
    ) -> None:
        own = [[name, label] for name in FILES[:4] for label in ("cat", "dog")][:: 3 if good else 9]
        if kind == "m.jsonl":
            lines = [json.dumps(dict(zip(("path", "label", "split"), row, strict=False))) for row in [*own, *rows]]
        else:
            lines = [head, *(joint.join(row) for row in [*own, *rows])]
        path = tmp_path / kind
        path.write_bytes(end.join(lines).encode("utf-8", "surrogatepass") + tail)
        with one_line_at_most():
            images = open_images(path, skip_unreadable=skip)
            assert len(images.train) > 0
            assert images.num_classes > 1


# -- images --------------------------------------------------------------------------------------------------------


PICTURES = [
    encoded(Image.fromarray(noise(0, 20, 30)).convert(mode), kind)
    for kind, modes in (
        ("PNG", ("RGB", "P", "LA", "I;16", "1")),
        ("JPEG", ("RGB", "L", "CMYK")),
        ("GIF", ("P",)),
        ("BMP", ("RGB", "1")),
        ("TIFF", ("RGB", "I;16", "F", "CMYK")),
        ("WEBP", ("RGB",)),
        ("PPM", ("RGB",)),
    )
    for mode in modes
]


@cases(60, 3000)
def test_image_headers(cases: int, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "b", ("a", "b", "c"), 16, 1.0)
    predictor, banded = Predictor(Network(bundle)), Predictor(Network(bundle), channels=(1, 1, 1))
    path = tmp_path / "a"

    @fuzzed(
        cases,
        data=st.sampled_from(PICTURES),
        changes=st.lists(st.tuples(st.integers(0, 250), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4),
        length=st.none() | st.integers(0, 400),
        channels=st.booleans(),
    )
    def check(data: bytes, changes: list[tuple[int, bytes]], length: int | None, channels: bool) -> None:
        for place, new in changes:
            data = data[:place] + new + data[place + len(new) :]
        path.write_bytes(data[:length])
        with one_line_at_most():
            (found,) = (banded if channels else predictor)(path)
            assert bool(found.guesses) != bool(found.error)
            assert "\n" not in found.error
