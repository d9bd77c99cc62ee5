"""Three chosen bands of files that hold more, the same in training, measuring and predicting; none is blended in."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nextify.cli import main
from nextify.data import DataError, open_images
from nextify.data.bands import with_bands
from nextify.data.decode import UnreadableImage, decode, read_header
from nextify.data.preprocessing import Preprocessing, PreprocessingError
from nextify.deploy.runners import predict
from nextify.evaluation.evaluate import evaluate
from nextify.training.train import train
from nextify.weights.bundle import chosen_bands, load_bundle
from tests.helpers import encoded, tiny_bundle

DEFLATE = 8


def tiff(
    values: np.ndarray[Any, Any],
    *,
    order: str = "<",
    compression: int = 1,
    predictor: int = 1,
    planar: bool = False,
    rows: int = 3,
    tile: int = 0,
    reverse: bool = False,
    sparse: bool = False,
    extra: tuple[tuple[int, int], ...] = (),
) -> bytes:
    """A TIFF of ``(H, W, bands)`` by its specification (TIFF 6.0), which Pillow does not write."""
    height, width, count = values.shape
    values = values.astype(values.dtype.newbyteorder(order))
    pieces = []
    for plane in np.split(values, count, 2) if planar else [values]:
        if tile:
            padded = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
            parts = [padded[y : y + tile, x : x + tile] for y in range(0, height, tile) for x in range(0, width, tile)]
        else:
            parts = [plane[y : y + rows] for y in range(0, height, rows)]
        for part in parts:
            if predictor == 2:
                part = np.concatenate([part[:, :1], np.diff(part, axis=1)], axis=1).astype(part.dtype)
            pieces.append(zlib.compress(part.tobytes()) if compression == DEFLATE else part.tobytes())
    if reverse:
        pieces = [np.packbits(np.unpackbits(np.frombuffer(p, "u1")), bitorder="little").tobytes() for p in pieces]
    starts = np.cumsum([8, *map(len, pieces)])
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags: dict[int, tuple[int, ...]] = {
        256: (width,),
        257: (height,),
        258: (8 * values.itemsize,) * count,
        259: (compression,),
        262: (2 if count >= 3 else 1,),
        266: (2 if reverse else 1,),
        277: (count,),
        284: (2 if planar else 1,),
        317: (predictor,),
        338: (0,) * (count - 3),
        339: (kind,) * count,
    }
    places, lengths = tuple(starts[:-1].tolist()), tuple(map(len, pieces))
    if sparse:  # as GDAL does with SPARSE_OK
        places, lengths = (*places[:-1], 0), (*lengths[:-1], 0)
    if tile:
        tags |= {322: (tile,), 323: (tile,), 324: places, 325: lengths}
    else:
        tags |= {273: places, 278: (rows,), 279: lengths}
    tags |= {tag: (value,) for tag, value in extra}
    tags = {tag: found for tag, found in tags.items() if found}
    at = int(starts[-1])
    after, records, beyond = at + 2 + 12 * len(tags) + 4, b"", b""
    for tag, found in sorted(tags.items()):
        raw = struct.pack(f"{order}{len(found)}I", *found)
        place = raw if len(found) == 1 else struct.pack(f"{order}I", after + len(beyond))
        records += struct.pack(f"{order}HHI", tag, 4, len(found)) + place
        beyond += raw if len(found) > 1 else b""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(tags)) + records + bytes(4) + beyond
    return magic + struct.pack(f"{order}I", at) + b"".join(pieces) + directory


def raster(count: int, kind: str = "u1", seed: int = 0, height: int = 19, width: int = 37) -> np.ndarray[Any, Any]:
    bits = np.dtype(kind).itemsize * 8
    return np.random.default_rng(seed).integers(0, 2**bits, (height, width, count), dtype=kind)


STORED: dict[str, dict[str, Any]] = {
    "plain": {},
    "big-endian": {"order": ">"},
    "deflate": {"compression": DEFLATE},
    "differences": {"compression": DEFLATE, "predictor": 2},
    "big-endian differences": {"compression": DEFLATE, "predictor": 2, "order": ">"},
    "planes": {"planar": True},
    "planes of differences": {"planar": True, "compression": DEFLATE, "predictor": 2},
    "tiles": {"tile": 16},
    "tiles of differences": {"tile": 16, "compression": DEFLATE, "predictor": 2},
    "tiled planes": {"tile": 16, "planar": True, "compression": DEFLATE},
}


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("bands", [(1, 2, 3), (4, 3, 2), (13, 1, 8), (5, 5, 5)])
def test_bands_are_those_of_the_file(stored: str, kind: str, bands: tuple[int, int, int]) -> None:
    values = raster(13, kind)
    data = with_bands(tiff(values, **STORED[stored]), bands)
    chosen = values[..., [band - 1 for band in bands]]
    expected = chosen if kind == "u1" else (chosen.astype(np.int64) * 255 + 32_767) // 65_535
    np.testing.assert_array_equal(decode(data), expected)
    assert read_header(data).peak == (0 if kind == "u1" else chosen.max())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int) -> None:
    values = raster(5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(values[..., :3]), exif=exif)
    turned = decode(data)
    np.testing.assert_array_equal(decode(with_bands(data, (1, 2, 3))), turned)
    np.testing.assert_array_equal(decode(with_bands(tiff(values, extra=((274, orientation),)), (1, 2, 3))), turned)


@pytest.mark.parametrize(
    ("mode", "count"), [("1", 1), ("L", 1), ("LA", 2), ("P", 3), ("RGB", 3), ("RGBA", 4), ("I;16", 1)]
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_other_files_have_the_bands_that_pillow_finds(mode: str, count: int, kind: str) -> None:
    values = raster(4)
    if mode == "I;16":
        image = Image.fromarray(raster(1, "u2")[..., 0])
        expected = decode(encoded(image))
    elif mode == "P":
        image = Image.fromarray(values[..., :3]).quantize(7)
        expected = np.asarray(image.convert("RGB"))
    else:
        image = Image.fromarray(values, "RGBA").convert(mode)
        expected = np.asarray(image.convert("L") if mode == "1" else image)
    expected = expected.reshape(*expected.shape[:2], -1)
    data = encoded(image, kind)
    found = decode(with_bands(data, (count, 1, count)))
    np.testing.assert_array_equal(found, expected[..., [count - 1, 0, count - 1]])
    if mode != "I;16":
        assert expected.shape[2] == count
    with pytest.raises(UnreadableImage, match=rf"bands, but --channels 1 2 {count + 3}"):
        with_bands(data, (1, 2, count + 3))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(raster(13)), r"13 bands.*--channels 1 2 3"),
        (tiff(raster(5, "u2")), r"5 bands of 16 bits.*--channels 1 2 3"),
    ],
)
def test_files_of_many_bands_are_refused_by_name_without_a_choice(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        read_header(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(raster(4, "u2").view("i2")), "some of its pixels are negative"),
        (tiff(raster(4).view("i1")), "some of its pixels are negative"),
        (tiff(raster(4).astype("f4")), "floats|32 bits"),
        (tiff(raster(7))[:200], "."),
        (tiff(raster(7), compression=DEFLATE)[:9] + bytes(40) + tiff(raster(7), compression=DEFLATE)[49:], "."),
        (b"hello", "not an image"),
        (b"", "empty file"),
    ],
)
def test_bands_without_an_agreed_range_and_damaged_files_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        with_bands(data, (1, 2, 3))


@pytest.mark.parametrize("count", [5, 7])
@pytest.mark.parametrize(
    ("kind", "changed", "problem", "remedy"),
    [
        ("u1", {259: 50_000}, "compressed with Zstandard", "uncompressed or with LZW or Deflate"),
        ("u2", {259: 34_925}, "compressed with LZMA", "uncompressed or with LZW or Deflate"),
        ("u1", {259: 7}, "compressed with JPEG", "uncompressed or with LZW or Deflate"),
        ("u1", {259: 50_001}, "compressed with WebP", "uncompressed or with LZW or Deflate"),
        ("u1", {259: 999}, "compressed with method 999", "uncompressed or with LZW or Deflate"),
        ("f2", {}, "of floats", "as whole numbers of 8 or 16 bits"),
        ("u1", {262: 0}, "with white as zero", "with black as zero"),
        ("u2", {262: 5}, "in colours other than gray or RGB", "as gray or RGB"),
        (
            "f2",
            {259: 50_000, 262: 0},
            "compressed with Zstandard, of floats, with white as zero",
            "uncompressed or with LZW or Deflate, as whole numbers of 8 or 16 bits, with black as zero",
        ),
    ],
)
def test_what_to_store_instead_is_said(
    count: int, kind: str, changed: dict[int, int], problem: str, remedy: str
) -> None:
    values = raster(count).astype("f2") if kind == "f2" else raster(count, kind)
    data = tiff(values, extra=tuple(changed.items()))
    with pytest.raises(UnreadableImage) as refused:
        with_bands(data, (5, 3, 2))
    assert str(refused.value) == f"a TIFF of {count} bands {problem}: store it {remedy}"


def test_signed_values_from_zero_on_are_read() -> None:
    values = (raster(4, "u2") >> 1).astype("i2")
    expected = (values[..., :3].astype(np.int64) * 255 + 32_767) // 65_535
    np.testing.assert_array_equal(decode(with_bands(tiff(values), (1, 2, 3))), expected)


@pytest.mark.parametrize("stored", STORED)
def test_signed_8_bit_values_from_zero_on_are_read(stored: str) -> None:
    values = (raster(4) >> 1).astype("i1")
    data = with_bands(tiff(values, **STORED[stored]), (3, 1, 4))
    np.testing.assert_array_equal(decode(data), values[..., [2, 0, 3]])
    assert read_header(data).peak == 0


@pytest.mark.parametrize("data", [tiff(raster(1).view("i1")), tiff(raster(1).view("i1"), compression=DEFLATE)])
def test_one_band_of_negative_8_bit_values_is_refused_by_every_route(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        for read in (read_header, decode, lambda _: Preprocessing()(image), lambda file: with_bands(file, (1, 1, 1))):
            with pytest.raises(UnreadableImage, match="some of its pixels are negative"):
                read(data)


@pytest.mark.parametrize("compression", ["zstd", "lzma", "packbits", "tiff_lzw"])
def test_compressions_that_only_pillow_reads(compression: str) -> None:
    buffer = io.BytesIO()
    try:
        Image.fromarray(raster(1)[..., 0]).save(buffer, "TIFF", compression=compression, tiffinfo={339: 2})
    except (KeyError, OSError) as error:
        pytest.skip(f"this Pillow does not write {compression}: {error}")
    with pytest.raises(UnreadableImage, match=r"some of its pixels are negative|compress"):
        with_bands(buffer.getvalue(), (1, 1, 1))


@pytest.mark.parametrize("bands", [None, (1, 1, 1)])
@pytest.mark.parametrize("stored", ["strips", "tiles"])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_sparse_tiffs_are_refused_by_name(count: int, stored: str, bands: tuple[int, int, int] | None) -> None:
    data = tiff(raster(count), tile=16 if stored == "tiles" else 0, sparse=True)
    with pytest.raises(UnreadableImage, match=r"sparse TIFF" if bands or count < 5 else r"sparse TIFF|does not read"):
        read_header(data) if bands is None else with_bands(data, bands)


def test_white_is_zero_in_sixteen_bits_with_chosen_bands() -> None:
    values = raster(1, "u2")
    data = tiff(values, extra=((262, 0),))
    black_is_zero = with_bands(tiff(65_535 - values), (1, 1, 1))
    assert with_bands(data, (1, 1, 1)) == black_is_zero
    np.testing.assert_array_equal(decode(data), decode(black_is_zero))


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_bytes_of_reversed_bits_are_turned(stored: str, kind: str) -> None:
    values = raster(5, kind)
    plain, reverse = (tiff(values, **STORED[stored], reverse=reverse) for reverse in (False, True))
    assert plain != reverse
    assert with_bands(reverse, (4, 2, 1)) == with_bands(plain, (4, 2, 1))


@pytest.mark.parametrize("stored", STORED)
def test_the_limit_counts_pixels_and_not_bands(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiff(raster(13), **STORED[stored])
    expected = with_bands(data, (4, 3, 2))
    pixels = 19 * 37
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels // 2 + 1)
    assert with_bands(data, (4, 3, 2)) == expected
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels // 2)
    with pytest.raises(UnreadableImage, match="more than 702 pixels"):
        with_bands(data, (4, 3, 2))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert with_bands(data, (4, 3, 2)) == expected


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "raw"])
def test_reversed_bits_are_as_pillow_has_them(compression: str) -> None:
    values = raster(3)
    if compression == "raw":
        data = tiff(values, reverse=True)
    else:
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "TIFF", compression=compression, tiffinfo={266: 2})
        data = buffer.getvalue()
        with Image.open(buffer) as image:
            assert image.tag_v2[266] == 2  # type: ignore[attr-defined]
    np.testing.assert_array_equal(decode(data), values)
    np.testing.assert_array_equal(decode(with_bands(data, (3, 2, 1))), values[..., ::-1])


def with_pixels_last(data: bytes, order: str) -> bytes:
    """The same TIFF of :func:`tiff` with its directory before the pixels, where a cut leaves it whole."""
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    moved = bytearray(data[at:])
    (count,) = struct.unpack_from(f"{order}H", moved)
    for record in range(2, 2 + 12 * count, 12):
        tag, _, values, place = struct.unpack_from(f"{order}HHII", moved, record)
        if values > 1:
            struct.pack_into(f"{order}I", moved, record + 8, place - at + 8)
        if tag in (273, 324):
            first = place - at if values > 1 else record + 8
            for i in range(first, first + 4 * values, 4):
                struct.pack_into(f"{order}I", moved, i, struct.unpack_from(f"{order}I", moved, i)[0] + len(moved))
    return data[:4] + struct.pack(f"{order}I", 8) + bytes(moved) + data[8:at]


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_truncated_files_are_refused(stored: str, kind: str) -> None:
    options = STORED[stored]
    values = raster(5, kind)
    data = with_pixels_last(tiff(values, **options), options.get("order", "<"))
    expected = with_bands(tiff(values, **options), (1, 2, 3))
    assert with_bands(data, (1, 2, 3)) == expected
    assert with_bands(data + b"more", (1, 2, 3)) == expected
    for cut in (1, 2, 40, 500):
        with pytest.raises(UnreadableImage, match=r"^truncated$"):
            with_bands(data[:-cut], (1, 2, 3))


def test_offsets_of_too_few_strips_are_refused() -> None:
    values = raster(5)
    short = tiff(values[:-3])
    taller = short.replace(struct.pack("<HHII", 257, 4, 1, 16), struct.pack("<HHII", 257, 4, 1, 19))
    assert taller != short
    with pytest.raises(UnreadableImage, match="truncated"):
        with_bands(taller, (1, 2, 3))


@pytest.fixture
def fields(tmp_path: Path) -> Path:
    """Two classes that only the fourth of five bands tells apart."""
    root = tmp_path / "fields"
    for part, images in (("train", 12), ("val", 3)):
        for c, name in enumerate(("bare", "grown")):
            (root / part / name).mkdir(parents=True)
            for i in range(images):
                values = raster(5, seed=100 * c + i + 1000 * (part == "val"), height=16, width=16) // 4
                values[..., 3] += np.uint8(190 * c)
                (root / part / name / f"{i}.tif").write_bytes(tiff(values))
    return root


def test_the_choice_is_part_of_what_identifies_the_data(fields: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    colours, infrared, again = (
        open_images(str(fields), cache=cache, channels=channels) for channels in (None, (4, 3, 2), (4, 3, 2))
    )
    assert colours.bands is None
    assert infrared.bands == (4, 3, 2)
    assert colours.fingerprint != infrared.fingerprint == again.fingerprint
    assert any("extra bands besides colour" in warning for warning in colours.warnings)
    assert infrared.warnings == ()
    encoded = open_images(str(fields), decoded_limit=0, channels=(4, 3, 2))
    for i in range(3):
        np.testing.assert_array_equal(encoded.test.load(i), infrared.test.load(i))
        np.testing.assert_array_equal(infrared.test.load(i)[..., 1:], colours.test.load(i)[..., 2:0:-1])


@pytest.mark.parametrize(("count", "channels"), [(1, None), (3, None), (4, None), (3, (3, 2, 1)), (13, (4, 3, 2))])
def test_twelve_bits_in_sixteen_are_said(count: int, channels: Any, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(6):
            values = raster(count, "u2", seed=i + 9 * (name == "b"))
            (tmp_path / "data" / name / f"{i}.tif").write_bytes(tiff(values >> 4))
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        images = open_images(str(tmp_path / "data"), channels=channels, cache=cache)
        assert any("12-bit values stored in 16 bits" in warning for warning in images.warnings), images.warnings


def test_a_bundle_keeps_its_bands_through_evaluate_and_predict(
    fields: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--epochs", "1", "--scale", "tiny", "--set", "batch_size=8", "--threads", "1", "--device", "cpu"]
    train_command = ["train", "convnext_atto", "--data", str(fields), "--out", str(tmp_path / "out"), *options]
    assert main([*train_command, "--channels", "4", "3", "2"]) == 0
    (bundle,) = (path.parent for path in tmp_path.glob("out/**/nextify.json"))
    assert chosen_bands(bundle) == load_bundle(bundle).about.preprocessing.bands == (4, 3, 2)
    settings = load_bundle(bundle).about.preprocessing
    (image, *_) = sorted(fields.glob("val/*/*.tif"))
    values = decode(with_bands(image.read_bytes(), (4, 3, 2)))
    expected = predict(bundle, values)[0].guesses
    assert predict(bundle, image)[0].guesses == expected
    assert torch.equal(settings(values), settings(decode(with_bands(image.read_bytes(), (4, 3, 2)))))
    capsys.readouterr()
    found = evaluate(bundle, open_images(str(fields), channels=(4, 3, 2)))
    for channels in ([], ["--channels", "4", "3", "2"]):
        assert main(["evaluate", str(bundle), "--data", str(fields), "--json", "--device", "cpu", *channels]) == 0
        assert json.loads(capsys.readouterr().out)["top1"] == found.top1
    tuning = [option for option in options if option not in ("--scale", "tiny")]
    again = [*train_command[:4], "--out", str(tmp_path / "again"), *tuning, "--weights", str(bundle)]
    assert main(again) == 0
    (tuned,) = (path.parent for path in tmp_path.glob("again/**/nextify.json"))
    assert chosen_bands(tuned) == (4, 3, 2)
    capsys.readouterr()
    for command in (["evaluate", str(bundle), "--data", str(fields)], ["predict", str(bundle), str(image)]):
        assert main([*command, "--device", "cpu", "--channels", "1", "2", "3"]) == 2
        assert "give --channels 4 3 2" in capsys.readouterr().err
    with pytest.raises(DataError, match="no bands were chosen: give --channels 4 3 2"):
        evaluate(bundle, open_images(str(fields)))


def test_bundles_without_bands_say_nothing_of_them(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", ("a", "b"), 16, 1.0)
    assert "bands" not in json.loads((bundle / "nextify.json").read_text())["preprocessing"]
    assert chosen_bands(bundle) is None
    assert chosen_bands("timm:convnext_atto") is None


def test_bands_of_images_in_memory() -> None:
    values = raster(6)
    settings = Preprocessing(size=(8, 8), resize_size=8, bands=(6, 1, 2))
    plain = Preprocessing(size=(8, 8), resize_size=8)
    expected = plain(values[..., [5, 0, 1]].copy())
    assert torch.equal(settings(values), expected)
    assert torch.equal(settings(values[..., [5, 0, 1]].copy()), expected)
    rgba = Image.fromarray(values[..., :4], "RGBA")
    settings = Preprocessing(size=(8, 8), resize_size=8, bands=(4, 3, 2))
    assert torch.equal(settings(rgba), plain(values[..., [3, 2, 1]].copy()))
    with pytest.raises(UnreadableImage, match="3 bands, but --channels 4 3 2 asks for band 4"):
        settings(rgba.convert("RGB"))


@pytest.mark.parametrize(
    "wrong", [(1, 2), (0, 1, 2), (1, 2, 3, 4), (1, 2, True), (1.0, 2, 3), 0, 257, (0,), 1.5, "123", "1"]
)
def test_a_choice_that_is_none(wrong: Any, fields: Path) -> None:
    with pytest.raises(ValueError, match="channels must be"):
        open_images(str(fields), channels=wrong)
    with pytest.raises(PreprocessingError):
        Preprocessing(bands=wrong)


def test_arrays_have_no_bands_to_choose() -> None:
    with pytest.raises(DataError, match="leave --channels out"):
        open_images("digits", channels=(1, 2, 3))


def test_training_in_python(fields: Path, tmp_path: Path) -> None:
    images = open_images(fields, channels=(4, 4, 4))
    done = train("convnext_atto", images, scale="tiny", epochs=1, settings={"batch_size": 8}, out=tmp_path / "out")
    assert load_bundle(done.bundle).about.preprocessing.bands == (4, 4, 4)
