"""``decode_crop``: decode only part of an image, at 1/2, 1/4 or 1/8 of its size if that is enough, by libjpeg-turbo.

No Python package offers its functions for that. Our wheels bring ``jpeg.cpp`` compiled; elsewhere it is built on first
use where the library's header is installed (Debian and Ubuntu: ``libjpeg-dev``), and used if its pixels equal Pillow's.
Otherwise whole images are decoded.
"""

import ctypes
import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from nextify.data.decode import Numbers, Pixels, decode, is_turned, opened, stored_box, stored_orientation, upright
from nextify.system import native

Box = tuple[int, int, int, int]
"""Top, left, height, width, in pixels."""

_END = b"\xff\xd9"


def decode_crop(data: bytes, choose: Callable[[int, int], Box], enough: int | None = None) -> Pixels:
    """The part of an image that ``choose`` returns, given its height and width. ``enough``: sides in pixels that
    suffice; a JPEG is then decoded at 1/2, 1/4 or 1/8 of its size as long as both sides of the part stay that long, and
    the part's edges move to the nearest pixel. None decodes in full. Raises as :func:`nextify.data.decode.decode`."""
    if isinstance(data, Numbers):
        values = decode(data)
        top, left, height, width = choose(*values.shape[:2])
        return values[top : top + height, left : left + width]
    with opened(data) as image:
        if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
            pixels = decode(data)
            top, left, height, width = choose(*pixels.shape[:2])
            return pixels[top : top + height, left : left + width]
        orientation = stored_orientation(image)
        across, down = image.size[::-1] if is_turned(orientation) else image.size
        top, left, height, width = choose(down, across)
        shrink = 1 if enough is None else next(n for n in (8, 4, 2, 1) if n == 1 or min(height, width) >= n * enough)
        (top, bottom), (left, right) = (
            (round(a / shrink), round((a + n) / shrink)) for a, n in ((top, height), (left, width))
        )
        stored = -(-image.width // shrink), -(-image.height // shrink)
        box = stored_box((top, left, bottom - top, right - left), *stored, orientation)
        return upright(_part(data, image, shrink, box), orientation)


def available() -> bool:
    """Whether ``decode_part`` works here. The first call builds the library."""
    return native.image_kernels() != "off" and _build().usable


def decode_part(data: bytes, shrink: int, part: Box) -> Pixels | None:
    """``(height, width, 3)`` RGB of a gray or colour JPEG at 1/``shrink`` (1, 2, 4, 8) of its size, in whose pixels
    ``part`` is given; needs :func:`available`. None where the data are damaged as far down as the part reaches."""
    return _run(_build().library, data, shrink, part)


def _part(data: bytes, image: Image.Image, shrink: int, box: Box) -> Pixels:
    # Decoding the whole image refuses a truncated file wherever the part lies.
    whole = data.endswith(_END) and min(box[2:]) > 0 and available()
    if whole and (part := decode_part(data, shrink, box)) is not None:
        return part
    top, left, height, width = box
    return _whole(data, image, shrink)[top : top + height, left : left + width]


def _whole(data: bytes, image: Image.Image, shrink: int) -> Pixels:
    """A gray or RGB JPEG, opened as ``image``, at 1/``shrink`` of its size and in its stored orientation.

    simplejpeg calls the same library as Pillow with less overhead and gives the same pixels. It is used if installed;
    files that it rejects are left to Pillow.
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


def _run(library: ctypes.CDLL, data: bytes, shrink: int, part: Box) -> Pixels | None:
    out = np.empty((*part[2:], 3), np.uint8)
    code = library.nextify_jpeg_part(
        *(data, ctypes.c_uint64(len(data)), ctypes.c_int(shrink), *map(ctypes.c_int64, part)),
        ctypes.c_void_p(out.ctypes.data),
    )
    return None if code else out


def _check(library: ctypes.CDLL) -> None:
    """Compare with Pillow on a colour and a gray image at each size; raises RuntimeError where they differ."""
    noise = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((203, 150))
    for mode, sampling in (("RGB", 2), ("RGB", 1), ("RGB", 0), ("L", 0)):
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, "jpeg", quality=90, subsampling=sampling)
        for shrink in (1, 2, 4, 8):
            drafted = Image.open(io.BytesIO(buffer.getvalue()))
            drafted.draft(mode, (203 // shrink, 150 // shrink))
            whole = np.asarray(drafted.convert("RGB"))
            height, width = whole.shape[0] // 3, whole.shape[1] // 2
            for top, left in ((0, 0), (whole.shape[0] // 2, whole.shape[1] // 3), (whole.shape[0] - height, 0)):
                found = _run(library, buffer.getvalue(), shrink, (top, left, height, width))
                if found is None or not np.array_equal(found, whole[top : top + height, left : left + width]):
                    raise RuntimeError("libjpeg's pixels are not Pillow's")


_build = native.Library("jpeg", Path(__file__).with_name("jpeg.cpp"), _check, libraries=("jpeg",)).build
