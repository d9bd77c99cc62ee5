"""One image file to RGB pixels, and what its header says; whatever the file holds, the same rules.

Grayscale is replicated. Transparency (palette or alpha) is laid on white, as a page would show it. 16-bit values are
scaled by 255 / 65,535 over the full range, never stretched to an image's own. CMYK and other colour spaces are
converted by Pillow, without ICC profiles. Of an animation, the first frame. The EXIF orientation is applied. Refused:
truncated and empty files, files that are no image, float pixels (their range is not agreed), and Pillow's decompression
bombs.

A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size at less cost, by a shorter inverse cosine transform;
``decode_crop`` does that only when it is told which resolution is enough.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from nextify.data import jpeg

Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Top, left, height, width, in pixels."""

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif"}
    | {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)
"""Of image files, in lower case."""
_ORIENTATION = 0x0112  # EXIF tag
_JPEG_END = b"\xff\xd9"
_GRAY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")


class UnreadableImage(ValueError):
    """The message is the reason, in a few words."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself."""

    height: int
    """Pixels, after the EXIF orientation."""
    width: int
    traits: str
    """Letters: g grayscale, t transparent, r rotated or mirrored by EXIF, a animated."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings of odd metadata, which say nothing of the pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_header(data: bytes) -> Header:
    """Size and traits of an encoded image. Decodes it only where its end looks cut off. Raises ``UnreadableImage``."""
    with _reading(data) as image:
        width, height = image.size
        orientation = image.getexif().get(_ORIENTATION, 1)
        if orientation in _TURNED:
            width, height = height, width
        traits = (
            "g" * (image.mode in _GRAY)
            + "t" * _has_transparency(image)
            + "r" * (orientation in range(2, 9))
            + "a" * bool(getattr(image, "is_animated", False))
        )
        if image.mode == "F":
            raise UnreadableImage("its pixels are floats of no agreed range; store 8 or 16 bits")
        if (image.format == "JPEG" and not data.endswith(_JPEG_END)) or (
            image.format == "PNG" and b"IEND" not in data[-12:]
        ):
            image.load()
    return Header(height, width, traits)


def decode(data: bytes) -> Pixels:
    """``(H, W, 3)`` RGB pixels of an encoded image. Raises ``UnreadableImage``."""
    with _reading(data) as image:
        return _pixels(image)


def from_memory(image: object) -> Pixels:
    """``(H, W, 3)`` RGB pixels of an image in memory, by the rules for a file's.

    Args:
        image: a Pillow image of any mode, of an animation the frame it is at; or a uint8 array, ``(H, W, 3)`` RGB or
            ``(H, W)`` grayscale.

    Raises:
        TypeError: anything else.
        UnreadableImage: a Pillow image whose file is damaged or closed, or whose pixels have no agreed range; an image
            without pixels.
    """
    if isinstance(image, Image.Image):
        with _refusing():
            pixels = _pixels(image)
    elif isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
            raise TypeError(
                f"an image array must be uint8 of (H, W, 3) or (H, W), got {image.dtype} of {image.shape}; "
                f"convert it to that, or give a PIL image"
            )
        pixels = image if image.ndim == 3 else np.stack([image] * 3, axis=-1)
    else:
        raise TypeError(
            f"an image must be a path, a PIL image or a uint8 array of (H, W, 3) or (H, W), got {type(image).__name__}"
        )
    if not pixels.size:
        raise UnreadableImage("no pixels")
    return pixels


def _pixels(image: Image.Image) -> Pixels:
    image.load()
    return _upright(np.asarray(_rgb(image)), image.getexif().get(_ORIENTATION, 1))


def decode_crop(data: bytes, choose: Callable[[int, int], Box], enough: int | None = None) -> Pixels:
    """The part of an image that ``choose`` takes, given its height and width.

    Args:
        enough: pixels a side that the part needs. A JPEG is then decoded at 1/2, 1/4 or 1/8 of its size as long as the
            part keeps them, and the part's edges go to the nearest pixel of that size. None decodes in full.

    Raises:
        UnreadableImage: see :func:`decode`.
    """
    with _reading(data) as image:
        if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
            pixels = decode(data)
            top, left, height, width = choose(*pixels.shape[:2])
            return pixels[top : top + height, left : left + width]
        orientation = image.getexif().get(_ORIENTATION, 1)
        across, down = image.size if orientation not in _TURNED else image.size[::-1]
        top, left, height, width = choose(down, across)
        shrink = 1 if enough is None else next(n for n in (8, 4, 2, 1) if n == 1 or min(height, width) >= n * enough)
        (top, bottom), (left, right) = (
            (round(a / shrink), round((a + n) / shrink)) for a, n in ((top, height), (left, width))
        )
        box = top, left, bottom - top, right - left
        return _upright(_jpeg_part(data, image, shrink, _stored(box, image.size, shrink, orientation)), orientation)


def _jpeg_part(data: bytes, image: Image.Image, shrink: int, box: Box) -> Pixels:
    """A part of what `_jpeg` gives; a file that is cut off is `_jpeg`'s to refuse, wherever the part lies."""
    if data.endswith(_JPEG_END) and min(box[2:]) > 0 and jpeg.available():
        part = jpeg.decode_part(data, shrink, box)
        if part is not None:
            return part
    top, left, height, width = box
    return _jpeg(data, image, shrink)[top : top + height, left : left + width]


def _jpeg(data: bytes, image: Image.Image, shrink: int) -> Pixels:
    """A gray or RGB JPEG, opened as ``image``, at a ``shrink``-th of its size; not turned by its orientation.

    By simplejpeg where it is installed, else by Pillow: the same library underneath and the same pixels, with less
    around them. What simplejpeg finds fault with is Pillow's to judge.
    """
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        pass
    else:
        with suppress(ValueError):
            pixels: Pixels = decode_jpeg(
                data, "RGB", min_height=-(-image.height // shrink), min_width=-(-image.width // shrink)
            )
            return pixels
    if shrink > 1:
        image.draft(image.mode, (image.width // shrink, image.height // shrink))
    return np.asarray(image.convert("RGB"))


_TURNED, _MIRRORED = (5, 6, 7, 8), ((3, 4, 7, 8), (2, 3, 6, 7))
"""EXIF orientations whose rows are columns, and those mirrored top to bottom, and left to right, after that."""


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """A view, turned or mirrored as the EXIF orientation (1 to 8) asks for."""
    if orientation in _TURNED:
        pixels = pixels.transpose(1, 0, 2)
    down, right = (-1 if orientation in mirrored else 1 for mirrored in _MIRRORED)
    return pixels[::down, ::right]


def _stored(box: Box, size: tuple[int, int], shrink: int, orientation: int) -> Box:
    """Where a part of the upright image lies in the image as it is stored, of ``size`` (width, height), decoded at a
    ``shrink``-th."""
    top, left, height, width = box
    across, down = (-(-side // shrink) for side in size)
    if orientation in _TURNED:
        across, down = down, across
    if orientation in _MIRRORED[0]:
        top = down - top - height
    if orientation in _MIRRORED[1]:
        left = across - left - width
    return (left, top, width, height) if orientation in _TURNED else (top, left, height, width)


@contextmanager
def _reading(data: bytes) -> Iterator[Image.Image]:
    if not data:
        raise UnreadableImage("empty file")
    with _refusing(), Image.open(io.BytesIO(data)) as image:
        yield image


@contextmanager
def _refusing() -> Iterator[None]:
    """Turns whatever Pillow raises for a damaged image into ``UnreadableImage``."""
    try:
        yield
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise UnreadableImage("not an image") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UnreadableImage(f"more than {limit:,} million pixels") from None
    except Exception as error:  # a damaged file makes Pillow's readers raise almost anything
        reason = str(error).split("\n")[0]
        raise UnreadableImage("truncated" if "truncated" in reason.lower() else reason or "damaged") from None


def _has_transparency(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise UnreadableImage("its pixels are floats of no agreed range; store 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits, which Pillow also gives as 32
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65_535:
            raise UnreadableImage("its pixels have more than 16 bits; store 8 or 16 bits")
        image = Image.fromarray(((deep * 255 + 32_767) // 65_535).astype(np.uint8))
    elif _has_transparency(image):
        over = image.convert("RGBA")
        page = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(page, over).convert("RGB")
    return image.convert("RGB")
