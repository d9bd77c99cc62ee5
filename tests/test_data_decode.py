"""Every kind of image file becomes the RGB pixels a viewer would show, or is refused with the reason."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from nextify.data.decode import UnreadableImage, decode, read_header

WIDE = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


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


def test_sixteen_bits_keep_the_full_range() -> None:
    deep = np.array([[0, 128, 257, 65_535], [32_768, 10_000, 65_279, 1]], np.uint16)
    pixels, traits = both(encoded(Image.fromarray(deep)))
    np.testing.assert_array_equal(pixels[..., 0], np.rint(deep / 257))
    assert traits == "g"
    dark = decode(encoded(Image.fromarray(np.full((4, 4), 257 * 3, np.uint16))))
    assert (dark == 3).all()


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
        for reader in (read_header, decode):
            with pytest.raises(UnreadableImage, match=reason):
                reader(data)


def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UnreadableImage, match="million pixels"):
        read_header(encoded(Image.fromarray(WIDE)))
