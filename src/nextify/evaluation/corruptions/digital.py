"""Brightness (which the paper counts as weather), contrast, elastic transform, pixelation and JPEG compression."""

import io
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from nextify.evaluation.corruptions.draws import Draws
from nextify.evaluation.corruptions.filters import Floats, Pixels, gaussian, interleaved, levels, planar, sample


def brightness(image: Pixels, amount: float, draws: Draws) -> Pixels:
    """Raise the value of HSV; hue and saturation, and so the ratios of the channels, stay."""
    value = np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2]).astype(np.int32)  # (H, W)
    return _brighter(amount).take((value << 8)[..., None] | image)


@lru_cache(maxsize=16)
def _brighter(amount: float) -> npt.NDArray[np.uint8]:
    """``(256 · 256,)``: the new level for each value (the largest channel) and level."""
    value = np.arange(256)[:, None]
    target = np.minimum(value + 255 * amount, 255)
    level = np.arange(256)[None] * target / np.maximum(value, 1)
    level[0] = target[0]  # black has no ratios: it becomes grey
    return levels(level.astype(np.float32)).ravel()


def contrast(image: Pixels, factor: float, draws: Draws) -> Pixels:
    """Scale differences from each channel's mean by ``factor``."""
    mean = image.mean((0, 1))  # (3,)
    values = image * np.float32(factor)
    values += (mean * (1 - factor)).astype(np.float32)
    return levels(values)


def pixelate(image: Pixels, factor: float, draws: Draws) -> Pixels:
    """Shrink both sides by ``factor`` with box averaging, and enlarge again."""
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
    return np.array(small.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(image: Pixels, quality: int, draws: Draws) -> Pixels:
    """Encode as JPEG of ``quality`` (libjpeg's scale, 4:2:0 chroma) and decode again."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def elastic_transform(image: Pixels, strength: float, sigma: float, affine: float, draws: Draws) -> Pixels:
    """Apply a random affine map that moves each of three points along each axis by up to ``affine``, then ``strength``
    times random displacements that a Gaussian of ``sigma`` smooths. All arguments are in pixels."""
    height, width = image.shape[:2]
    values = _affine(planar(image), affine, draws)
    if strength:
        noise = draws.uniform(-1, 1, 2, height, width)
        right, down = gaussian(noise, sigma, mode="reflect", truncate=3.0) * np.float32(strength)
        x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        values = sample(values, x + right, y + down, "reflect")
    return interleaved(values)


def _affine(values: Floats, reach: float, draws: Draws) -> Floats:
    """The affine map that moves three corners of a centred square by up to ``reach``; the square reaches a third of the
    short side from the centre."""
    height, width = values.shape[1:]
    center, size = np.array([width // 2, height // 2]), min(height, width) // 3
    before = center + size * np.array([[1, 1], [1, -1], [-1, -1]])  # (3, 2): x, y
    after = before + draws.uniform(-reach, reach, 3, 2)
    ones = np.ones((3, 1))
    back = np.linalg.lstsq(np.hstack([after, ones]), before, rcond=None)[0].astype(np.float32)  # (3, 2)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    x_from, y_from = (x * back[0, i] + y * back[1, i] + back[2, i] for i in (0, 1))
    return sample(values, x_from, y_from, "mirror")
