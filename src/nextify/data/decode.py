"""One image to upright RGB pixels, and what its file's header says: the same rules for a file and an image in memory.

docs/data.md has the rules: for transparency, further bands, 16 bits, colour spaces, animations and orientations, and
what is refused with a reason.
"""

import io
import os
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]
Values = TypeVar("Values", npt.NDArray[np.uint8], npt.NDArray[np.uint16])

PLUGINS = {
    ".heic": ("pillow_heif", "pillow-heif"),
    ".heif": ("pillow_heif", "pillow-heif"),
    ".jxl": ("pillow_jxl", "pillow-jxl-plugin"),
}
"""Extensions that Pillow reads with a plug-in, used if installed: its module and its package."""
EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif"}
    | {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
    | {extension for extension, (module, _) in PLUGINS.items() if find_spec(module)}
)
"""Of image files, in lower case."""
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM", "HEIF", "JXL")
_READERS = ("Jpeg", "Png", "WebP", "Avif", "Bmp", "Gif", "Tiff", "Ppm")  # Pillow's modules, of some 45
_ORIENTATION, _PHOTOMETRIC, _SAMPLES, _SAMPLE_FORMAT = 0x0112, 262, 277, 339  # tags of TIFF; EXIF has the first too
_STRIPS, _TILES = (273, 279), (324, 325)  # offsets and lengths of a TIFF's pixels in bytes
_MOST_BANDS = 6  # that Pillow reads of a TIFF
_SIGNED = 2  # sample format
_NEGATIVE = "some of its pixels are negative: store them from 0 to 255 or 65,535"
_DAMAGED = re.compile(r"failed to read next frame|broken data stream.*|unrecognized data stream.*")
_UNDECODED = re.compile(r"(decoder error )?-\d+")
UNDECODED = "damaged, or compressed in a way that this version of Pillow cannot decode"
CHOOSE = "choose three with --channels, such as --channels 1 2 3, or give their number to use them all"
LARGEST_NOTED = b"# largest 16-bit value %d\n"
"""Comment of the files that ``bands.with_bands`` makes of 16-bit images."""
_NOTED = re.compile(b"P6\n" + LARGEST_NOTED.replace(b"%d", rb"(\d+)"))
_GRAY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
_TURNED, _MIRRORED = (5, 6, 7, 8), ((3, 4, 7, 8), (2, 3, 6, 7))
"""EXIF orientations whose rows are columns, and those mirrored top to bottom, and left to right, after that."""


class UnreadableImage(ValueError):
    """An image that cannot be read; the message is the reason in a few words."""


def why_unread(error: OSError | UnreadableImage) -> str:
    """The reason in a few words."""
    return error.strerror or "unreadable" if isinstance(error, OSError) else str(error)


@dataclass(frozen=True, slots=True)
class Header:
    """What a file's header says, and some facts about its pixels."""

    height: int
    """Pixels, upright."""
    width: int
    traits: str
    """Letters: g grayscale, t transparent, r rotated or mirrored by its orientation, a animated, b further bands,
    n nothing visible: transparent everywhere."""
    peak: int = 0
    """The largest value of a 16-bit image, else 0."""


class Numbers(bytes):
    """The pixels of an image that ``--channels N`` asks for, as the sources hand on a file: height, width and channels,
    and then float32 values. No file is ever taken for one."""

    @classmethod
    def of(cls, values: npt.NDArray[np.float32]) -> Self:
        return cls(struct.pack("<3I", *values.shape) + values.tobytes())

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = struct.unpack_from("<3I", self)
        return height, width, channels

    def values(self) -> npt.NDArray[np.float32]:
        """``(H, W, C)``."""
        return np.frombuffer(self, np.float32, offset=12).reshape(self.shape)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings about odd metadata, which do not affect the pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_header(data: bytes) -> Header:
    """Size and traits of an encoded image, decoded only if it has 16 bits or transparency, or looks truncated. Raises
    ``UnreadableImage``: see the top of the file."""
    if isinstance(data, Numbers):
        return Header(*data.shape[:2], "")
    with opened(data) as image:
        width, height = image.size
        deep_colours = any(";16" in str(part) for *_, part in getattr(image, "tile", ()))  # none once it is decoded
        orientation = image.getexif().get(_ORIENTATION, 1)
        if stored_orientation(image) in _TURNED:
            width, height = height, width
        further = has_further_bands(image)
        transparent = has_transparency(image) and not further
        hidden = transparent and _is_hidden(image)
        traits = (
            "g" * (image.mode in _GRAY)
            + "t" * (transparent and not hidden)
            + "r" * (orientation in range(2, 9))
            + "a" * bool(getattr(image, "is_animated", False))
            + "b" * further
            + "n" * hidden
        )
        if image.mode == "F":
            raise UnreadableImage("its pixels are floats without a fixed range; store 8 or 16 bits")
        if image.mode.startswith("I"):
            peak = int((unsigned(np.asarray(image)) if transparent else sixteen_bits(image)).max())
        elif deep_colours:  # of which Pillow keeps the upper 8 bits
            peak = 256 * int(np.asarray(image.convert("RGB")).max()) + 255
        else:
            noted = _NOTED.match(data)
            peak = int(noted[1]) if noted else 0
            if not _is_whole(image, data):
                image.load()
            refuse_signed(image)
        return Header(height, width, traits, peak)


def decode(data: bytes) -> Pixels:
    """``(H, W, 3)`` RGB pixels of an encoded image; of ``Numbers`` its float32 values. Raises ``UnreadableImage``."""
    if isinstance(data, Numbers):
        return data.values()  # type: ignore[return-value]
    with opened(data) as image:
        return colours(image)


def from_memory(image: object) -> Pixels:
    """``(H, W, 3)`` RGB pixels of an image in memory, by the rules for a file's.

    Args:
        image: a Pillow image of any mode, of an animation the frame it is at; or a uint8 array, ``(H, W, 3)`` RGB or
            ``(H, W)`` or ``(H, W, 1)`` grayscale.

    Raises:
        TypeError: anything else.
        UnreadableImage: a Pillow image whose file is damaged or closed, or whose pixels have no agreed range; an image
            without pixels.
    """
    if isinstance(image, Image.Image):
        with refusing():
            pixels = colours(image)
    elif isinstance(image, np.ndarray):
        gray = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1)
        if image.dtype != np.uint8 or not (gray or (image.ndim == 3 and image.shape[2] == 3)):
            raise TypeError(
                f"an image array must be uint8 of shape (H, W, 3) or (H, W), got {image.dtype} of shape "
                f"{image.shape}; convert it, or give a PIL image"
            )
        pixels = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=-1) if gray else image
    elif isinstance(image, str | os.PathLike):
        raise TypeError(f"this takes an image, not its path: give PIL.Image.open({os.fspath(image)!r})")
    else:
        raise TypeError(
            f"an image must be a path, a PIL image or a uint8 array of shape (H, W, 3) or (H, W), got "
            f"{type(image).__name__}"
        )
    if not pixels.size:
        raise UnreadableImage("no pixels")
    return pixels


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """A file's image, not decoded yet. Whatever Pillow raises within becomes ``UnreadableImage``."""
    if not data:
        raise UnreadableImage("empty file")
    with refusing(data):  # of a damaged file, tags may be of any type
        tags = tiff_tags(data)
        if tags is not None and (bands := tags.get(_SAMPLES, 1)) > _MOST_BANDS:
            raise UnreadableImage(f"{bands} bands, but Pillow reads at most {_MOST_BANDS}: {CHOOSE}")
    with refusing(data), Image.open(io.BytesIO(data), formats=_formats()) as image:
        if image.format == "TIFF":
            refuse_sparse(image.tag_v2)  # type: ignore[attr-defined]
        yield image


def stored_orientation(image: Image.Image) -> int:
    """The EXIF orientation (1 to 8) of the pixels that Pillow returns; it turns TIFFs itself."""
    orientation = 1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def is_turned(orientation: int) -> bool:
    """Whether height and width are swapped."""
    return orientation in _TURNED


def upright(pixels: Values, orientation: int) -> Values:
    """A view, turned or mirrored as the EXIF orientation (1 to 8) asks for."""
    if orientation in _TURNED:
        pixels = pixels.transpose(1, 0, 2)
    down, right = (-1 if orientation in mirrored else 1 for mirrored in _MIRRORED)
    return pixels[::down, ::right]


def stored_box(box: tuple[int, int, int, int], across: int, down: int, orientation: int) -> tuple[int, int, int, int]:
    """Where part (top, left, height, width) of the upright image lies in the stored one, ``across`` by ``down``."""
    top, left, height, width = box
    if orientation in _TURNED:
        across, down = down, across
    if orientation in _MIRRORED[0]:
        top = down - top - height
    if orientation in _MIRRORED[1]:
        left = across - left - width
    return (left, top, width, height) if orientation in _TURNED else (top, left, height, width)


@cache
def _formats() -> list[str]:
    for module in {module for module, _ in PLUGINS.values() if find_spec(module)}:
        if (register := getattr(import_module(module), "register_heif_opener", None)) is not None:
            register()
    for reader in _READERS:
        if find_spec(module := f"PIL.{reader}ImagePlugin"):  # Pillow 11.0 to 11.2 have none for AVIF
            import_module(module)
    return [name for name in _FORMATS if name in Image.OPEN]


@contextmanager
def refusing(data: bytes = b"") -> Iterator[None]:
    """Turn whatever is raised by reading an image into ``UnreadableImage`` with the reason; ``data`` is its file."""
    try:
        yield
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise UnreadableImage(_kind(data)) from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        shown = f"{limit:,}" if limit < 10**6 else f"{limit // 10**6:,} million"
        raise UnreadableImage(f"more than {shown} pixels") from None
    except Exception as error:  # a damaged file makes Pillow's readers raise almost anything
        reason = str(error).split("\n")[0]
        if "truncated" in reason.lower():
            reason = "truncated"
        elif not reason or _DAMAGED.fullmatch(reason):
            reason = "its pixels are damaged"
        elif _UNDECODED.fullmatch(reason):
            reason = UNDECODED
        raise UnreadableImage(reason) from None


def _kind(data: bytes) -> str:
    """The reason for refusing a file that Pillow does not recognize: what it seems to be."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"):
        return f"HEIC, which needs a plug-in: pip install {PLUGINS['.heic'][1]}"
    if brand in (b"avif", b"avis"):
        return "AVIF, which this build of Pillow cannot read: install Pillow from its wheel, or pillow-avif-plugin"
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return f"JPEG XL, which needs a plug-in: pip install {PLUGINS['.jxl'][1]}"
    if data.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer: run git lfs pull"
    if (tags := tiff_tags(data)) is not None:
        with suppress(Exception):  # of a damaged file, they may be of any type
            bands, bits = tags.get(_SAMPLES, 1), tags.get(258, (1,))[0]
            remedy = CHOOSE if bands > 1 and bits in (8, 16) else "store 1, 3 or 4 bands of 8 bits, or 1 of 16"
            return f"a TIFF of {bands} bands of {bits} bits, which Pillow cannot read: {remedy}"
        return "damaged"
    Image.init()  # the readers of all formats
    for name, (_, accepts) in Image.OPEN.items():
        with suppress(Exception):  # of a few bytes, some ask for more than there are
            if accepts and accepts(data[:16]) is True:
                return f"{name}, a format that is not supported: store it as PNG or JPEG"
    return "not an image"


def tiff_tags(data: bytes) -> TiffImagePlugin.ImageFileDirectory_v2 | None:
    """The tags of a TIFF, as many as can be read; None for any other file."""
    if data[:4] not in (b"II*\0", b"MM\0*") or len(data) < 8:
        return None
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
    file = io.BytesIO(data)
    file.seek(tags.next)
    with suppress(Exception):  # what cannot be read here is refused by Pillow later
        tags.load(file)
    return tags


def refuse_sparse(tags: Mapping[int, Any]) -> None:
    """Raise ``UnreadableImage`` for a TIFF with parts that were never written: Pillow would read its header there."""
    if any(0 in tags.get(offsets, ()) for offsets, _ in (_STRIPS, _TILES)):
        raise UnreadableImage("a sparse TIFF with missing parts: write it again with SPARSE_OK=FALSE")


def refuse_signed(image: Image.Image) -> None:
    """Raise ``UnreadableImage`` for 8 signed bits with a negative value, which Pillow takes for a large one."""
    if image.mode == "L" and image.format == "TIFF":
        kinds = image.tag_v2.get(_SAMPLE_FORMAT, ())  # type: ignore[attr-defined]
        if _SIGNED in kinds and image.getextrema()[1] > 127:  # type: ignore[operator]
            raise UnreadableImage(_NEGATIVE)


def _is_whole(image: Image.Image, data: bytes) -> bool:
    """Whether the file seems complete, as far as its format tells without decoding."""
    match image.format:
        case "JPEG" | "MPO":
            return data.endswith(b"\xff\xd9")
        case "PNG":
            return b"IEND" in data[-12:]
        case "GIF":
            return data.endswith(b";")
        case "WEBP":
            return len(data) >= 8 + int.from_bytes(data[4:8], "little")
        case "TIFF":
            tags = image.tag_v2  # type: ignore[attr-defined]
            parts = [zip(tags.get(at, ()), tags.get(size, ()), strict=False) for at, size in (_STRIPS, _TILES)]
            return all(at + size <= len(data) for part in parts for at, size in part)
        case _:
            return False


def has_further_bands(image: Image.Image) -> bool:
    """Whether a TIFF has bands beside gray or colour."""
    if image.format != "TIFF" or image.mode not in ("LA", "RGB", "RGBA"):
        return False
    return bool(image.tag_v2.get(_SAMPLES, 1) > (1 if image.mode == "LA" else 3))  # type: ignore[attr-defined]


def has_transparency(image: Image.Image) -> bool:
    """Whether an image has an alpha channel, or a transparent colour."""
    alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    return alpha or ("transparency" in image.info and image.mode in ("1", "L", "P", "RGB", "I;16"))


def load(image: Image.Image) -> None:
    """Decode an image that Pillow has opened, upright if it is a TIFF."""
    name = getattr(image, "filename", "")
    if name and image.format == "TIFF":
        # A file's name makes Pillow map the pixels into memory, and it then takes a turned TIFF's sides for each other.
        image.filename = ""  # type: ignore[attr-defined]
    _scale_transparent_value(image)
    image.load()
    if name:
        image.filename = name  # type: ignore[attr-defined]


def _scale_transparent_value(image: Image.Image) -> None:
    """Give a PNG's transparent value as its pixels will be. Pillow (13.0) scales gray of 2 and 4 bits to 8 without it,
    and compares it with the upper bytes of 16-bit colours, which are all that it keeps of them."""
    value = image.info.get("transparency")
    stored = {tile.args for tile in getattr(image, "tile", ())} if image.format == "PNG" else ()
    if isinstance(value, int) and ("L;2" in stored or "L;4" in stored):
        image.info["transparency"] = value * (85 if "L;2" in stored else 17)
    elif isinstance(value, tuple) and "RGB;16B" in stored:
        image.info["transparency"] = tuple(part >> 8 for part in value)


def colours(image: Image.Image) -> Pixels:
    """``(H, W, 3)`` RGB, upright, and laid on white where it is transparent."""
    load(image)
    return upright(np.asarray(_rgb(image)), stored_orientation(image))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnreadableImage("its pixels are floats without a fixed range; store 8 or 16 bits")
    refuse_signed(image)
    if image.mode.startswith("I"):
        image = Image.fromarray(eight_bits(sixteen_bits(image)))
    elif has_transparency(image):
        over = _with_alpha(image)
        if has_further_bands(image) or _is_hidden(over):
            return over.convert("RGB")
        return Image.alpha_composite(Image.new("RGBA", over.size, (255, 255, 255, 255)), over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _with_alpha(image: Image.Image) -> Image.Image:
    if image.mode == "RGBA":
        return image
    # Premultiplied gray has one way out, by way of plain gray.
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _is_hidden(image: Image.Image) -> bool:
    """Whether nothing of an image with transparency is visible."""
    load(image)
    if image.mode == "I;16":
        return bool((np.asarray(image) == image.info["transparency"]).all())
    return _with_alpha(image).getchannel("A").getextrema() == (0, 0)


def sixteen_bits(image: Image.Image) -> npt.NDArray[np.uint16]:
    """``(H, W)`` values from 0 (black) to 65,535, of 16 bits that Pillow also gives as 32; white where a PNG's value
    stands for transparency, unless it is everywhere."""
    values = unsigned(np.asarray(image))
    if has_transparency(image):
        clear = values == image.info["transparency"]
        if not clear.all():
            values[clear] = 65_535
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
    return 65_535 - values if white_is_zero else values


def unsigned(values: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint16]:
    """Values of any integer type as 16 unsigned bits. Raises ``UnreadableImage`` if they do not fit."""
    if values.min(initial=0) < 0:
        raise UnreadableImage(_NEGATIVE)
    if values.max(initial=0) > 65_535:
        raise UnreadableImage("its pixels have more than 16 bits; store 8 or 16 bits")
    return values.astype(np.uint16)


def eight_bits(values: npt.NDArray[np.uint16]) -> Pixels:
    """The full range of 16 bits as that of 8, rounded to the nearest."""
    return ((values.astype(np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8)
