"""Trainings on 1, 4 and 13 channels: learned, measured, predicted with and exported as any others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextify.cli import main
from nextify.data import open_images
from nextify.deploy.runners import predict
from nextify.evaluation.evaluate import evaluate
from nextify.networks.zoo import create_model
from nextify.training.prepare import prepare
from nextify.training.request import Request, RequestError
from nextify.weights import About, load_bundle, save_bundle
from tests.helpers import TINY, Captured

FAST = ["--scale", "tiny", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spectra of 13 channels as NumPy files; only channel 11 tells their two classes apart, by its brightness."""
    root = tmp_path_factory.mktemp("fields")
    rng = np.random.default_rng(0)
    for c, name in enumerate(("dry", "wet")):
        (root / name).mkdir()
        for i in range(100):
            values = rng.integers(2_000, 3_000, (13, 16, 16)).astype(np.uint16)
            values[:10] += rng.integers(0, 2_000, (10, 1, 1), np.uint16)
            values[10] += 600 * c
            np.save(root / name / f"{i}.npy", values)
    return root


@pytest.fixture(scope="module")
def trained(fields: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    wanted = ["train", "convnext_atto", "--data", str(fields), "--epochs", "10", "--set", "batch_size=16"]
    assert main([*wanted, *FAST, "--out", str(out)]) == 0
    return next(out.glob("*/bundle"))


def test_the_class_that_only_channel_11_tells_is_learned(trained: Path, fields: Path) -> None:
    about = load_bundle(trained).about
    assert (about.in_channels, about.preprocessing.bands, about.preprocessing.channels) == (13, 13, 13)
    images = open_images(fields)
    found = evaluate(trained, images, threads=1)
    assert found.top1 >= 95
    result = json.loads((trained.parent / "result.json").read_text())
    assert found.top1 == pytest.approx(result["top1"])


def test_mean_and_std_are_the_training_images(trained: Path, fields: Path) -> None:
    train = open_images(fields).train
    pixels = np.concatenate([train.load(i).reshape(-1, 13) for i in range(len(train))])
    pixels = pixels.astype(np.float64)
    np.testing.assert_allclose(load_bundle(trained).about.preprocessing.mean, pixels.mean(0), rtol=1e-4)
    np.testing.assert_allclose(load_bundle(trained).about.preprocessing.std, pixels.std(0), rtol=1e-3)


def test_files_and_arrays_are_predicted_alike(trained: Path, fields: Path) -> None:
    file = fields / "wet" / "3.npy"
    from_file, from_array = predict(trained, [str(file), np.moveaxis(np.load(file), 0, 2)], threads=1)
    assert [guess.name for guess in from_file.guesses] == [guess.name for guess in from_array.guesses]
    assert from_file.guesses[0].probability == pytest.approx(from_array.guesses[0].probability, rel=1e-5)
    assert len(predict(trained, str(fields / "dry"), threads=1)) == 100
    picture = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    assert "3 channels, but --channels 13 asks for 13" in predict(trained, [picture], threads=1)[0].error


@pytest.mark.slow
def test_the_commands_take_the_bundles_channels(trained: Path, fields: Path, tmp_path: Path, capsys: Captured) -> None:
    machine = ["--device", "cpu", "--threads", "1"]
    assert main(["evaluate", str(trained), "--data", str(fields), "--out", str(tmp_path / "e"), *machine]) == 0
    assert main(["predict", str(trained), str(fields / "wet" / "0.npy"), *machine]) == 0
    assert main(["inspect", str(trained), "--data", str(fields), "--out", str(tmp_path / "i"), *machine]) == 0
    assert main(["export", str(trained), "--to", "torch", "--out", str(tmp_path / "x"), "--threads", "1"]) == 0
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "x"), str(fields / "wet" / "0.npy"), "--json", *machine]) == 0
    assert json.loads(capsys.readouterr().out)[0]["guesses"][0]["name"] == "wet"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "BUNDLE", "DATA/wet/0.npy"], "drawn on pictures"),
        (["robustness", "BUNDLE", "--data", "DATA", "--device", "cpu"], "corruptions need colour images"),
        (["evaluate", "BUNDLE", "--data", "DATA", "--channels", "4", "--device", "cpu"], "--channels 4 asks for 4"),
        (["export", "BUNDLE", "--to", "torch", "--with-preprocessing", "--out", "OUT"], "with_preprocessing is for"),
        (["roadmap", "--data", "DATA", "--scale", "tiny", "--out", "OUT"], "nextify roadmap needs ordinary pictures"),
    ],
)
def test_what_is_for_pictures_says_so(
    trained: Path, fields: Path, tmp_path: Path, capsys: Captured, arguments: list[str], message: str
) -> None:
    import re

    places = {"BUNDLE": str(trained), "DATA": str(fields), "OUT": str(tmp_path / "out")}
    assert main([re.sub("BUNDLE|DATA|OUT", lambda found: places[found[0]], word) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)


def test_colour_augmentation_is_off_and_cannot_be_asked_for(fields: Path) -> None:
    images = open_images(fields)
    prepared = prepare(Request("convnext_atto", scale="tiny", epochs=300, recipe="convnext_in1k"), images)
    assert (prepared.trial.recipe.rand_augment, prepared.trial.recipe.color_jitter) == ("off", "off")
    assert any("it changes colours, and the images have 13 channels" in str(c) for c in prepared.changes)
    with pytest.raises(RequestError, match="rand_augment is for colours"):
        prepare(Request("convnext_atto", scale="tiny", epochs=100, settings={"rand_augment.magnitude": 5}), images)


@pytest.mark.parametrize(("scale", "offset"), [(1, 5e6), (5e-9, 0), (1e8, 0)])
def test_values_too_large_or_small_to_normalize_are_refused_before_training(
    scale: float, offset: float, tmp_path: Path, capsys: Captured
) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(8):
            values = rng.normal(size=(16, 16, 2)).astype(np.float32)
            values[..., 1] = values[..., 1] * scale + offset
            np.save(tmp_path / "data" / name / f"{i}.npy", values)
    wanted = ["train", "convnext_atto", "--data", str(tmp_path / "data"), "--epochs", "1", *FAST]
    assert main([*wanted, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "channel 2 of the training images has a mean of" in error
    assert "scale its values by a constant" in error


@pytest.mark.parametrize("channels", [1, 4])
def test_trained_weights_of_three_channels_are_adapted(channels: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 256, (16, 16, channels)).astype(np.uint8)
            image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
            image.save(tmp_path / "data" / name / f"{i}.png")
    model = create_model(TINY, 2)
    weights = save_bundle(tmp_path / "w", model.state_dict(), About(TINY, 2, classes=("a", "b")))
    images = open_images(tmp_path / "data", channels=channels)
    prepared = prepare(Request("convnext_atto", weights=str(weights), image_size=16, epochs=1), images)
    assert prepared.start is not None
    stem = prepared.start["stem.conv.weight"]
    assert stem.shape[1] == channels == len(prepared.trial.data.mean)
    assert any("stem's 3 channels were" in note for note in prepared.notes)


def test_trials_on_colours_are_as_they_were() -> None:
    prepared = prepare(Request("convnext_atto", scale="tiny", epochs=2), open_images("digits"))
    assert prepared.normalization is None
    assert len(prepared.trial.data.mean) == 3
