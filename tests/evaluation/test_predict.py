"""Predictions: the network's own probabilities, for every way of naming images, bad ones among them."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from nextify.cli import main
from nextify.cli.settings import settings
from nextify.compare.accuracy import read_weights_options
from nextify.compare.entries import find_all
from nextify.data import DataError, open_images, preprocessing
from nextify.deploy.runners import predict
from nextify.evaluation import predict as predictions
from nextify.evaluation.predict import BATCH, Guess, Source
from nextify.fitting.scale import scale
from nextify.paper.design import CONVNEXT_TINY
from nextify.paper.roadmap import roadmap
from nextify.study.plan import make_plan
from nextify.system.text import several
from nextify.training.tracking import check_trackers
from nextify.training.trial import Data
from nextify.weights import About, Preprocessing, PreprocessingError, WeightsError, load
from tests.helpers import Captured, tiny_bundle

CLASSES = ("ant", "bee", "cow", "dog", "eel", "fox")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that tells images apart, though by chance."""
    return tiny_bundle(tmp_path_factory.mktemp("model") / "bundle", CLASSES, 24, 0.75, sharpness=200)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images, one of them deep down, beside what is none."""
    folder = tmp_path / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.PNG", "deep/er/c ü.png")):
        picture(i).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def picture(seed: int, height: int = 40, width: int = 60) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_a_prediction_is_the_networks_own(temperature: float, photos: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "b", CLASSES, 24, 0.75, sharpness=200, temperature=temperature)
    loaded = load(bundle)
    seen = set()
    for found in predict(bundle, [photos], top=len(CLASSES)):
        with torch.no_grad():
            logits = loaded.model(loaded.preprocessing(Image.open(found.path))[None])[0]
        expected = (logits / temperature).softmax(-1)
        given = torch.tensor([g.probability for g in found.guesses])
        assert given.sum().item() == pytest.approx(1, abs=1e-5)
        assert (given.diff() <= 0).all()
        torch.testing.assert_close(given, expected[[g.index for g in found.guesses]], rtol=1e-4, atol=1e-5)
        assert all(CLASSES[g.index] == g.name for g in found.guesses)
        seen.add(found.guesses[0].name)
    assert len(seen) > 1


def test_files_folders_and_patterns(bundle: Path, photos: Path) -> None:
    names = [Path(p.path).name for p in predict(bundle, [photos])]
    assert names == ["a.png", "b.PNG", "c ü.png"]
    assert [Path(p.path).name for p in predict(bundle, [photos / "b.PNG", photos / "a.png"])] == ["b.PNG", "a.png"]
    assert [Path(p.path).name for p in predict(bundle, [f"{photos}/**/*.png"])] == ["a.png", "c ü.png"]


def test_an_image_that_needs_a_plugin_is_not_passed_over(bundle: Path, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic")
    whole, odd = predict(bundle, [tmp_path])
    assert not whole.error
    assert Path(odd.path).name == "b.heic"
    assert odd.error


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("name", ["a.png", "", "deep/**/*.png", "missing.png"])
def test_a_bare_path_is_one_source(bundle: Path, photos: Path, kind: type[str] | type[Path], name: str) -> None:
    source = kind(photos / name)
    found = predict(bundle, source)
    assert found == predict(bundle, [source])
    assert {"a.png": 1, "": 3, "deep/**/*.png": 1, "missing.png": 1}[name] == len(found)


def in_memory(mode: str) -> Image.Image:
    """An image of which every step of the preparation changes the outcome."""
    if mode == "I;16":
        return Image.fromarray(np.random.default_rng(0).integers(0, 65_536, (30, 50), np.uint16))
    image = picture(3)
    if mode in ("RGBA", "LA"):
        image.putalpha(picture(4).convert("L"))
    return image.convert(mode)


@pytest.mark.parametrize("orientation", [1, 6, 7])
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "I;16"])
def test_a_pillow_image_is_prepared_as_its_file(bundle: Path, tmp_path: Path, mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x.png"
    in_memory(mode).save(path, exif=exif)
    expected = predict(bundle, path)[0].guesses
    with Image.open(path) as image:
        opened, copied = predict(bundle, [image, image.copy()])
        assert (opened.path, copied.path) == ("image 0", "image 1")
        assert predict(bundle, image)[0].guesses == expected
    assert_alike(opened.guesses, expected)
    assert_alike(copied.guesses, expected)


def assert_alike(given: tuple[Guess, ...], expected: tuple[Guess, ...]) -> None:
    """The same but for the rounding of other batch sizes."""
    assert [g.index for g in given] == [g.index for g in expected]
    assert [g.probability for g in given] == pytest.approx([g.probability for g in expected], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_array_is_prepared_as_its_file(bundle: Path, tmp_path: Path, mode: str) -> None:
    image = picture(5).convert(mode)
    image.save(tmp_path / "x.png")
    array = np.asarray(image)
    alone = predict(bundle, array)
    assert [p.path for p in alone] == ["image 0"]
    assert_alike(alone[0].guesses, predict(bundle, tmp_path / "x.png")[0].guesses)
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert predict(bundle, array[:, ::-1]) == predict(bundle, mirrored)


def test_sources_of_all_kinds_together(bundle: Path, photos: Path) -> None:
    images = [picture(i) for i in range(3)]
    mixed = predict(bundle, iter([photos / "a.png", images[1], np.asarray(images[2]), str(photos / "b.PNG")]))
    assert [p.path for p in mixed] == [str(photos / "a.png"), "image 1", "image 2", str(photos / "b.PNG")]
    batch = predict(bundle, np.stack([np.asarray(image) for image in images]))
    assert [p.path for p in batch] == ["image 0", "image 1", "image 2"]
    for found, i in ((mixed[0], 0), (mixed[1], 1), (mixed[2], 2), (mixed[3], 1)):
        assert_alike(found.guesses, batch[i].guesses)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (Image.new("F", (30, 30)), "floats"),
        (Image.new("RGB", (0, 30)), "no pixels"),
        (np.zeros((0, 30, 3), np.uint8), "no pixels"),
        ("", "an empty name: write . for the current folder"),
    ],
)
def test_an_image_that_cannot_be_prepared_is_an_outcome(bundle: Path, source: Source, reason: str) -> None:
    good, bad = predict(bundle, [picture(0), source])
    assert good.guesses
    assert (bad.path, bad.guesses) == ("" if isinstance(source, str) else "image 1", ())
    assert reason in bad.error


@pytest.mark.parametrize("top", [0, 2.0, "2"])
def test_the_number_of_classes_is_a_whole_number(bundle: Path, top: Any) -> None:
    with pytest.raises(ValueError, match=rf"top must be a whole number from 1, got {top!r}"):
        predict(bundle, picture(0), top=top)


def test_a_pillow_image_of_a_truncated_file_is_an_outcome(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    picture(0, 200, 300).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with Image.open(path) as image:
        assert [p.error for p in predict(bundle, [image, path])] == ["truncated", "truncated"]


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize(
    ("source", "got"),
    [
        (None, "NoneType"),
        (7, "int"),
        (b"photo.jpg", "bytes"),
        (np.zeros((30, 30, 3), np.float32), "float32"),
        (np.zeros((30, 30, 4), np.uint8), r"\(30, 30, 4\)"),
        (np.zeros(30, np.uint8), r"\(30,\)"),
    ],
)
def test_what_is_no_source_is_refused(bundle: Path, source: Any, got: str, bare: bool) -> None:
    with pytest.raises(TypeError, match=f"^an image .*(H, W).*{got}") as caught:
        predict(bundle, source if bare else [source])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "many"),
    [
        (lambda: several("fog"), lambda: several(["fog"])),
        (lambda: several(3), lambda: several((3,))),
        (lambda: settings("epochs=3"), lambda: settings(["epochs=3"])),
        (lambda: find_all("convnext_tiny"), lambda: find_all(["convnext_tiny"])),
        (lambda: read_weights_options("a=b"), lambda: read_weights_options(["a=b"])),
        (lambda: study("patchify", 0), lambda: study(("patchify",), (0,))),
    ],
)
def test_a_bare_value_stands_for_itself_elsewhere(one: Callable[[], object], many: Callable[[], object]) -> None:
    assert one() == many()


def study(steps: Any, seeds: Any) -> object:
    data = Data("digits", "", 10, 32)
    return make_plan(roadmap("resnet50"), scale("tiny"), open_images("digits"), data, steps=steps, seeds=seeds).trials


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check_trackers("wand"), ValueError, "--track wand: not known"),
        (lambda: About(CONVNEXT_TINY, 3, classes=cast(Any, "ant")), WeightsError, "got the string 'ant'"),
        (lambda: Preprocessing().batch(np.zeros((9, 9, 3), np.uint8)), PreprocessingError, "an array of"),
        (lambda: open_images(cast(Any, ["a", "b"])), TypeError, "got list"),
        (lambda: open_images(Path("digits")), DataError, "no such folder or file: ./digits"),
    ],
)
def test_what_would_be_taken_apart_is_refused(
    call: Callable[[], object], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        call()


def test_more_images_than_a_batch_with_a_bad_one_among_them(bundle: Path, tmp_path: Path) -> None:
    for i in range(BATCH + 6):
        picture(i).save(tmp_path / f"{i:03}.png")
    (tmp_path / "010.png").write_bytes(b"")
    found = predict(bundle, [tmp_path], top=1)
    assert [Path(p.path).name for p in found] == [f"{i:03}.png" for i in range(BATCH + 6)]
    assert [p.error for p in found if p.error] == ["empty file"]
    alone = predict(bundle, [tmp_path / f"{BATCH + 1:03}.png"], top=1)[0]
    assert alone.guesses[0].name == found[BATCH + 1].guesses[0].name


def test_folders_that_are_links_are_followed_as_in_training_and_each_image_is_predicted_once(
    bundle: Path, tmp_path: Path
) -> None:
    for i, place in enumerate(("elsewhere/cat", "elsewhere/deep/owl", "set/dog")):
        (tmp_path / place).mkdir(parents=True)
        picture(i).save(tmp_path / place / f"{i}.png")
        picture(i + 3).save(tmp_path / place / f"{i + 3}.png")
    root = tmp_path / "set"
    (root / "cat").symlink_to(tmp_path / "elsewhere" / "cat", target_is_directory=True)
    (root / "owl").symlink_to(Path("../elsewhere/deep"), target_is_directory=True)
    images = open_images(str(root))
    trained = {f"{root}/{images.train.name(i)}" for i in range(len(images.train))}
    trained |= {f"{root}/{images.test.name(i)}" for i in range(len(images.test))}
    for place, target in (("set/dog/again", ".."), ("set/all", "dog"), ("elsewhere/deep/loop", "."), ("set/up", "..")):
        (tmp_path / place).symlink_to(target, target_is_directory=True)
    found = [p.path for p in predict(bundle, [root], top=1)]
    assert found == sorted(trained)
    assert len(found) == 6


def run(capsys: Captured, code: int, *arguments: str | Path) -> tuple[str, list[str]]:
    capsys.readouterr()
    assert main(["predict", *map(str, arguments), "--device", "cpu"]) == code
    captured = capsys.readouterr()
    return captured.out, captured.err.splitlines()


def test_table(capsys: Captured, bundle: Path, photos: Path) -> None:
    out, _ = run(capsys, 0, bundle, photos, "--top", "2")
    lines = out.splitlines()
    assert lines[0].split() == ["image", "class", "probability"]
    assert len(lines) == 1 + 2 * 3
    assert lines[1].startswith(str(photos / "a.png"))
    assert lines[1].endswith(" %")


def test_json_and_csv_say_the_same(capsys: Captured, bundle: Path, photos: Path) -> None:
    listed = json.loads(run(capsys, 0, bundle, photos, "--json", "--top", "3")[0])
    rows = list(csv.DictReader(io.StringIO(run(capsys, 0, bundle, photos, "--csv", "--top", "3")[0])))
    assert [(p["path"], g["name"]) for p in listed for g in p["guesses"]] == [(r["path"], r["class"]) for r in rows]
    assert [g["probability"] for p in listed for g in p["guesses"]] == [float(r["probability"]) for r in rows]
    assert [r["rank"] for r in rows] == ["1", "2", "3"] * 3


BAD = {
    "truncated.jpg": "truncated",
    "empty.png": "empty file",
    "text.jpg": "not an image",
    "dangling.png": "dangling link",
}


def test_bad_images_are_a_line_each_and_the_others_are_predicted(capsys: Captured, bundle: Path, photos: Path) -> None:
    picture(0).save(photos / "whole.jpg")
    (photos / "truncated.jpg").write_bytes((photos / "whole.jpg").read_bytes()[:200])
    (photos / "empty.png").write_bytes(b"")
    (photos / "text.jpg").write_text("hello")
    os.symlink(photos / "nowhere", photos / "dangling.png")
    names = [*BAD, "missing.png", "*.tiff"]
    out, lines = run(capsys, 1, bundle, photos / "a.png", *(photos / name for name in names), photos / "b.PNG")
    assert {line.split()[0] for line in out.splitlines()[1:] if "photos" in line} == {
        str(photos / "a.png"),
        str(photos / "b.PNG"),
    }
    said = [line for line in lines if line.startswith("nextify: ")]
    reasons = [*BAD.values(), "no such file or folder", "no image matches"]
    assert said == [f"nextify: {photos / name}: {reason}" for name, reason in zip(names, reasons, strict=True)]


def test_only_bad_images_in_each_form(capsys: Captured, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert run(capsys, 1, bundle, tmp_path / "none")[0] == ""
    assert run(capsys, 1, bundle, tmp_path / "none", "--csv")[0] == "path,rank,class,index,probability\n"
    listed = json.loads(run(capsys, 1, bundle, tmp_path / "none", "--json")[0])
    assert listed == [{"path": str(tmp_path / "none"), "error": "a folder without images"}]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_every_kind_of_image_is_predicted(bundle: Path, tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.random.default_rng(0).integers(0, 65_536, (30, 30), np.uint16))
    else:
        image = picture(3).convert(mode)
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    image.save(path)
    assert len(predict(bundle, [path])[0].guesses) == 5


def test_what_cannot_be_done_is_said(capsys: Captured, bundle: Path, photos: Path, tmp_path: Path) -> None:
    for arguments, code, message in (
        ((bundle, photos, "--json", "--csv"), 2, "give one"),
        ((bundle, photos, "--top", "0"), 2, "--top must be 1 or more"),
        ((tmp_path / "no.safetensors", photos), 1, "no weights at"),
        ((photos, photos), 2, "holds no weights"),
    ):
        out, lines = run(capsys, code, *arguments)
        assert out == ""
        assert len(lines) == 1
        assert message in lines[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_devices_are_reported_and_the_others_classified(bundle: Path, photos: Path) -> None:
    os.mkfifo(photos / "endless.png")
    (photos / "zero.png").symlink_to("/dev/zero")
    found = {Path(p.path).name: p for p in predict(bundle, [photos, "/dev/zero"])}
    assert {name for name, p in found.items() if p.error == "not a regular file"} == {"endless.png", "zero.png", "zero"}
    assert all(found[name].guesses for name in ("a.png", "b.PNG", "c ü.png"))


@pytest.mark.parametrize("field", ["size", "resize_size"])
def test_a_bundle_that_would_fill_the_memory_is_refused_in_a_line(
    field: str, tmp_path: Path, photos: Path, capsys: Captured
) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", CLASSES, 24, 0.75)
    content = json.loads((bundle / "nextify.json").read_text())
    content["preprocessing"][field] = [100_000, 100_000] if field == "size" else 10**9
    del content["about_sha256"]
    (bundle / "nextify.json").write_text(json.dumps(content))
    assert main(["predict", str(bundle), str(photos), "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "at most 4,096 pixels a side" in line


def test_large_images_are_classified_a_few_at_a_time(
    bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = predict(bundle, photos)
    seen: list[int] = []

    def counted(logits: Any, *rest: Any) -> Any:
        seen.append(len(logits))
        return probabilities(logits, *rest)

    probabilities = predictions.probabilities
    monkeypatch.setattr(predictions, "probabilities", counted)
    monkeypatch.setattr(preprocessing, "BATCH_PIXELS", 2 * 24 * 24)
    for given, whole in zip(predict(bundle, photos), expected, strict=True):
        assert_alike(given.guesses, whole.guesses)
    assert seen == [2, 1]
