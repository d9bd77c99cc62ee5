"""An image gives the same values by every route, whatever its mode, depth, orientation and size."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import nextify
from nextify.data import open_images, preprocessing
from nextify.data.batches import TestBatches as Batches
from nextify.data.decode import UnreadableImage, decode, from_memory
from nextify.data.foreign import foreign_preprocess, report_differences
from nextify.data.preprocessing import Preprocessing, normalized
from nextify.paper.recipe import Recipe
from tests.helpers import encoded

ORIENTATION = 0x0112
CPU = torch.device("cpu")
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
    "BMP": ("1", "L", "P", "RGB"),
    "PPM": ("1", "L", "RGB"),
}
FILES = [(kind, mode) for kind, modes in MODES.items() for mode in modes]


def image_of(mode: str, width: int, height: int, seed: int) -> Image.Image:
    random = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 65_536, (height, width), np.uint16))
    image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(random.integers(0, 256, (height, width), np.uint8)))
        return image
    return image.quantize(9) if mode == "P" else image.convert(mode)


def turned(image: Image.Image, kind: str, orientation: int, seed: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"TIFF": {"tiffinfo": {274: orientation}}, "GIF": {}, "BMP": {}, "PPM": {}}.get(kind, {"exif": exif})
    if image.mode == "P" and kind in ("PNG", "GIF") and seed % 2:
        options["transparency"] = 3
    return encoded(image, kind, **options)


@pytest.mark.parametrize(("kind", "mode"), FILES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    orientation=st.integers(0, 9),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    seed=st.integers(0, 999),
    size=st.sampled_from([(16, 18), (17, 17), (24, 31)]),
    fit=st.sampled_from(["crop", "squash"]),
)
def test_every_route_gives_the_same_values(
    tmp_path: Path,
    kind: str,
    mode: str,
    orientation: int,
    width: int,
    height: int,
    seed: int,
    size: tuple[int, int],
    fit: str,
) -> None:
    side, short = size
    data = turned(image_of(mode, width, height, seed), kind, orientation, seed)
    prepare = Preprocessing(size=(side, side), resize_size=short, fit=fit)
    expected = prepare(decode(data))
    assert expected.shape == (3, side, side)
    path = tmp_path / "image"
    path.write_bytes(data)
    with Image.open(path) as image:
        assert torch.equal(prepare(image), expected)
        assert torch.equal(prepare(image), expected)  # decoded by now
    predicted = normalized(prepare.pixels(decode(data))[None], CPU, prepare.mean, prepare.std)
    assert torch.equal(predicted[0], expected)


@pytest.mark.parametrize(("kind", "mode"), FILES)
@pytest.mark.parametrize("held", [True, False])
def test_the_test_batch_of_a_training_is_the_same(tmp_path: Path, kind: str, mode: str, held: bool) -> None:
    suffix = {"TIFF": "tif", "JPEG": "jpg"}.get(kind, kind.lower())
    for part in ("train", "test"):
        for c in range(2):
            folder = tmp_path / part / f"class {c}"
            folder.mkdir(parents=True)
            for i in range(2):
                seed = 4 * c + i + 100 * (part == "test")
                image = image_of(mode, 20 + seed % 7, 33, seed)
                (folder / f"{i}.{suffix}").write_bytes(turned(image, kind, 1 + seed % 8, seed))
    images = open_images(str(tmp_path), decoded_limit=2**30 if held else 0)
    recipe = Recipe(test_crop_ratio=0.9)
    prepare = Preprocessing.from_crop_ratio(16, recipe.test_crop_ratio)
    ((pixels, _),) = Batches(images.test, recipe, 16, 8)
    found = normalized(pixels, CPU, prepare.mean, prepare.std)
    for i in range(4):
        with Image.open(tmp_path / images.test.name(i)) as image:
            assert torch.equal(found[i], prepare(image))


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "HSV", "YCbCr", "RGBX", "I", "I;16B"])
def test_modes_that_only_memory_has(mode: str) -> None:
    image = Image.new(mode, (5, 3))
    assert from_memory(image).shape == (3, 5, 3)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("F", (3, 3)), "floats"),
        (Image.fromarray(np.full((3, 3), -5, np.int32)), "negative"),
        (Image.fromarray(np.full((3, 3), 70_000, np.int32)), "more than 16 bits"),
        (Image.new("RGB", (0, 3)), "no pixels"),
    ],
)
def test_pixels_of_no_agreed_range_are_refused(image: Image.Image, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        Preprocessing()(image)


def test_a_wholly_transparent_image_keeps_its_colours() -> None:
    image = image_of("RGB", 9, 7, 0)
    ghost = image.copy()
    ghost.putalpha(0)
    np.testing.assert_array_equal(from_memory(ghost), np.asarray(image))


def test_white_is_zero_in_sixteen_bits(tmp_path: Path) -> None:
    values = np.arange(35, dtype=np.uint16).reshape(5, 7) * 1800
    path = tmp_path / "x.tif"
    Image.fromarray(65_535 - values).save(path, tiffinfo={262: 0})
    with Image.open(path) as image:
        white_is_zero = image.tag_v2[262] == 0
    assert white_is_zero
    np.testing.assert_array_equal(decode(path.read_bytes()), from_memory(Image.fromarray(values)))


def test_gray_networks_see_a_gray_image_unchanged() -> None:
    gray = image_of("L", 16, 16, 3)
    prepare = Preprocessing(size=(16, 16), resize_size=16, mean=(0.5,), std=(0.5,))
    np.testing.assert_array_equal(prepare.pixels(gray)[..., 0].numpy(), np.asarray(gray))


def test_thin_images_take_the_same_place_either_way_round() -> None:
    prepare = Preprocessing(size=(224, 224), resize_size=256)
    thin = np.repeat(np.linspace(0, 255, 20_000).astype(np.uint8)[None, :, None], 3, 2)  # (1, 20000, 3)
    found = prepare.pixels(thin).float()
    assert abs(found.mean() - 127.5) < 1  # the centre of the ramp
    assert torch.equal(found, prepare.pixels(thin.transpose(1, 0, 2)).float().transpose(0, 1))
    with pytest.raises(UnreadableImage, match="20000×1 is too long and thin to resize without antialiasing"):
        Preprocessing(antialias=False)(thin)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("crop", [(16, 18), (24, 18), (17, 40)], ids=["inside", "padded", "small"])
@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (3, 1000), (50, 900), (61, 83), (200, 23)])
def test_the_crop_alone_is_what_the_whole_gives(
    shape: tuple[int, int], crop: tuple[int, int], interpolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)
    settings = Preprocessing(size=(crop[0], crop[0]), resize_size=crop[1], interpolation=interpolation)
    monkeypatch.setattr(preprocessing, "WHOLE_UP_TO", math.inf)
    whole = settings.resized(pixels)
    monkeypatch.setattr(preprocessing, "WHOLE_UP_TO", 0)
    part = settings.resized(pixels)
    difference = np.abs(whole.astype(int) - part)
    # Exact halves may be rounded to the other side.
    assert difference.max() <= (0 if interpolation == "nearest" else 1)
    assert (difference > 0).mean() < 0.05


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (3, 7001), (7, 9999)])
def test_nearest_takes_torchvisions_pixels_of_thin_images(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocessing, "WHOLE_UP_TO", 0)
    pixels = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)
    prepare = Preprocessing(size=(48, 48), resize_size=56, interpolation="nearest")
    theirs = foreign_preprocess(Image.fromarray(pixels), prepare, "torchvision")
    assert torch.allclose(prepare(pixels), theirs, atol=2e-6, rtol=0)


MEMORY = """
import resource, sys
import numpy as np
from nextify.data.preprocessing import Preprocessing
prepare = Preprocessing()
for height, width in [(300, 300), (1, 20_000), (20_000, 1), (2_000, 2_000)]:
    prepare(np.zeros((height, width, 3), np.uint8))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_thin_images_need_no_more_memory_than_square_ones() -> None:
    source = str(Path(nextify.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], env=os.environ | {"PYTHONPATH": source}, capture_output=True, text=True
    )
    start, wide, tall, square = map(int, done.stdout.split())
    assert max(wide, tall) - start <= square - start
    assert max(wide, tall) - start < 50 * 1024


@pytest.mark.parametrize("foreign", ["timm", "torchvision"])
def test_what_others_do_when_they_open_a_file_is_explained(foreign: str, tmp_path: Path) -> None:
    prepare = Preprocessing(size=(16, 16), resize_size=18)
    (tmp_path / "x.png").write_bytes(turned(image_of("RGBA", 40, 31, 0), "PNG", 6, 0))
    with Image.open(tmp_path / "x.png") as image:
        theirs = foreign_preprocess(image.convert("RGB"), prepare, foreign)  # type: ignore[arg-type]
        report = report_differences(image, prepare, foreign)  # type: ignore[arg-type]
        assert torch.equal(theirs, foreign_preprocess(image, prepare, foreign))  # type: ignore[arg-type]
    assert [cause.setting for cause in report.causes] == ["opening"]
    assert report.unexplained == 0
    assert report.total.max_abs > 0.1
