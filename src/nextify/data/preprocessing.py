"""One image to a network's input, by settings stored with the weights: the only way from pixels to a tensor.

Training's test images, ``evaluate``, ``predict`` and ``loaded.preprocessing`` all read an image by the rules of
``decode.py``, resize it with Pillow (antialiased, on 8-bit pixels), crop the centre and normalize, so they give the
same values bit for bit. Resize and crop are torchvision's for PIL images, which timm and the official code
evaluate with; ``foreign.py`` shows where other libraries differ.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from operator import index
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from nextify.data.bands import LARGEST, Bands, can_normalize, checked, of_memory
from nextify.data.decode import Pixels, UnreadableImage, from_memory
from nextify.system.text import shortened

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LARGEST_SIDE = 4096
"""Pixels of a network's input: more is a damaged file or a mistake, and would fill the memory."""
BATCH_PIXELS = 2**26
"""Pixels of all images of a batch, 256 images of 512×512."""
_PLAIN_UP_TO = 2**26
"""Pixels of a resized image up to which the whole of it is made where antialiasing is off."""
_FILTER_REACH = 3
"""Pixels to each side of which the widest filter (Lanczos) makes a pixel, in the coarser of the two images."""
_ADDED_UP_TO = 2**22
"""Pixels of a resized side up to which the nearest ones are found as Pillow does."""
WHOLE_UP_TO = 2**22
"""Pixels of a resized image beyond which only its crop is made, so that long, thin images need little memory."""


def _whole(value: object) -> int:
    """A whole number as it was given. Raises ``TypeError`` for texts, fractions and truth values."""
    if isinstance(value, bool):
        raise TypeError("a truth value")
    return index(value)  # type: ignore[arg-type]


def _sides(value: Any) -> tuple[int, int]:
    height, width = map(_whole, (value, value) if isinstance(value, int) else value)
    return height, width


def _number(value: object) -> float:
    """A number as it was given. Raises ``TypeError`` for texts and truth values."""
    if isinstance(value, bool | str):
        raise TypeError("no number")
    return float(value)  # type: ignore[arg-type]


class PreprocessingError(ValueError):
    """Settings that prepare no image, or that a library has no name for; the message names the remedy."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input. The defaults are the official ConvNeXt's at 224 pixels."""

    size: tuple[int, int] = (224, 224)
    """Height and width of the network's input."""
    resize_size: int = 256
    """Pixels of the short side before the crop (``fit="crop"``); ``size / resize_size`` is the crop ratio."""
    fit: Literal["crop", "squash"] = "crop"
    """``crop``: resize the short side, crop the center; ``squash``: resize both sides to ``size``, as at 384 pixels."""
    interpolation: Interpolation = "bicubic"
    antialias: bool = True
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Of pixels from 0 to 1, or of the numbers of N channels; one number makes the images grayscale."""
    std: tuple[float, ...] = IMAGENET_STD
    bands: Bands | None = None
    """The file's bands that are the three channels, counted from 1 (``--channels``), or how many there are, where all
    of them are channels; None reads colours as usual."""

    def __post_init__(self) -> None:
        self._convert("size", _sides, "two whole numbers of pixels")
        self._convert("resize_size", _whole, "a whole number of pixels")
        try:
            object.__setattr__(self, "bands", None if self.bands is None else checked(self.bands))
        except ValueError as error:
            raise PreprocessingError(f"bands: {error}") from None
        for name in ("mean", "std"):
            self._convert(name, lambda values: tuple(map(_number, values)), "1 or 3 numbers")
        if not isinstance(self.antialias, bool | np.bool_):
            raise PreprocessingError(f"antialias must be true or false, got {shortened(self.antialias)}")
        if min(self.size) < 1 or self.resize_size < 1:
            raise PreprocessingError(f"size and resize_size must be 1 or more, got {self.size} and {self.resize_size}")
        if max(self.size) > LARGEST_SIDE or self.resize_size > 16 * LARGEST_SIDE:
            raise PreprocessingError(
                f"size may be at most {LARGEST_SIDE:,} pixels a side and resize_size at most {16 * LARGEST_SIDE:,}; "
                f"got {shortened(self.size)} and "
                f"{shortened(self.resize_size)}"
            )
        if self.fit not in ("crop", "squash"):
            raise PreprocessingError(f"fit must be crop or squash, got {self.fit!r}")
        if self.interpolation not in ("nearest", "bilinear", "bicubic", "lanczos"):
            raise PreprocessingError(
                f"interpolation must be nearest, bilinear, bicubic or lanczos, got {self.interpolation!r}"
            )
        if self.interpolation == "lanczos" and not self.antialias:
            raise PreprocessingError("lanczos is always antialiased: set antialias to true")
        if isinstance(self.bands, int) and not self.antialias:
            raise PreprocessingError(f"images of {self.bands} channels are always antialiased: set antialias to true")
        counts = (self.bands,) if isinstance(self.bands, int) else (1, 3)
        if (
            len(self.mean) != len(self.std)
            or len(self.mean) not in counts
            or not all(map(can_normalize, self.mean, self.std))
        ):
            raise PreprocessingError(
                f"mean and std need {' or '.join(map(str, counts))} numbers each, mean up to {LARGEST:g} and std "
                f"from {1 / LARGEST:g} to {LARGEST:g}; got {shortened(self.mean)} and {shortened(self.std)}"
            )

    def _convert(self, name: str, convert: Callable[[Any], object], wanted: str) -> None:
        given = getattr(self, name)
        try:
            object.__setattr__(self, name, convert(given))
        except (TypeError, ValueError, OverflowError):
            raise PreprocessingError(f"{name} must be {wanted}, got {shortened(given)}") from None

    @classmethod
    def from_crop_ratio(cls, size: int | tuple[int, int], crop_ratio: float, **settings: Any) -> Self:
        """Settings given by a crop ratio: the short side is resized to ``floor(size / crop_ratio)``, as in timm."""
        sides = (size, size) if isinstance(size, int) else size
        return cls(size=sides, resize_size=int(min(sides) / crop_ratio), **settings)

    @property
    def crop_ratio(self) -> float:
        """The ratio that ``from_crop_ratio`` makes ``resize_size`` of."""
        ratio = min(self.size) / self.resize_size
        # 192 / (192 / 225) is a little below 225, and would be floored to 224.
        return ratio if int(min(self.size) / ratio) == self.resize_size else math.nextafter(ratio, 0)

    def to_dict(self) -> dict[str, object]:
        """As JSON has them; without ``bands`` where none are chosen."""
        return {name: value for name, value in asdict(self).items() if name != "bands" or value is not None}

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what the network sees of an upright image, in its pixels."""
        if self.fit == "squash":
            return 0.0, 0.0, float(width), float(height)
        across, down, left, top = self._placed(width, height)
        x, y = width / across, height / down
        right, bottom = min(across, left + self.size[1]), min(down, top + self.size[0])
        return max(0, left) * x, max(0, top) * y, right * x, bottom * y

    def filled(self, width: int, height: int) -> tuple[slice, slice]:
        """Rows and columns of the network's input that show an upright image; around them it is padded."""
        if self.fit == "squash":
            return slice(0, self.size[0]), slice(0, self.size[1])
        across, down, left, top = self._placed(width, height)
        return (
            slice(max(0, -top), min(self.size[0], down - top)),
            slice(max(0, -left), min(self.size[1], across - left)),
        )

    def batch_size(self, most: int) -> int:
        """How many images to put through a network at once: ``most``, or fewer if they are large."""
        return max(1, min(most, BATCH_PIXELS // (self.size[0] * self.size[1])))

    @property
    def channels(self) -> int:
        return len(self.mean)

    def __call__(self, image: Image.Image | Pixels) -> Tensor:
        """Prepare one image: float32 ``(channels, height, width)``.

        Args:
            image: a PIL image of any mode, as ``Image.open`` gives it, or a uint8 array of ``(H, W, 3)`` or ``(H, W)``;
                for N channels also one of uint16 or float32 of ``(H, W, N)``.

        Raises:
            TypeError: anything else.
            UnreadableImage: a PIL image whose file is damaged, or whose pixels have no agreed range; an image that
                lacks one of ``bands``.
        """
        return normalized(self.pixels(image)[None], torch.device("cpu"), self.mean, self.std)[0].contiguous()

    def pixels(self, image: Image.Image | Pixels) -> Tensor:
        """The same image before normalization: uint8 ``(height, width, channels)``, or float32 of N channels."""
        return torch.from_numpy(
            self.resized(from_memory(image) if self.bands is None else of_memory(image, self.bands))
        )

    def batch(self, images: Sequence[Image.Image | Pixels] | Pixels) -> Tensor:
        """Images of any sizes to ``(N, channels, height, width)``. Raises ``PreprocessingError`` for a single image,
        whose rows would pass for grayscale images."""
        if isinstance(images, np.ndarray) and images.ndim != 4:
            raise PreprocessingError(
                f"images must be a list or an array of shape (N, H, W, 3), got an array of shape {images.shape}"
            )
        return torch.stack([self(image) for image in images])

    def resized(self, pixels: Pixels) -> Pixels:
        """Resize and crop ``(H, W, 3)`` uint8 RGB to ``(height, width, channels)``; float32 channel by channel."""
        height, width = self.size
        numbers = pixels.dtype == np.float32
        kept = self.fit == "squash" or self.resize_size == min(self.size)
        if pixels.shape[:2] == self.size and (self.channels == 3 or numbers) and kept:
            return pixels if pixels.flags.c_contiguous and pixels.flags.writeable else pixels.copy()
        if numbers:
            planes = (Image.fromarray(np.ascontiguousarray(pixels[..., i])) for i in range(pixels.shape[2]))
            return np.stack([np.asarray(self._fitted(plane)) for plane in planes], axis=-1)
        image = Image.frombuffer("RGB", (pixels.shape[1], pixels.shape[0]), pixels.tobytes(), "raw", "RGB", 0, 1)
        if self.channels == 1:
            image = image.convert("L")
        image = self._fitted(image)
        return np.frombuffer(bytearray(image.tobytes()), np.uint8).reshape(height, width, self.channels)

    def _fitted(self, image: Image.Image) -> Image.Image:
        """Resized and cropped."""
        height, width = self.size
        if not self.antialias:
            image = _without_antialias(image, self)
        elif self.fit == "squash":
            image = image.resize((width, height), _filter(self.interpolation))
        else:
            across, down, left, top = self._placed(*image.size)
            if across * down > WHOLE_UP_TO:
                image, left, top = self._part(image, across, down, left, top)
            else:
                image = image.resize((across, down), _filter(self.interpolation))
            image = image.crop((left, top, left + width, top + height))
        return image

    def _part(self, image: Image.Image, across: int, down: int, left: int, top: int) -> tuple[Image.Image, int, int]:
        """What a crop at (left, top) needs of the image resized to ``across`` by ``down``, and where it then lies.

        The image itself is cut first, since Pillow rounds the box it resizes to single precision.
        """
        kept, cut, nearest = [], [], []
        for start, size, resized, full in (
            (left, self.size[1], across, image.width),
            (top, self.size[0], down, image.height),
        ):
            first, last = max(0, start), min(start + size, resized)
            if self.interpolation == "nearest":
                nearest.append(_nearest(full, resized, first, last))
                continue
            scale = full / resized  # original pixels per resized one
            beside = _FILTER_REACH * max(1.0, scale) + 1
            low, high = max(0, int(first * scale - beside)), min(full, math.ceil(last * scale + beside))
            cut.append((low, high))
            kept.append((first, last - first, first * scale - low, last * scale - low))
        if nearest:
            columns, rows = nearest
            pixels = np.asarray(image)[np.ix_(rows, columns)]
            return Image.fromarray(pixels), left - max(0, left), top - max(0, top)
        (x, width, *from_to_x), (y, height, *from_to_y) = kept
        image = image.crop((cut[0][0], cut[1][0], cut[0][1], cut[1][1]))
        box = (from_to_x[0], from_to_y[0], from_to_x[1], from_to_y[1])
        return image.resize((width, height), _filter(self.interpolation), box), left - x, top - y

    def _placed(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Width and height of the resized image, and the left and top of the crop in it."""
        across, down = self._resized_size(width, height)
        return across, down, _start(across, self.size[1]), _start(down, self.size[0])

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height once the short side is ``resize_size``, rounded as in torchvision."""
        long = int(self.resize_size * max(width, height) / min(width, height))
        return (self.resize_size, long) if width <= height else (long, self.resize_size)


OFFICIAL = Preprocessing()


def interpolated(
    pixels: Pixels, size: tuple[int, int], mode: Literal["bilinear", "bicubic"], mirrored: bool = False
) -> Pixels:
    """``(H, W, C)`` at ``size`` (height, width), by torch's antialiased filters: on uint8, Pillow's to within two
    levels of 255. May be the array that was given."""
    same = pixels.shape[:2] == size
    if same and not mirrored:
        return pixels
    # torch takes its fast kernel only for channels-last tensors: contiguous (H, W, C), with the batch axis added first.
    # It warns of read-only arrays.
    as_is = pixels.flags.c_contiguous and pixels.flags.writeable
    x = torch.from_numpy(pixels if as_is else pixels.copy())[None].permute(0, 3, 1, 2)  # (1, C, H, W)
    x = x if same else interpolate(x, size, mode=mode, antialias=True)
    return (x.flip(3) if mirrored else x)[0].permute(1, 2, 0).numpy()


def normalized(pixels: Tensor, device: torch.device, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """float32 ``(B, C, H, W)`` in channels-last memory of ``pixels (B, H, W, C)``; ``mean`` and ``std`` are of pixels
    from 0 to 1 where these are uint8, and of the numbers themselves where they are float32."""
    batch, height, width, channels = pixels.shape
    numbers = pixels.dtype == torch.float32  # which may be the data set's own memory
    scale, shift = _scale_and_shift(mean, std, width, device, 1 if numbers else 255)
    x = pixels.to(device, non_blocking=True).to(torch.float32, copy=numbers)
    # By rows of the image, since arithmetic on a last axis of three is slow.
    x.view(batch, height, width * channels).mul_(scale).add_(shift)
    return x.permute(0, 3, 1, 2)


@lru_cache(maxsize=16)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device, most: int
) -> tuple[Tensor, Tensor]:
    m, s = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    return (1 / (most * s)).float().repeat(width).to(device), (-m / s).float().repeat(width).to(device)


def _nearest(full: int, resized: int, first: int, last: int) -> npt.NDArray[np.int64]:
    """Which of ``full`` pixels Pillow's nearest filter takes for ``first`` to ``last`` of ``resized``.

    Pillow adds the step up pixel by pixel, which decides ties; beyond ``_ADDED_UP_TO`` they may fall to the neighbour.
    """
    step = full / resized
    if last > _ADDED_UP_TO:
        places = (np.arange(first, last) + 0.5) * step
    else:
        places = np.add.accumulate(np.r_[step / 2, np.full(last - 1, step)])[first:]
    return np.minimum(places.astype(np.int64), full - 1)


def _filter(interpolation: Interpolation) -> Image.Resampling:
    return Image.Resampling[interpolation.upper()]


def _start(length: int, kept: int) -> int:
    """Where a central crop begins, as in torchvision: half a pixel rounds to even; below 0 it is padded with black."""
    return round((length - kept) / 2) if length >= kept else -((kept - length) // 2)


def _without_antialias(image: Image.Image, settings: Preprocessing) -> Image.Image:
    """Resize and crop by torchvision's tensors: Pillow always antialiases."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as tv

    across, down = settings._resized_size(*image.size)
    if settings.fit == "crop" and across * down > _PLAIN_UP_TO:
        raise UnreadableImage(f"{image.width}×{image.height} is too long and thin to resize without antialiasing")
    size = list(settings.size) if settings.fit == "squash" else [settings.resize_size]
    mode = InterpolationMode(settings.interpolation)
    pixels = tv.resize(tv.pil_to_tensor(image), size, interpolation=mode, antialias=False)
    if settings.fit == "crop":
        pixels = tv.center_crop(pixels, list(settings.size))
    out: Image.Image = tv.to_pil_image(pixels)
    return out
