"""Parts of JPEGs by libjpeg-turbo against the same parts of whole images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from nextify.data import jpeg
from nextify.data.decode import UnreadableImage
from nextify.data.jpeg import decode_crop
from nextify.system.native import use_image_kernels
from tests.helpers import encoded

needs_library = pytest.mark.skipif(not jpeg.available(), reason="libjpeg-turbo's header is not installed here")


def photo(width: int = 331, height: int = 217, mode: str = "RGB", **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (29, 37, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise).resize((width, height)).convert(mode), "jpeg", **options)


PHOTOS = {
    "4:2:0": photo(subsampling=2),
    "4:2:2": photo(subsampling=1),
    "4:4:4": photo(subsampling=0),
    "gray": photo(mode="L"),
    "progressive": photo(progressive=True),
    "restarts": photo(restart_marker_blocks=3),
    "small": photo(17, 9),
}


def crop(data: bytes, box: tuple[int, int, int, int], enough: int | None = None) -> np.ndarray:
    return decode_crop(data, lambda *_: box, enough)


@needs_library
@pytest.mark.parametrize("enough", [None, 4, 11, 40])
@pytest.mark.parametrize("data", PHOTOS.values(), ids=PHOTOS)
def test_the_pixels_of_the_whole(data: bytes, enough: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    width, height = Image.open(io.BytesIO(data)).size
    random = np.random.default_rng(1)
    boxes = [(0, 0, height, width), (0, 0, 1, 1), (height - 1, width - 1, 1, 1)]
    for _ in range(40):
        top, left = random.integers(height), random.integers(width)
        boxes.append((top, left, random.integers(1, height - top + 1), random.integers(1, width - left + 1)))
    parts = [crop(data, box, enough) for box in boxes]
    monkeypatch.setattr(jpeg, "available", lambda: False)
    for box, part in zip(boxes, parts, strict=True):
        np.testing.assert_array_equal(part, crop(data, box, enough))


@needs_library
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = photo(exif=exif)
    for enough in (None, 20):
        part = crop(data, (21, 43, 120, 130), enough)
        with use_image_kernels("off"):
            np.testing.assert_array_equal(part, crop(data, (21, 43, 120, 130), enough))


@needs_library
def test_damage_counts_as_far_down_as_is_read() -> None:
    data = photo(quality=95)
    cut = data[: len(data) // 2]
    part = jpeg.decode_part(cut, 1, (3, 5, 30, 40))
    np.testing.assert_array_equal(part, crop(data, (3, 5, 30, 40)))
    assert jpeg.decode_part(cut, 1, (150, 5, 60, 40)) is None
    with pytest.raises(UnreadableImage, match="truncated"):
        crop(cut, (3, 5, 30, 40))


@needs_library
def test_what_is_no_part() -> None:
    for box in ((200, 5, 60, 40), (0, 300, 10, 32), (-1, 0, 5, 5), (0, 0, 0, 5)):
        assert jpeg.decode_part(PHOTOS["4:2:0"], 1, box) is None
    for data in (b"no JPEG", b"", PHOTOS["gray"][:100]):
        assert jpeg.decode_part(data, 1, (0, 0, 1, 1)) is None
