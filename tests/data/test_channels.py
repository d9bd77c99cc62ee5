"""Images of N channels: NumPy files, TIFFs of many bands or pages, and one way from any of them to a tensor."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from nextify.data import DataError, TrainBatches, finish, open_images
from nextify.data.arrays import read_array
from nextify.data.bands import MOST_CHANNELS, checked, numbers, of_memory, visible, with_bands
from nextify.data.decode import Numbers, UnreadableImage, decode
from nextify.data.images import measured
from nextify.data.preprocessing import Preprocessing, PreprocessingError
from nextify.data.transforms import TrainTransform, shifted, shifted_batch
from nextify.paper.recipe import RECIPES, RandomResized, Shift
from tests.helpers import encoded

Values = np.ndarray[Any, Any]


def saved(values: Values, **more: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values, **more)
    return file.getvalue()


def spectra(seed: int = 0, shape: tuple[int, int, int] = (6, 5, 13), kind: str = "uint16") -> Values:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype("float32") if kind == "float32" else rng.integers(0, 250, shape).astype(kind)


def tiff_of_pages(pages: list[Values]) -> bytes:
    images, file = [Image.fromarray(page) for page in pages], io.BytesIO()
    images[0].save(file, "tiff", save_all=True, append_images=images[1:])
    return file.getvalue()


def tiff_of_bands(values: Values) -> bytes:
    """One page of interleaved bands, uncompressed; Pillow writes none of more than four."""
    height, width, count = values.shape
    bits, kind = 8 * values.itemsize, 3 if values.dtype.kind == "f" else 1
    tags = TiffImagePlugin.ImageFileDirectory_v2(ifh=b"II*\0\0\0\0\0")
    tags.update({256: width, 257: height, 259: 1, 262: 1, 277: count, 278: height, 279: values.nbytes, 284: 1})
    tags[258], tags[339] = (bits,) * count, (kind,) * count
    tags.tagtype[258] = tags.tagtype[339] = 3
    tags[273] = 0  # behind the directory, where Pillow moves it
    return b"II*\0\x08\0\0\0" + tags.tobytes(8) + values.tobytes()


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", ">u2", ">f4"])
def test_a_numpy_file_becomes_numbers(kind: str) -> None:
    values = spectra(kind="float32" if "f" in kind else "uint8").astype(kind)
    found = decode(with_bands(saved(values), 13))
    expected = values.astype("float32") / {"uint8": 255, "uint16": 65_535, ">u2": 65_535}.get(kind, 1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "wanted", "found"),
    [
        ((6, 5, 13), 13, (6, 5, 13)),
        ((13, 6, 5), 13, (6, 5, 13)),
        ((13, 6, 5), None, (13, 6, 5)),  # the shorter of the first and the last axis holds the channels
        ((4, 32, 32), None, (32, 32, 4)),
        ((32, 32, 4), None, (32, 32, 4)),
        ((4, 9, 4), 4, (4, 9, 4)),
        ((6, 5), 1, (6, 5, 1)),
        ((1, 6, 5), 1, (6, 5, 1)),
    ],
)
def test_which_axis_holds_the_channels(shape: tuple[int, ...], wanted: int | None, found: tuple[int, ...]) -> None:
    assert read_array(saved(np.zeros(shape, np.uint8)), wanted).shape == found


def claimed(shape: str) -> bytes:
    """A file whose header says more than it holds."""
    return saved(np.zeros((2, 2, 2), np.uint8)).replace(b"(2, 2, 2)", shape.encode().ljust(9))


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, saved(spectra()))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (saved(np.array([{}]), allow_pickle=True), "of Python objects"),
        (claimed("(9,9,999)"), "truncated"),
        (saved(spectra())[:-1], "truncated"),
        (saved(spectra())[:20], "damaged NumPy file"),
        (b"\x93NUMPY\x09\x00", "version 9.0"),
        (saved(spectra().astype("int32")), "of int32: store uint8"),
        (saved(spectra().astype("float64")), "of float64: store uint8"),
        (saved(np.zeros((2, 2, 2, 2), np.uint8)), "of shape"),
        (saved(np.zeros((0, 2, 13), np.uint8)), "of shape"),
        (saved(np.full((2, 2, 13), np.nan, np.float32)), "NaN or infinite"),
        (zipped("a.npy", "b.npy"), "archive of 2 arrays"),
        (zipped("a.npy")[:-30], "damaged NumPy file"),
        (saved(np.zeros((5, 6, 12), np.uint8)), r"of shape \(5, 6, 12\), but --channels 13 asks for 13"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",  # a ZIP file holds the time
)
def test_numpy_files_that_hold_no_image_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        with_bands(data, 13)


def test_an_archive_of_one_array_is_read() -> None:
    assert with_bands(zipped("a.npy"), 13) == with_bands(saved(spectra()), 13)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_bands_and_pages_of_a_tiff_are_channels(kind: str) -> None:
    values = spectra(kind=kind)
    expected = numbers(values, 13)
    np.testing.assert_array_equal(decode(with_bands(tiff_of_bands(values), 13)), expected)
    pages = [np.ascontiguousarray(values[..., i]) for i in range(13)]
    np.testing.assert_array_equal(decode(with_bands(tiff_of_pages(pages), 13)), expected)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff_of_pages([np.zeros((4, 4), np.uint8)] * 3), "3 channels, but --channels 2 asks for 2"),
        (tiff_of_pages([np.zeros((4, 4), np.uint8)]), "1 channel, but --channels 2"),
        (tiff_of_pages([np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8)]), "different sizes"),
        (tiff_of_pages([np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.float32)]), "different types"),
        (tiff_of_bands(spectra(shape=(4, 4, 2)))[:30], "."),
        (b"", "empty file"),
    ],
)
def test_tiffs_with_other_channels_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        with_bands(data, 2)


def test_a_colour_picture_is_gray_as_one_channel() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    expected = np.asarray(image.convert("L"))[..., None] / np.float32(255)
    np.testing.assert_allclose(decode(with_bands(encoded(image), 1)), expected, rtol=1e-6)
    np.testing.assert_allclose(of_memory(image, 1), expected, rtol=1e-6)


def see_through(mode: str) -> Image.Image:
    """Noise with an alpha of noise; of a palette or gray its opaque colours, such as 38 and 130."""
    rgba = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 6, 4), np.uint8))
    return rgba.convert("RGB").convert(mode) if mode in ("L", "P") else rgba.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind", "save"),
    [
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("L", "PNG", {"transparency": 130}),
        ("P", "PNG", {"transparency": bytes(range(0, 256, 2))}),
        ("P", "GIF", {"transparency": 38}),
        ("RGBA", "WEBP", {"lossless": True}),
    ],
)
def test_a_transparent_picture_of_one_channel_is_laid_on_white(mode: str, kind: str, save: dict[str, Any]) -> None:
    orientation = Image.Exif()
    orientation[0x0112] = 6
    data = encoded(see_through(mode), kind, exif=orientation, **save)
    expected = np.asarray(Image.fromarray(decode(data)).convert("L"))[..., None]
    np.testing.assert_array_equal(decode(with_bands(data, 1)), numbers(expected, 1))
    np.testing.assert_array_equal(of_memory(Image.open(io.BytesIO(data)), 1), numbers(expected, 1))


def test_what_transparent_pixels_hide_does_not_count() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0] = (255, 255, 255, 255)
    assert decode(with_bands(encoded(Image.fromarray(pixels)), 1)).min() == 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_a_band_like_any_other_of_several(mode: str) -> None:
    image = see_through(mode)
    count = len(mode)
    for kind in ("PNG", "TIFF"):
        found = decode(with_bands(encoded(image, kind), count))
        np.testing.assert_array_equal(found, numbers(np.asarray(image), count))
        np.testing.assert_array_equal(of_memory(image, count), found)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_further_bands_of_a_tiff_are_not_taken_for_transparency(mode: str) -> None:
    data = encoded(see_through(mode), "TIFF")
    for read in (lambda: with_bands(data, 1), lambda: of_memory(Image.open(io.BytesIO(data)), 1)):
        with pytest.raises(UnreadableImage, match=f"{len(mode)} channels, but --channels 1 asks for 1"):
            read()


def test_sixteen_bits_stay_sixteen_bits() -> None:
    data = encoded(Image.fromarray(np.array([[1, 65_535]], np.uint16)))
    assert decode(with_bands(data, 1))[0, :, 0].tolist() == pytest.approx([1 / 65_535, 1.0])


def test_no_file_passes_for_numbers() -> None:
    with pytest.raises(UnreadableImage):
        decode(bytes(Numbers.of(np.zeros((2, 2, 3), np.float32))))


@pytest.mark.parametrize("channels", [0, MOST_CHANNELS + 1, True, (1, 2), (0,), (1, 2, 3, 4)])
def test_channels_that_mean_nothing_are_refused(channels: Any) -> None:
    with pytest.raises(ValueError, match="channels must be"):
        checked(channels)


@pytest.mark.parametrize("settings", [{}, {"fit": "squash"}, {"interpolation": "nearest"}, {"resize_size": 11}])
def test_each_channel_is_resized_as_pillow_does(settings: dict[str, Any]) -> None:
    values = spectra(kind="float32", shape=(17, 23, 4))
    prepare = Preprocessing((9, 9), **{"resize_size": 9, **settings}, mean=(0.0,) * 4, std=(1.0,) * 4, bands=4)
    found = prepare(values)
    for i in range(4):
        alone = Preprocessing((9, 9), **{"resize_size": 9, **settings}, mean=(0.0,), std=(1.0,), bands=1)
        assert torch.equal(found[i : i + 1], alone(values[..., i]))
    assert found.shape == (4, 9, 9)


def test_preprocessing_needs_a_mean_for_each_channel() -> None:
    with pytest.raises(PreprocessingError, match="need 13 numbers each"):
        Preprocessing(bands=13)
    with pytest.raises(PreprocessingError, match="antialias"):
        Preprocessing(mean=(0.0,) * 13, std=(1.0,) * 13, bands=13, antialias=False)


@pytest.mark.parametrize("crop", [Shift(0.2), RandomResized((0.5, 1.0), "pillow"), RandomResized((0.5, 1.0), "fast")])
def test_geometric_augmentation_treats_all_channels_alike(crop: Any) -> None:
    recipe = RECIPES["scratch_small"].with_(crop=crop, rand_augment="off", color_jitter="off", horizontal_flip=0.5)
    gray = spectra(kind="float32", shape=(16, 16, 1))
    out = TrainTransform(recipe, 16)(np.repeat(gray, 13, axis=2))
    assert out.shape == (16, 16, 13)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, np.repeat(out[..., :1], 13, axis=2), rtol=1e-5, atol=1e-5)


def test_batches_are_shifted_as_single_images_are() -> None:
    squares = spectra(kind="float32", shape=(3, 8 * 8, 13)).reshape(3, 8, 8, 13)
    tops, lefts = np.array([0, 2, 4]), np.array([4, 1, 2])
    found = shifted_batch(squares, tops, lefts, 2)
    for i in range(3):
        np.testing.assert_array_equal(found[i], shifted(squares[i], tops[i], lefts[i], 2))


def test_normalizing_leaves_the_data_alone() -> None:
    pixels = torch.ones(2, 4, 4, 13)
    x, _ = finish(
        *(pixels, torch.zeros(2, dtype=torch.int64), RECIPES["scratch_small"], 2, 0, 0, "cpu"),
        mean=(1.0,) * 13,
        std=(2.0,) * 13,
        train=False,
    )
    assert float(x.abs().max()) == 0
    assert float(pixels.min()) == 1


def write_set(root: Path, write: Callable[[Path, Values], None], suffix: str, count: int = 10) -> Path:
    for c, name in enumerate("ab"):
        (root / name).mkdir(parents=True)
        for i in range(count):
            write(root / name / f"{i}{suffix}", spectra(seed=100 * c + i, shape=(16, 16, 13)))
    return root


def test_a_folder_of_numpy_files_is_read_off_and_measured(tmp_path: Path) -> None:
    images = open_images(write_set(tmp_path / "data", lambda path, x: np.save(path, x), ".npy"), cache=tmp_path / "c")
    assert images.bands == 13
    assert any("NumPy files of 13 channels" in note for note in images.notes)
    assert images.train.load(0).shape == (16, 16, 13)
    again = open_images(tmp_path / "data", channels=13, cache=tmp_path / "c")
    assert again.fingerprint == images.fingerprint
    mean, std = measured(images.train)
    pixels = np.concatenate([images.train.load(i).reshape(-1, 13) for i in range(len(images.train))])
    np.testing.assert_allclose(mean, pixels.mean(0, np.float64), rtol=1e-5)
    np.testing.assert_allclose(std, pixels.std(0, np.float64), rtol=1e-4)


def test_class_folders_of_numpy_files_may_be_links(tmp_path: Path) -> None:
    write_set(tmp_path / "elsewhere", lambda path, x: np.save(path, x), ".npy")
    (tmp_path / "data").mkdir()
    for name in "ab":
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert open_images(tmp_path / "data").fingerprint == open_images(tmp_path / "elsewhere").fingerprint


def test_decoded_or_not_the_batches_are_the_same(tmp_path: Path) -> None:
    root = write_set(tmp_path / "data", lambda path, x: path.write_bytes(tiff_of_bands(x)), ".tif", 20)
    recipe = RECIPES["scratch_small"].with_(
        crop=RandomResized((0.5, 1.0), "pillow"), rand_augment="off", color_jitter="off", batch_size=16
    )
    held, encoded = (open_images(root, channels=13, decoded_limit=limit) for limit in (2**30, 0))
    one, other = (TrainBatches(images.train, recipe, 8, 0).batch(0)[0] for images in (held, encoded))
    assert one.shape == (16, 8, 8, 13)
    assert torch.equal(one, other)


def test_numpy_files_beside_pictures_are_no_images(shapes: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    np.save(root / "red" / "embedding.npy", np.zeros(8, np.float32))
    images = open_images(root)
    assert images.bands is None
    assert images.left_out[".npy files, which are not supported: convert them to .png or .jpg"] == ["red/embedding.npy"]


def test_numpy_files_beside_a_table_that_lists_some_are_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(6):
        np.save(tmp_path / f"{i}.npy", spectra(i))
    rows = [f"{i}.npy,{'ab'[i % 2]},val" for i in range(4)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    monkeypatch.chdir(tmp_path)
    for source in ("list.csv", str(tmp_path / "list.csv")):
        images = open_images(source, to_train=False)
        assert images.left_out == {"images that list.csv does not list": ["4.npy", "5.npy"]}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    root = write_set(tmp_path / "data", lambda path, x: np.save(path, x), ".npy")
    (root / "b" / "3.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"b/3\.npy \(a damaged NumPy file"):
        open_images(root)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    root = write_set(tmp_path / "data", lambda path, x: np.save(path, x), ".npy")
    os.mkfifo(root / "b" / "pipe.npy")
    with pytest.raises(DataError, match="not a regular file"):
        open_images(root)


def test_what_is_shown_of_channels_is_a_picture() -> None:
    assert visible(spectra(kind="float32")).shape == (6, 5, 3)
    assert visible(spectra(kind="float32", shape=(4, 4, 1))).dtype == np.uint8
    assert visible(np.zeros((4, 4, 2), np.float32)).max() == 0
