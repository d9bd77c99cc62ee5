"""The learning-rate check: a ramp, a picture, a verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextify.cli import main
from nextify.training.rate import RateRamp
from tests.helpers import Captured

RATES = tuple(np.geomspace(1e-5, 1.0, 100).tolist())


def ramp(rate: float, low: float = 1e-3, high: float = 1e-1) -> RateRamp:
    """A loss that falls from 2 to 1 between two rates and rises after them."""
    at = np.interp(np.log(RATES), np.log([low, high, 1.0]), [2.0, 1.0, 3.0])
    return RateRamp(RATES, tuple(at.tolist()), tuple(at.tolist()), rate)


def test_the_good_range_is_where_the_loss_falls() -> None:
    good = ramp(0.01).good
    assert good is not None
    assert good[0] == pytest.approx(1e-3 * 100**0.1, rel=0.15)
    assert good[1] == pytest.approx(1e-1, rel=0.15)


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (0.01, "the rate 0.01 lies inside the good range, 0.0017 to 0.098"),
        (1e-4, "the rate 0.0001 lies below the good range, 0.0017 to 0.098: try --set learning_rate=0.013"),
        (0.9, "the rate 0.9 lies above the good range, 0.0017 to 0.098: try --set learning_rate=0.013"),
    ],
)
def test_the_verdict_names_the_remedy(rate: float, words: str) -> None:
    assert ramp(rate).verdict == words


def test_a_loss_that_never_falls_has_no_good_range() -> None:
    noise = np.random.default_rng(0).normal(2, 0.1, 100)
    found = RateRamp(RATES, tuple(noise.tolist()), (2.0,) * 100, 0.1)
    assert found.good is None
    assert found.verdict.startswith("the loss falls at no learning rate")


def test_a_loss_that_falls_to_the_end_says_or_more() -> None:
    falling = tuple(np.linspace(2, 1, 100).tolist())
    assert "the good range, 3.2e-05 to 1 or more" in RateRamp(RATES, falling, falling, 0.01).verdict


@pytest.mark.slow
def test_the_command_leaves_a_picture_and_no_half_run(tmp_path: Path, capsys: Captured) -> None:
    asked = ["--data", "digits", "--scale", "tiny", "--device", "cpu", "--threads", "1", "--out", str(tmp_path)]
    assert main(["train", "convnext_atto", *asked, "--epochs", "20", "--find-rate"]) == 0
    said = capsys.readouterr().out
    assert "the rate 0.02 lies " in said
    (picture,) = (path for path in tmp_path.iterdir() if path.name != "cache")
    assert picture.name.startswith("find-rate-")
    with Image.open(picture) as image:
        assert image.format == "PNG"
    assert main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("no runs in ")
