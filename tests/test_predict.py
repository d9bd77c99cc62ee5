"""Predictions: the network's own probabilities, for every way of naming images, bad ones among them."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextify.cli import main
from nextify.deploy.predict import BATCH, predict
from nextify.design import CONVNEXT_TINY
from nextify.weights import About, Preprocessing, load, save_bundle
from nextify.zoo import create_model

Captured = pytest.CaptureFixture[str]
CLASSES = ("ant", "bee", "cow", "dog", "eel", "fox")
DESIGN = CONVNEXT_TINY.with_(depths=(1, 1), widths=(8, 16), stage_strides=(1, 2), layer_scale="off")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that tells images apart, though by chance."""
    torch.manual_seed(0)
    model = create_model(DESIGN, len(CLASSES))
    with torch.no_grad():
        model.head.classifier.weight.mul_(200)
    settings = Preprocessing.from_crop_ratio(24, 0.75)
    path = tmp_path_factory.mktemp("model") / "bundle"
    return save_bundle(path, model.state_dict(), About(DESIGN, len(CLASSES), classes=CLASSES, preprocessing=settings))


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


def test_a_prediction_is_the_networks_own(bundle: Path, photos: Path) -> None:
    loaded = load(bundle)
    seen = set()
    for found in predict(bundle, [photos], top=len(CLASSES)):
        with torch.no_grad():
            expected = loaded.model(loaded.preprocessing(Image.open(found.path))[None])[0].softmax(-1)
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


def test_more_images_than_a_batch_with_a_bad_one_among_them(bundle: Path, tmp_path: Path) -> None:
    for i in range(BATCH + 6):
        picture(i).save(tmp_path / f"{i:03}.png")
    (tmp_path / "010.png").write_bytes(b"")
    found = predict(bundle, [tmp_path], top=1)
    assert [Path(p.path).name for p in found] == [f"{i:03}.png" for i in range(BATCH + 6)]
    assert [p.error for p in found if p.error] == ["empty file"]
    alone = predict(bundle, [tmp_path / f"{BATCH + 1:03}.png"], top=1)[0]
    assert alone.guesses[0].name == found[BATCH + 1].guesses[0].name


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
