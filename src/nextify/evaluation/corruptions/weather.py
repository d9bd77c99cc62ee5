"""Snow, frost and fog. Brightness, the fourth of the paper's weather group, is in ``digital.py``."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from nextify.evaluation.corruptions import filters
from nextify.evaluation.corruptions.blur import along_line
from nextify.evaluation.corruptions.draws import Draws
from nextify.evaluation.corruptions.filters import Floats, Pixels

GRAY = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue (ITU-R BT.601), as OpenCV's."""
FROST_PICTURES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""The reference's pictures; it has a sixth that it never draws."""
FROST_SIDE = 720
"""Side of a generated frost texture in pixels before it is scaled."""


def snow(
    image: Pixels,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    kept: float,
    draws: Draws,
) -> Pixels:
    """Add flakes (enlarged noise above a threshold, blurred along the wind), also rotated by 180°, and whiten the rest.

    Args:
        mean, deviation: of the noise, white being 1.
        zoom: how much a flake is enlarged.
        threshold: below it there is no flake.
        radius, sigma: of the motion blur.
        kept: weight of the original image against the whitened one.
    """
    height, width = image.shape[:2]
    _, rows, tall, top = filters.zoom_lines(height, zoom)
    _, columns, wide, left = filters.zoom_lines(width, zoom)
    layer = draws.normal(1, rows, columns)
    layer *= np.float32(255 * deviation)
    layer += np.float32(255 * mean)
    layer = filters.enlarged(layer, tall, wide)[:, top : top + height, left : left + width]
    layer[layer < np.float32(255 * threshold)] = 0
    drifting = along_line(filters.levels(layer).astype(np.float32), radius, sigma, draws.number(-135, -45))
    flakes = filters.levels(drifting, added=0.5)[0]
    values = filters.planar(image)
    gray: Floats = np.tensordot(GRAY, values, 1).astype(np.float32, copy=False)  # (H, W)
    gray *= np.float32(1.5)
    gray += np.float32(127.5)
    pale = np.maximum(values, gray)
    pale *= np.float32(1 - kept)
    values *= np.float32(kept)
    values += pale
    values += flakes.astype(np.float32) + flakes[::-1, ::-1]
    return filters.interleaved(values)


def fog(image: Pixels, amount: float, decay: float, draws: Draws) -> Pixels:
    """Add ``amount`` times a plasma fractal, then scale so that the image keeps its maximum."""
    height, width = image.shape[:2]
    side = 1 << (max(height, width) - 1).bit_length()
    highest = int(image.max()) / 255
    values = (plasma(side, decay, draws)[:height, :width, None] * np.float32(255 * amount)) + image
    values *= np.float32(highest / (highest + amount))
    return filters.levels(values)


def plasma(side: int, decay: float, draws: Draws) -> Floats:
    """``(side, side)`` of 0 to 1 by diamonds and squares on a torus; ``side`` is a power of two.

    Each new point is the mean of four neighbours and a uniform number whose range is the square of a size that starts
    at 100 and is divided by ``decay`` from one grid to the next (squared as the reference multiplies it in twice).
    """
    heights = np.zeros((side, side), np.float32)
    step, size = side, 100.0
    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        count = side // step

        def midpoint(total: Floats, size: float = size, count: int = count) -> Floats:
            return total * np.float32(0.25) + draws.uniform(-size * size, size * size, count, count)

        across: Floats = np.roll(corners, -1, 1)
        below: Floats = np.roll(corners, -1, 0)
        centers = midpoint(corners + across + below + np.roll(across, -1, 0))
        heights[half::step, half::step] = centers
        heights[::step, half::step] = midpoint(corners + across + centers + np.roll(centers, 1, 0))
        heights[half::step, ::step] = midpoint(corners + below + centers + np.roll(centers, 1, 1))
        step, size = half, size / decay
    heights -= heights.min()
    heights /= heights.max()
    return heights


def frost(
    image: Pixels, kept: float, amount: float, scale: float, draws: Draws, *, pictures: Path | None = None
) -> Pixels:
    """``kept`` of the image and ``amount`` of a random crop of a frost texture that is scaled by ``scale``.
    ``pictures``: folder of the reference's pictures; None generates textures."""
    height, width = image.shape[:2]
    index = int(draws.integers(0, len(FROST_PICTURES), 1)[0])
    texture = _texture(index, scale, max(height, width), pictures)
    top = int(draws.integers(0, texture.shape[0] - height + 1, 1)[0])
    left = int(draws.integers(0, texture.shape[1] - width + 1, 1)[0])
    values = image * np.float32(kept)
    values += texture[top : top + height, left : left + width] * np.float32(amount)
    return filters.levels(values)


@lru_cache(maxsize=20)
def _texture(index: int, scale: float, least: int, pictures: Path | None) -> Pixels:
    if pictures is None:
        texture = Image.fromarray(made_frost(index))
    else:
        path = pictures / FROST_PICTURES[index]
        try:
            with Image.open(path) as file:
                texture = file.convert("RGB")
        except OSError as error:
            raise ValueError(
                f"{path} cannot be read ({error.strerror or 'no image'}): the folder of frost pictures must hold "
                f"{', '.join(FROST_PICTURES)}; leave it out for generated textures"
            ) from None
    scale = max(scale, least / min(texture.size))  # never smaller than the image
    size = (max(least, round(texture.width * scale)), max(least, round(texture.height * scale)))
    if size != texture.size:
        texture = texture.resize(size, Image.Resampling.BILINEAR)
    return np.array(texture)


@lru_cache(maxsize=5)
def made_frost(index: int, side: int = FROST_SIDE) -> Pixels:
    """``(side, side, 3)``: ice on a window, generated from noise; it is none of the published pictures.

    Crystals are cells around random points, each with fine noise along its own direction (the needles) and bright
    borders; a smooth cloud decides where the pane is covered. The ice is blue-white on dark.
    """
    from scipy.ndimage import map_coordinates
    from scipy.spatial import cKDTree

    draws = Draws(0xF205, index)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    bend = filters.gaussian(draws.uniform(-1, 1, 2, side, side), 14.0) * np.float32(900)
    points = draws.uniform(0, side, 90 + 30 * index, 2)
    distance, nearest = cKDTree(points).query(np.stack([(y + bend[0]).ravel(), (x + bend[1]).ravel()], 1), k=2)
    border = np.exp(-(distance[:, 1] - distance[:, 0]) / 7).reshape(side, side)
    angle = draws.uniform(0, np.pi, len(points))[nearest[:, 0]].reshape(side, side)
    along, aside = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    needles: npt.NDArray[np.float64] = np.zeros((side, side))
    for width, weight in ((1.3, 0.35), (3.0, 0.4), (7.0, 0.25)):
        noise = draws.normal(512, 512)
        needles += weight * map_coordinates(noise, [along / (12 * width), aside / width], order=1, mode="grid-wrap")
    cloud = plasma(1024, 1.9, draws)[:side, :side]
    cloud = filters.gaussian(cloud[None], 3.0)[0]
    cloud = np.clip((cloud - np.quantile(cloud, 0.15)) / (np.quantile(cloud, 0.9) - np.quantile(cloud, 0.15)), 0, 1)
    ice = np.clip(0.12 + cloud * (0.42 + 0.42 * needles + 0.5 * border), 0, 1)[..., None]
    dark, bright = np.array([18, 30, 48]), np.array([226, 238, 250])
    return filters.levels((dark + (bright - dark) * ice).astype(np.float32))
