"""Every kind of image file becomes the RGB pixels a viewer would show, or is refused with the reason."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from nextify.data.bands import with_bands
from nextify.data.decode import UnreadableImage, decode, read_header
from nextify.data.encoded import LARGEST_FILE, Files, read_file
from nextify.data.jpeg import decode_crop
from tests.helpers import encoded

WIDE = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)


def png(size: tuple[int, int], depth: int, kind: int, rows: list[bytes], transparent: bytes = b"") -> bytes:
    """A file that Pillow would not write: of any depth and kind of colours, and with a transparent value."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0), b"tRNS": transparent}
    chunks |= {b"IDAT": zlib.compress(b"".join(b"\0" + row for row in rows)), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks.items()
        if content or name == b"IEND"
    )


def both(data: bytes) -> tuple[np.ndarray, str]:
    header, pixels = read_header(data), decode(data)
    assert pixels.shape == (header.height, header.width, 3)
    assert pixels.dtype == np.uint8
    return pixels, header.traits


def test_rgb_and_gray() -> None:
    pixels, traits = both(encoded(Image.fromarray(WIDE)))
    np.testing.assert_array_equal(pixels, WIDE)
    assert traits == ""
    gray = Image.fromarray(WIDE).convert("L")
    pixels, traits = both(encoded(gray))
    np.testing.assert_array_equal(pixels, np.repeat(np.asarray(gray)[..., None], 3, 2))
    assert traits == "g"
    pixels, traits = both(encoded(gray.convert("1")))
    assert set(np.unique(pixels)) == {0, 255}
    assert traits == "g"


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_exif_orientation(orientation: int, turn: object) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, traits = both(encoded(Image.fromarray(WIDE), exif=exif))
    np.testing.assert_array_equal(pixels, turn(WIDE))  # type: ignore[operator]
    assert traits == "r"


def picture(height: int, width: int) -> Image.Image:
    """Smooth, as photographs are, and different everywhere."""
    down, across = np.mgrid[0:height, 0:width]
    waves = [127 + 100 * np.sin(down / a + across / b) for a, b in ((23, 31), (41, 19), (29, -37))]
    return Image.fromarray(np.stack(waves, 2).astype(np.uint8))


JPEGS = {
    "colour thinned": encoded(picture(61, 83), "JPEG", quality=90),
    "colour in full": encoded(picture(61, 83), "JPEG", quality=90, subsampling=0),
    "progressive": encoded(picture(61, 83), "JPEG", progressive=True),
    "gray": encoded(picture(61, 83).convert("L"), "JPEG"),
    "CMYK": encoded(picture(61, 83).convert("CMYK"), "JPEG"),
    "no JPEG": encoded(picture(61, 83)),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_crop_is_a_slice_of_the_whole(kind: str) -> None:
    whole = decode(JPEGS[kind])
    np.testing.assert_array_equal(whole, np.asarray(Image.open(io.BytesIO(JPEGS[kind])).convert("RGB")))
    asked = []
    part = decode_crop(JPEGS[kind], lambda *size: asked.append(size) or (7, 11, 30, 50))
    assert asked == [(61, 83)]
    np.testing.assert_array_equal(part, whole[7:37, 11:61])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_of_a_jpeg(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(61, 83), "JPEG", exif=exif, quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode(data), expected)
    np.testing.assert_array_equal(decode_crop(data, lambda *_: (3, 5, 40, 41)), expected[3:43, 5:46])
    half = decode_crop(data, lambda *_: (4, 6, 40, 42), enough=20)
    assert half.shape == (20, 21, 3)
    coarse = expected[4:44, 6:48].reshape(20, 2, 21, 2, 3).mean((1, 3))
    assert np.abs(half - coarse).mean() < 6  # turned otherwise it would be 60


@pytest.mark.parametrize("enough", [None, 12])
@pytest.mark.parametrize("kind", JPEGS)
def test_same_pixels_without_simplejpeg(kind: str, enough: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    box = (1, 2, 55, 60)
    quick = decode_crop(JPEGS[kind], lambda *_: box, enough)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    np.testing.assert_array_equal(quick, decode_crop(JPEGS[kind], lambda *_: box, enough))


def test_what_pillow_puts_up_with_is_decoded() -> None:
    data = JPEGS["colour in full"]
    at = data.index(b"\xff\xda")
    odd = data[:at] + b"\x00" + data[at:]  # a stray byte before a marker
    np.testing.assert_array_equal(decode_crop(odd, lambda *_: (0, 0, 61, 83)), decode(data))


def test_decoded_no_larger_than_needed() -> None:
    data = encoded(picture(800, 1200), "JPEG", subsampling=0, quality=95)
    whole = decode(data).astype(float)
    for enough, shrink in ((100, 4), (101, 2), (200, 2), (201, 1), (50, 8), (10, 8), (None, 1)):
        part = decode_crop(data, lambda *_: (160, 320, 400, 560), enough)
        assert part.shape == (400 // shrink, 560 // shrink, 3)
        window = whole[160:560, 320:880]
        means = window.reshape(400 // shrink, shrink, 560 // shrink, shrink, 3).mean((1, 3))
        assert np.abs(part - means).mean() < 1.5
    odd = decode_crop(data, lambda *_: (3, 5, 403, 397), 99)
    assert odd.shape == (101, 99, 3)  # edges 0.75, 101.5, 1.25 and 100.5, each to the nearest pixel


def test_sixteen_bits_keep_the_full_range() -> None:
    deep = np.array([[0, 128, 257, 65_535], [32_768, 10_000, 65_279, 1]], np.uint16)
    pixels, traits = both(encoded(Image.fromarray(deep)))
    np.testing.assert_array_equal(pixels[..., 0], np.rint(deep / 257))
    assert traits == "g"
    dark = decode(encoded(Image.fromarray(np.full((4, 4), 257 * 3, np.uint16))))
    assert (dark == 3).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_the_largest_value_of_sixteen_bit_colours_is_measured(channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 4096, (5, 7, channels), np.uint16)
    deep[..., 3:] = 65_535
    data = png((7, 5), 16, 2 if channels == 3 else 6, [row.astype(">u2").tobytes() for row in deep])
    assert 0 <= read_header(data).peak - int(deep[..., :3].max()) < 256
    np.testing.assert_array_equal(decode(data), deep[..., :3] >> 8)


def test_transparency_lies_on_white() -> None:
    clear = np.dstack([WIDE, np.full(WIDE.shape[:2], 255, np.uint8)])
    clear[:3, :, 3] = 0
    pixels, traits = both(encoded(Image.fromarray(clear)))
    assert (pixels[:3] == 255).all()
    np.testing.assert_array_equal(pixels[3:], WIDE[3:])
    assert traits == "t"
    palette = Image.fromarray(WIDE).quantize(4)
    see_through = encoded(palette, transparency=0)
    pixels, traits = both(see_through)
    assert traits == "t"
    assert (pixels[np.asarray(palette) == 0] == 255).all()


def test_a_transparent_value_of_16_bits_lies_on_white() -> None:
    """As GDAL marks places without data in a PNG."""
    deep = np.array([[0, 257, 9000], [0, 300, 65_000]], np.uint16)
    data = encoded(Image.fromarray(deep), transparency=0)
    pixels, traits = both(data)
    np.testing.assert_array_equal(pixels[..., 0], [[255, 1, 35], [255, 1, 253]])
    assert (traits, read_header(data).peak) == ("gt", 65_000)
    found = decode(with_bands(data, 1))
    np.testing.assert_array_equal(found[..., 0], np.where(deep, deep, 65_535) * np.float32(1 / 65_535))
    np.testing.assert_array_equal(decode(with_bands(data, (1, 1, 1))), pixels)
    hidden, traits = both(encoded(Image.fromarray(np.full_like(deep, 257)), transparency=257))
    assert ((hidden == 1).all(), traits) == (True, "gn")


@pytest.mark.parametrize(
    ("depth", "kind", "raw", "value", "expected"),
    [
        (1, 0, [0b01000000], (0,), [255, 255]),  # the transparent black, and white
        (2, 0, [0b01100000], (1,), [255, 170]),
        (4, 0, [0x5F], (5,), [255, 255]),
        (4, 0, [0x58], (8,), [85, 255]),
        (8, 0, [5, 6], (5,), [255, 6]),
        (16, 2, [9, 0, 9, 1, 9, 2, 0, 9, 1, 9, 2, 9], (0x900, 0x901, 0x902), [255, 0]),
    ],
)
def test_the_transparent_value_of_a_png_is_one_of_its_own_depth(
    depth: int, kind: int, raw: list[int], value: tuple[int, ...], expected: list[int]
) -> None:
    pixels, traits = both(png((2, 1), depth, kind, [bytes(raw)], struct.pack(f">{len(value)}H", *value)))
    assert pixels[0, :, 0].tolist() == expected
    assert traits == ("gt" if kind == 0 else "t")


def test_palette_cmyk_animation() -> None:
    palette = Image.fromarray(WIDE).quantize(16)
    pixels, traits = both(encoded(palette))
    np.testing.assert_array_equal(pixels, np.asarray(palette.convert("RGB")))
    assert traits == ""
    red = Image.new("RGB", (16, 16), (200, 30, 30))
    pixels, _ = both(encoded(red.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - (200, 30, 30)).max() < 12
    frames = [Image.new("RGB", (5, 4), color) for color in ((255, 0, 0), (0, 255, 0))]
    pixels, traits = both(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (pixels == (255, 0, 0)).all()
    assert traits == "a"


@pytest.mark.parametrize("start", [b"II*\0", b"MM\0*"])
@pytest.mark.parametrize("length", range(4, 30, 2))
def test_a_tiff_that_is_cut_or_has_tags_of_another_type_is_refused(start: bytes, length: int) -> None:
    order = "<" if start.startswith(b"II") else ">"
    tags = struct.pack(f"{order}H", 2)
    for tag in (277, 258):  # bands and bits, as a text
        tags += struct.pack(f"{order}HHI", tag, 2, 4) + b"abc\0"
    data = (start + struct.pack(f"{order}I", 8) + tags + bytes(20))[:length]
    for reader in (read_header, decode, lambda data: decode(with_bands(data, (1, 2, 3)))):
        with pytest.raises(UnreadableImage) as error:
            reader(data)
        assert "\n" not in str(error.value)


def test_refused() -> None:
    whole = encoded(Image.fromarray(np.tile(WIDE, (9, 9, 1))), "JPEG")
    png = encoded(Image.fromarray(np.tile(WIDE, (9, 9, 1))))
    for data, reason in (
        (b"", "empty file"),
        (b"hello", "not an image"),
        (whole[: len(whole) // 2], "truncated"),
        (png[: len(png) // 2], "truncated"),
        (encoded(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"), "floats"),
    ):
        for reader in (read_header, decode, lambda data: decode_crop(data, lambda *_: (0, 0, 1, 1))):
            with pytest.raises(UnreadableImage, match=reason):
                reader(data)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"8BPS\0\1", "PSD"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "EPS"),
        (b"\0\0\1\0\1\0", "ICO"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"icns\0\0\1\0", "ICNS"),
        (b"DDS \x7c\0\0\0", "DDS"),
    ],
)
def test_a_file_of_another_format_is_named(start: bytes, name: str) -> None:
    for data in (start, start + bytes(200)):
        with pytest.raises(UnreadableImage, match=f"^{name}, a format that is not supported: store it as PNG or JPEG$"):
            decode(data)


def test_a_kept_format_is_read_whatever_the_files_name(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(encoded(Image.fromarray(WIDE)))
    np.testing.assert_array_equal(decode(read_file(tmp_path / "x.jpg")), WIDE)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case _:
            path.mkdir()
    for read in (lambda: read_file(path), lambda: Files(tmp_path, ["x.png"]).read(0)):
        with pytest.raises(UnreadableImage, match="not a regular file"):
            read()


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "x.png", "wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(UnreadableImage, match="more than 1,024 MiB"):
        read_file(tmp_path / "x.png")


def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UnreadableImage, match="more than 40 pixels"):
        read_header(encoded(Image.fromarray(WIDE)))
