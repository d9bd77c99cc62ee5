"""Bands of an image by ``--channels``: three chosen ones as colours, or all N of them as numbers (docs/data.md).

As numbers, uint8 and uint16 go from 0 to 1 by their type's range, and float32 stays as it is. Bands are counted from 1
in the file's order, whatever they hold; a TIFF's pages are bands like any others. Pillow reads TIFFs of few bands only:
the pixels of N interleaved bands are those of a grayscale image N times as wide, whose header it is given instead.
"""

import io
import math
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin

from nextify.data.arrays import is_array, read_array
from nextify.data.decode import (
    CHOOSE,
    LARGEST_NOTED,
    UNDECODED,
    Numbers,
    Pixels,
    UnreadableImage,
    colours,
    eight_bits,
    from_memory,
    has_further_bands,
    has_transparency,
    load,
    opened,
    refuse_signed,
    refuse_sparse,
    refusing,
    sixteen_bits,
    stored_orientation,
    tiff_tags,
    unsigned,
    upright,
)
from nextify.data.encoded import Encoded, Stamp
from nextify.data.errors import DataError
from nextify.system.text import plural

Bands = tuple[int, int, int] | int
"""The bands that become the network's three channels, in order, the first band being 1; or how many there are, where
all of them are its channels."""
MOST_CHANNELS = 256
MOST_PAGES = 4 * MOST_CHANNELS
"""Of a TIFF, reduced copies included; a damaged one may lead from page to page in a circle."""
LARGEST = 1e6
"""Of a mean and a standard deviation: pixels beyond it would be infinite as a network computes."""
Chosen = tuple[int, int, int]
Values = npt.NDArray[Any]

_ASKED = "--channels %s asks for"

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_FILL_ORDER, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _PLANAR, _PREDICTOR = 266, 274, 277, 278, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _SAMPLE_FORMAT = 322, 323, 339
_OFFSETS, _LENGTHS = (273, 324), (279, 325)  # of strips, of tiles
_LOSSLESS = (1, 5, 8, 32_773, 32_946)  # none, LZW, Deflate, PackBits, and Deflate's older number
_COMPRESSIONS = {
    2: "CCITT",
    3: "CCITT",
    4: "CCITT",
    6: "JPEG",
    7: "JPEG",
    34_712: "JPEG 2000",
    34_887: "LERC",
    34_925: "LZMA",
    50_000: "Zstandard",
    50_001: "WebP",
    50_002: "JPEG XL",
}
_SUBFILE = 254  # 1: a reduced copy of another page
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_TYPES = {8: np.uint8, 16: np.uint16, 32: np.float32}
_NUMBERS = ("uint8", "uint16", "float32")
_DIFFERENCES = 2  # the predictor that stores each pixel less the one to its left
_INDEPENDENT = 2  # planar configuration: one band after the other
_LOWEST_FIRST = 2  # fill order: the bits of each byte stand in reverse
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def can_normalize(mean: float, std: float) -> bool:
    """Whether a channel of this mean and standard deviation can be normalized by them."""
    return abs(mean) <= LARGEST and 1 / LARGEST <= std <= LARGEST


def checked(bands: Sequence[int] | int) -> Bands:
    """Three band numbers, or a number of channels, as they were given. Raises ``ValueError`` where they are not three
    whole numbers from 1, or the number of channels is beyond ``MOST_CHANNELS``."""
    if isinstance(bands, int) or (isinstance(bands, Sequence) and len(bands) == 1):
        count = bands if isinstance(bands, int) else bands[0]
        if type(count) is not int or not 1 <= count <= MOST_CHANNELS:
            raise ValueError(f"channels must be a number from 1 to {MOST_CHANNELS}, or three bands, got {count!r}")
        return count
    try:
        first, second, third = bands
    except (TypeError, ValueError):
        raise ValueError(
            f"channels must be three bands, such as 4 3 2, or a number, such as 13; got {bands!r}"
        ) from None
    found = (first, second, third)
    if not all(type(band) is int and band >= 1 for band in found):
        raise ValueError(f"channels must be bands counted from 1, such as 4 3 2, got {bands!r}")
    return found


def named(bands: Bands) -> str:
    """As the option has them: ``4 3 2``."""
    return str(bands) if isinstance(bands, int) else " ".join(map(str, bands))


def kind_of(bands: Bands | None) -> tuple[int, type[np.uint8] | type[np.float32]]:
    """How many channels images have, and the type of their pixels."""
    return (bands, np.float32) if isinstance(bands, int) else (3, np.uint8)


def check_agree(weights: Bands | None, images: Bands | None) -> None:
    """Raise ``DataError`` where weights were trained on chosen bands and the images show others."""
    if isinstance(weights, int) and weights != images:
        shown = "colours" if images is None else named(images)
        raise DataError(
            f"the weights take {plural(weights, 'channel')}, but the images were opened as {shown}: give --channels "
            f"{weights}"
        )
    if isinstance(images, int) and weights != images:
        raise DataError(
            f"the images have {plural(images, 'channel')}, but the weights take ordinary pictures: give weights that "
            f"were trained on {images} channels"
        )
    if weights is not None and weights != images:
        shown = "no bands were chosen" if images is None else f"bands {named(images)} were chosen"
        raise DataError(
            f"the weights were trained on bands {named(weights)} of the images, but {shown}: give --channels "
            f"{named(weights)}"
        )


class BandsOf:
    """The images of a source with only the chosen bands of each, files of three 8-bit bands, or with all as numbers."""

    def __init__(self, images: Encoded, bands: Bands) -> None:
        self.images, self.bands, self.names = images, bands, images.names

    @property
    def place(self) -> str:
        return f"{self.images.place}, bands {named(self.bands)}"

    def stamp(self, index: int) -> Stamp:
        return self.images.stamp(index)

    def read(self, index: int) -> bytes:
        return with_bands(self.images.read(index), self.bands)


def with_bands(data: bytes, bands: Bands | None) -> bytes:
    """An encoded image of any number of bands as a PPM file of the chosen three, or as ``Numbers`` of all; the same
    bytes for None.

    The PPM is upright and notes the largest value of 16-bit images, for the warning about dark ones. Raises
    ``UnreadableImage`` where the image lacks a band or cannot be read."""
    if bands is None:
        return data
    if isinstance(bands, int):
        return Numbers.of(numbers(_all_bands(data, bands), bands))
    with refusing(data):
        found = _of_tiff(data, bands)
    if found is None:
        try:
            with opened(data) as image:
                found = _chosen(_of_image(image), bands)
        except UnreadableImage as error:
            reason = str(error)
            with suppress(Exception):  # of a damaged file, tags may be of any type
                reason = _remedy(data, bands, reason)
            raise UnreadableImage(reason) from None
    pixels, largest = found
    note = LARGEST_NOTED % largest if largest else b""
    height, width, _ = pixels.shape
    return b"P6\n%s%d %d\n255\n" % (note, width, height) + pixels.tobytes()


def numbers(values: Values, channels: int) -> npt.NDArray[np.float32]:
    """``(H, W, channels)`` float32 of ``values`` of uint8 or uint16, which go from 0 to 1, or of float32. Raises
    ``UnreadableImage`` for another number of channels, and for values that are not finite."""
    if values.shape[2] != channels:
        raise UnreadableImage(f"{plural(values.shape[2], 'channel')}, but --channels {channels} asks for {channels}")
    if values.dtype.kind == "u":
        return np.multiply(values, np.float32(1 / np.iinfo(values.dtype).max), dtype=np.float32)
    if not np.isfinite(values).all():
        raise UnreadableImage("NaN or infinite values: replace them with numbers")
    return np.ascontiguousarray(values, np.float32)


def as_channels(pixels: Pixels, channels: int) -> npt.NDArray[np.float32]:
    """``(H, W, channels)`` numbers of a picture, its colours in turns: for a trial, not for a result."""
    return numbers(pixels[..., np.arange(channels) % 3], channels)


def visible(pixels: Values) -> Pixels:
    """``(H, W, 3)`` uint8 to look at: pictures as they are; of numbers the first three channels, or the first one,
    each stretched from its 2nd to its 98th percentile."""
    if pixels.dtype == np.uint8:
        return pixels
    shown = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
    low, high = np.percentile(shown, (2, 98), axis=(0, 1))
    found: Pixels = (255 * np.clip((shown - low) / np.maximum(high - low, 1e-12), 0, 1)).astype(np.uint8)
    return found


def _all_bands(data: bytes, channels: int) -> Values:
    """``(H, W, bands)`` of a file."""
    if is_array(data):
        return read_array(data, channels)
    if tiff_tags(data) is not None:
        with refusing(data):
            return _pages(data, channels)
    with opened(data) as image:
        return _all_of(image, channels)


def _all_of(image: Image.Image, channels: int) -> Values:
    """``(H, W, bands)``; a picture of which one channel is wanted is made gray, and laid on white where it is
    transparent. What a TIFF has beside its colours is left for an error: it need not be transparency."""
    load(image)
    if channels > 1 or has_further_bands(image):
        return _of_image(image, floats=True)
    if has_transparency(image) and not image.mode.startswith("I"):
        return np.asarray(Image.fromarray(colours(image)).convert("L"))[..., None]
    is_gray = image.mode.startswith(("I", "L", "1", "F"))
    return _of_image(image if is_gray else image.convert("L"), floats=True)


def _pages(data: bytes, channels: int) -> Values:
    """The bands of all pages of a TIFF one after the other, but for reduced copies of the first; no more pages are read
    than show that there are too many."""
    first = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
    at, found, number, count = first.next, list[Values](), 0, 0
    file = io.BytesIO(data)
    while at and count <= channels and number < MOST_PAGES:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file.seek(at)
        tags.load(file)
        at = tags.next
        number += 1
        if number > 1 and int(tags.get(_SUBFILE, 0)) & 1:
            continue
        if (samples := tags.get(_SAMPLES, 1)) > max(channels, 4):
            raise UnreadableImage(f"{plural(samples, 'channel')}, but --channels {channels} asks for {channels}")
        if tags.get(_WIDTH, 0) * tags.get(_HEIGHT, 0) * samples > 6 * (Image.MAX_IMAGE_PIXELS or math.inf):
            raise Image.DecompressionBombError
        values = _page(data, tags)
        if values is None:
            with opened(data) as image:
                image.seek(number - 1)
                values = _all_of(image, channels)
        elif channels == 1 and values.shape[2] == 3 and values.dtype == np.uint8:
            values = np.asarray(Image.fromarray(values).convert("L"))[..., None]
        found.append(values)
        count += values.shape[2]
    if len({values.shape[:2] for values in found}) > 1:
        raise UnreadableImage("a TIFF whose pages have different sizes: give all bands the same size")
    if len({values.dtype for values in found}) > 1:
        raise UnreadableImage("a TIFF whose pages have different types: give all bands the same type")
    return np.concatenate(found, axis=2)


def _page(data: bytes, tags: Mapping[int, Any], chosen: Chosen | None = None) -> Values | None:
    """``(H, W, bands)`` of a page; None for what Pillow reads by rules of its own (palettes, JPEG). Where bands are
    ``chosen``, floats are left to Pillow, and of bands that are stored one after the other only the chosen are read."""
    if tags.get(_PHOTOMETRIC) not in (1, 2) or tags.get(_COMPRESSION, 1) not in _LOSSLESS:
        return None
    bits, kinds = set(tags.get(_BITS, (1,))), set(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,)))
    floats = chosen is None and bits == {32} and kinds == {_FLOAT} and tags.get(_PREDICTOR, 1) == 1
    if not floats and (bits not in ({8}, {16}) or not kinds <= {_UNSIGNED, _SIGNED}):
        return None
    count = tags.get(_SAMPLES, 1)
    if chosen is not None:
        _check_has(count, chosen)
        if Image.MAX_IMAGE_PIXELS is not None and tags[_WIDTH] * tags[_HEIGHT] > 2 * Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError
    refuse_sparse(tags)
    if not _is_whole(tags, len(data)):
        raise UnreadableImage("truncated")
    if tags.get(_PLANAR, 1) == _INDEPENDENT:
        wanted = range(1, count + 1) if chosen is None else chosen
        planes = {band: _grayscale(data, tags, 1, band, count) for band in set(wanted)}
        values = np.concatenate([planes[band] for band in wanted], axis=2)
    else:
        values = _grayscale(data, tags, count, 1, 1)
    if _SIGNED in kinds:
        values = unsigned(values.view(np.dtype(f"i{values.itemsize}"))).astype(values.dtype)
    return upright(values, tags.get(_ORIENTATION, 1))


def of_memory(image: object, bands: Bands) -> Values:
    """``(H, W, 3)`` pixels of an image in memory: the chosen bands of a Pillow image or of an array of more than three
    channels; an array of three has them already. Where all bands are wanted, ``(H, W, N)`` float32 of a Pillow image or
    of an array of uint8, uint16 or float32. Raises as :func:`nextify.data.decode.from_memory`, and ``UnreadableImage``
    where the image lacks a band."""
    if isinstance(bands, int):
        if isinstance(image, Image.Image):
            with refusing():
                return numbers(_all_of(image, bands), bands)
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3) or str(image.dtype) not in _NUMBERS:
            raise TypeError(
                f"an image of {plural(bands, 'channel')} must be a PIL image or an array of uint8, uint16 or "
                f"float32 of (H, W, {bands})"
            )
        return numbers(image[..., None] if image.ndim == 2 else image, bands)
    if isinstance(image, Image.Image):
        with refusing():
            return _chosen(_of_image(image), bands)[0]
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] > 3:
        return _chosen(image, bands)[0]
    return from_memory(image)


def _chosen(values: Values, bands: Chosen) -> tuple[Pixels, int]:
    """``(H, W, 3)`` of ``values (H, W, bands)`` of 8 or 16 bits, and the largest 16-bit value, else 0."""
    _check_has(values.shape[2], bands)
    values = values[..., [band - 1 for band in bands]]
    return (values, 0) if values.dtype == np.uint8 else (eight_bits(values), int(values.max(initial=0)))


def _check_has(count: int, bands: Chosen) -> None:
    """Raise ``UnreadableImage`` where an image of ``count`` bands lacks a chosen one."""
    if max(bands) > count:
        raise UnreadableImage(f"{count} bands, but {_ASKED % named(bands)} band {max(bands)}: choose others")


def _of_image(image: Image.Image, floats: bool = False) -> Values:
    """``(H, W, bands)`` as Pillow has them, upright; 32-bit ``floats`` only where they may be."""
    load(image)
    refuse_signed(image)
    orientation = stored_orientation(image)
    if image.mode.startswith("I"):
        return upright(sixteen_bits(image)[..., None], orientation)
    if image.mode == "F":
        if not floats:
            raise UnreadableImage("its pixels are floats without a fixed range; store 8 or 16 bits")
        return upright(np.asarray(image)[..., None], orientation)
    if image.mode in ("1", "P", "PA"):
        transparent = image.mode == "PA" or "transparency" in image.info
        image = image.convert("L" if image.mode == "1" else "RGBA" if transparent else "RGB")
    values = np.asarray(image)
    return upright(values if values.ndim == 3 else values[..., None], orientation)


def _of_tiff(data: bytes, bands: Chosen) -> tuple[Pixels, int] | None:
    """As :func:`_chosen`; None for what is no TIFF, or one that Pillow reads by rules of its own."""
    tags = tiff_tags(data)
    values = None if tags is None else _page(data, tags, bands)
    if tags is None or values is None:
        return None
    return _chosen(values, (1, 2, 3) if tags.get(_PLANAR, 1) == _INDEPENDENT else bands)


def _remedy(data: bytes, bands: Chosen, reason: str) -> str:
    """``reason``, or what to store instead where a TIFF has the bands and only the way they are stored is in the way.

    Pillow leaves some bands out, so that it may seem to lack those that were asked for.
    """
    tags = tiff_tags(data)
    count = 1 if tags is None else tags.get(_SAMPLES, 1)
    if tags is None or max(bands) > count:
        return reason
    foreign = tags.get(_COMPRESSION, 1) not in _LOSSLESS
    if not (CHOOSE in reason or _ASKED % named(bands) in reason or (foreign and reason == UNDECODED)):
        return reason
    compression, photometric = tags.get(_COMPRESSION, 1), tags.get(_PHOTOMETRIC, 0)
    bits, kinds = set(tags.get(_BITS, (1,))), set(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,)))
    found = []
    if foreign:
        name = _COMPRESSIONS.get(compression, f"method {compression}")
        found.append((f"compressed with {name}", "uncompressed or with LZW or Deflate"))
    if not kinds <= {_UNSIGNED, _SIGNED}:
        kind = "floats" if kinds == {_FLOAT} else "values of an unsupported type"
        found.append((f"of {kind}", "as whole numbers of 8 or 16 bits"))
    elif bits not in ({8}, {16}):
        found.append((f"of {', '.join(map(str, sorted(bits)))} bits", "with 8 or 16 bits in every band"))
    if photometric == 0:
        found.append(("with white as zero", "with black as zero"))
    elif photometric not in (1, 2):
        found.append(("in colours other than gray or RGB", "as gray or RGB"))
    if not found:
        return reason
    problems, remedies = zip(*found, strict=True)
    return f"a TIFF of {count} bands {', '.join(problems)}: store it {', '.join(remedies)}"


class _Wide(TiffImagePlugin.TiffImageFile):
    """A grayscale TIFF of any size: Pillow's limit would take each band for a further pixel."""

    def load_prepare(self) -> None:
        ImageFile.ImageFile.load_prepare(self)


def _is_whole(tags: Mapping[int, Any], length: int) -> bool:
    """Whether every strip or tile of a TIFF lies within the file's ``length``."""
    height, count, (bits, *_) = tags[_HEIGHT], tags.get(_SAMPLES, 1), tags[_BITS]
    planes = count if tags.get(_PLANAR, 1) == _INDEPENDENT else 1
    tiled = _TILE_WIDTH in tags
    if tiled:
        across, rows = tags[_TILE_WIDTH], tags[_TILE_HEIGHT]
        parts = -(-tags[_WIDTH] // across) * -(-height // rows)
    else:
        across, rows = tags[_WIDTH], min(tags.get(_ROWS_PER_STRIP, height), height)
        parts = -(-height // rows)
    starts, sizes = (tags.get(tag[tiled], ()) for tag in (_OFFSETS, _LENGTHS))
    if tags.get(_COMPRESSION, 1) == 1:  # the noted size may be wrong, and is not needed
        last = rows if tiled else height - (parts - 1) * rows
        part = across * count // planes * bits // 8
        sizes = ([part * rows] * (parts - 1) + [part * last]) * planes
    needed = parts * planes
    if len(starts) < needed or len(sizes) < needed:
        return False
    return all(start + size <= length for start, size in zip(starts, sizes, strict=False))


def _grayscale(data: bytes, tags: Mapping[int, Any], interleaved: int, plane: int, planes: int) -> Values:
    """``(H, W, interleaved)`` of one of a TIFF's ``planes``, read as a grayscale image that many times as wide."""
    width, (bits, *_) = tags[_WIDTH], tags[_BITS]
    fields = {
        _WIDTH: (width * interleaved,),
        _HEIGHT: (tags[_HEIGHT],),
        _BITS: (bits,),
        _COMPRESSION: (tags.get(_COMPRESSION, 1),),
        _PHOTOMETRIC: (1,),
        _SAMPLES: (1,),
        _ROWS_PER_STRIP: (min(tags.get(_ROWS_PER_STRIP, tags[_HEIGHT]), tags[_HEIGHT]),),
    }
    if bits == 32:
        fields[_SAMPLE_FORMAT] = (_FLOAT,)
    for tag in (*_OFFSETS, *_LENGTHS):
        if tag in tags:
            each = len(tags[tag]) // planes
            fields[tag] = tags[tag][(plane - 1) * each : plane * each]
    if _TILE_WIDTH in tags:
        del fields[_ROWS_PER_STRIP]
        fields |= {_TILE_WIDTH: (tags[_TILE_WIDTH] * interleaved,), _TILE_HEIGHT: (tags[_TILE_HEIGHT],)}
    magic = data[:4]
    if tags.get(_FILL_ORDER, 1) == _LOWEST_FIRST:  # the header and the directory, reversed too, are not used again
        data = data.translate(_REVERSED)
    data += bytes(len(data) % 2)
    order = "<" if magic.startswith(b"II") else ">"
    header = magic + struct.pack(f"{order}I", len(data))
    with _Wide(io.BytesIO(header + data[8:] + _directory(fields, order, len(data)))) as image:
        values = np.array(image, _TYPES[bits]).reshape(-1, width, interleaved)
    if tags.get(_PREDICTOR, 1) == _DIFFERENCES and tags.get(_COMPRESSION, 1) != 1:
        step = tags.get(_TILE_WIDTH, width)
        for left in range(0, width, step):
            part = values[:, left : left + step]
            np.add.accumulate(part, axis=1, dtype=values.dtype, out=part)
    return values


def _directory(fields: Mapping[int, Sequence[int]], order: str, at: int) -> bytes:
    """A TIFF's image file directory, to stand ``at`` this byte of the file."""
    start, records, beyond = at + 2 + 12 * len(fields) + 4, b"", b""
    for tag, values in sorted(fields.items()):
        raw = struct.pack(f"{order}{len(values)}I", *values)
        records += struct.pack(f"{order}HHI", tag, 4, len(values))
        records += raw if len(values) == 1 else struct.pack(f"{order}I", start + len(beyond))
        beyond += raw if len(values) > 1 else b""
    return struct.pack(f"{order}H", len(fields)) + records + bytes(4) + beyond
