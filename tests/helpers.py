"""What tests of several rooms share."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nextify.networks.zoo import create_model
from nextify.paper.design import CONVNEXT_TINY
from nextify.weights import About, Preprocessing, save_bundle

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""
Captured = pytest.CaptureFixture[str]
SMALL = CONVNEXT_TINY.with_(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32), layer_scale=0.5)
TINY = CONVNEXT_TINY.with_(depths=(1, 1), widths=(8, 16), stage_strides=(1, 2), layer_scale="off")


def noise(seed: int, height: int = 16, width: int = 16) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save_noise(path: Path, seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB", **save: object) -> None:
    """An image file of noise that is a function of the seed; ``size`` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, *reversed(size))).convert(mode).save(path, **save)


def tiny_bundle(
    path: Path,
    classes: tuple[str, ...],
    size: int,
    crop_ratio: float,
    *,
    seed: int = 0,
    sharpness: float = 1,
    **about: Any,
) -> Path:
    """A bundle of a tiny untrained network; with more ``sharpness`` it tells images apart, though by chance."""
    torch.manual_seed(seed)
    model = create_model(TINY, len(classes))
    with torch.no_grad():
        model.head.classifier.weight.mul_(sharpness)
    settings = Preprocessing.from_crop_ratio(size, crop_ratio)
    return save_bundle(
        path, model.state_dict(), About(TINY, len(classes), classes=classes, preprocessing=settings, **about)
    )
