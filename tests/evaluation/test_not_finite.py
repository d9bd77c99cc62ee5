"""Outputs that are NaN or infinite are an error of their images, and count as no class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nextify.cli import main
from nextify.data import DataError, open_images
from nextify.deploy.runners import predict
from nextify.evaluation.evaluate import evaluate
from nextify.evaluation.multilabel import evaluate_multilabel
from nextify.evaluation.robustness import measure
from nextify.networks.zoo import create_model
from nextify.weights import About, Preprocessing, WeightsError, save_bundle
from tests.helpers import TINY, Captured, save_noise

CLASSES = ("ant", "bee")
NO_DATA = np.float32(-3.4028235e38)  # GDAL's


def saved(path: Path, thresholds: tuple[float, ...] = (), size: int = 16, bands: int | None = 3) -> Path:
    """A bundle for three channels; of colours, its weights overflow."""
    torch.manual_seed(0)
    model = create_model(TINY, 2)
    if bands is None:
        for parameter in model.head.parameters():
            parameter.data.mul_(1e30)
    settings = Preprocessing.from_crop_ratio(size, 1.0, mean=(0.0,) * 3, std=(1.0,) * 3, bands=bands)
    about = About(TINY, 2, classes=CLASSES, preprocessing=settings, thresholds=thresholds)
    return save_bundle(path, model.state_dict(), about)


@pytest.fixture(scope="module")
def bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NumPy files of three channels, the second and the fourth with a pixel without data, and a list of them."""
    root = tmp_path_factory.mktemp("bands")
    values = np.random.default_rng(0).random((5, 16, 16, 3), np.float32)
    values[1, 2, 2] = values[3, 2, 2] = NO_DATA
    for i, image in enumerate(values):
        np.save(root / f"{i}.npy", image)
    lines = [f"{i}.npy,{CLASSES[i % 2]},val" for i in range(5)]
    (root / "list.csv").write_text("\n".join(["path,label,split", *lines]))
    return root


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "bundle")


def test_predict_reports_such_images_and_answers_for_the_others(bundle: Path, bands: Path, capsys: Captured) -> None:
    found = predict(bundle, bands)
    assert [bool(one.error) for one in found] == [False, True, False, True, False]
    assert "NaN or infinite" in found[1].error
    assert "no-data value; replace them" in found[1].error
    assert not found[1].guesses
    assert np.isfinite([guess.probability for one in found for guess in one.guesses]).all()
    assert main(["predict", str(bundle), str(bands), "--json", "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    assert [one["error"] for one in json.loads(out)] == [one.error or None for one in found]
    assert err.count("its outputs are NaN or infinite") == 2
    assert main(["predict", str(bundle), str(bands), "--csv", "--device", "cpu"]) == 1
    assert "nan" not in capsys.readouterr().out


def test_evaluate_refuses_such_images(bundle: Path, bands: Path, tmp_path: Path, capsys: Captured) -> None:
    images = open_images(bands / "list.csv", channels=3, to_train=False)
    with pytest.raises(DataError, match=r"2 of 5 images are NaN or infinite, the first being 1\.npy: .*no-data"):
        evaluate(bundle, images)
    command = ["evaluate", str(bundle), "--data", str(bands / "list.csv"), "--out", str(tmp_path / "out")]
    assert main([*command, "--device", "cpu"]) == 2
    assert "the first being 1.npy" in capsys.readouterr().err
    assert not (tmp_path / "out" / "evaluation.json").exists()


def test_evaluate_refuses_such_images_of_several_labels(bands: Path, tmp_path: Path) -> None:
    images = open_images(bands / "list.csv", channels=3, to_train=False, task="multilabel")
    with pytest.raises(DataError, match="2 of 5 images are NaN or infinite"):
        evaluate_multilabel(saved(tmp_path / "bundle", (0.5, 0.5)), images)


def test_weights_that_overflow_are_refused_for_pictures(tmp_path: Path) -> None:
    for i in range(4):
        save_noise(tmp_path / "photos" / "val" / CLASSES[i % 2] / f"{i}.png", i, (32, 32))
    bundle = saved(tmp_path / "bundle", size=32, bands=None)
    images = open_images(tmp_path / "photos", to_train=False)
    assert {one.error for one in predict(bundle, tmp_path / "photos")} == {
        "its outputs are NaN or infinite: the weights overflow; give others"
    }
    with pytest.raises(DataError, match="give others"):
        evaluate(bundle, images)
    with pytest.raises(WeightsError, match="give others"):
        measure(bundle, images, corruptions=("contrast",), severities=(1,))
