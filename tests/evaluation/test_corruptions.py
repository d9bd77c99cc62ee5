"""The 15 corruptions against slow implementations of the published definitions, written here and nowhere else used.

What is drawn at random is given to both (same key, same order), so that pixels can be compared; noise is compared with
its distribution. Definitions: Hendrycks and Dietterich 2019, reference code of imagenet_c.
"""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image
from scipy import fft, ndimage, stats

from nextify.evaluation.corruption_names import CORRUPTIONS, GROUPS, SEVERITIES
from nextify.evaluation.corruptions import blur, corrupt, digital, noise, published_size, weather
from nextify.evaluation.corruptions.constants import CONSTANTS
from nextify.evaluation.corruptions.draws import Draws

KEY = (11, 7)


def photo(height: int = 96, width: int = 96, seed: int = 0) -> np.ndarray:
    """Something with edges, gradients, texture, and black and white in it."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    image = np.stack([x, y, 1 - x * y], -1) * 200
    for _ in range(12):
        top, left, size = random.uniform(0, 1, 3)
        image[(np.abs(y - top) < size / 5) & (np.abs(x - left) < size / 4)] = random.uniform(0, 255, 3)
    image += ndimage.gaussian_filter(random.normal(0, 60, image.shape), (1, 1, 0))
    image[:3, :3], image[-3:, -3:] = 0, 255
    return np.clip(image, 0, 255).astype(np.uint8)


def agree(ours: np.ndarray, theirs: np.ndarray, off: float = 0.005) -> None:
    """Nowhere more than one level apart, and at most a share of ``off`` of the values apart at all."""
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= off


def cut(values: np.ndarray) -> np.ndarray:
    """Values of 0 to 1 as the reference makes levels of them."""
    return np.uint8(np.clip(values, 0, 1) * 255 + 1e-4)


# -- all of them ---------------------------------------------------------------------------------------------------


def test_there_are_15_in_the_papers_order():
    assert len(CORRUPTIONS) == 15
    assert [len(group) for group in GROUPS.values()] == [3, 4, 4, 4]
    for table in CONSTANTS.values():
        assert tuple(table) == CORRUPTIONS
        assert all(len(strengths) == 5 for strengths in table.values())


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (61, 97), (8, 8), (130, 224)])
def test_any_size_is_kept_and_the_image_is_left_alone(name, shape):
    image = photo(*shape)
    before = image.copy()
    for severity in (1, 3, 5):
        found = corrupt(image, name, severity, seed=3)
        assert found.shape == image.shape
        assert found.dtype == np.uint8
        assert found.flags.c_contiguous
        assert found.flags.writeable
        assert not np.shares_memory(found, image)
    assert (image == before).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_function_of_image_severity_and_seed(name):
    image = photo()
    first = corrupt(image, name, 3, seed=5)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert (corrupt(image.copy(), name, 3, seed=5) == first).all()
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    drawn = name not in (
        "defocus_blur",
        "zoom_blur",
        "brightness",
        "contrast",
        "pixelate",
        "jpeg_compression",
    )
    assert (corrupt(image, name, 3, seed=6) != first).any() == drawn
    assert (corrupt(image, name, 5, seed=5) != first).any()


DECIDED_BY_CHANCE = ("motion_blur", "snow", "frost", "fog", "glass_blur")
"""What is drawn, or two strengths that trade places in the published table, decides between neighbours."""
GROWING = [name for name in CORRUPTIONS if name not in DECIDED_BY_CHANCE and name != "elastic_transform"]


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("name", GROWING)
def test_each_severity_changes_more(name, size):
    image = photo(size, size)
    changes = [np.abs(corrupt(image, name, s, seed=1).astype(int) - image).mean() for s in SEVERITIES]
    assert changes == sorted(changes)
    assert changes[0] > 0


@pytest.mark.parametrize("name", DECIDED_BY_CHANCE)
def test_the_worst_severity_changes_more_than_the_least(name):
    for size in (32, 224):
        image = photo(size, size)
        change = {
            s: np.mean([np.abs(corrupt(image, name, s, seed=i).astype(int) - image).mean() for i in range(8)])
            for s in (1, 5)
        }
        assert change[5] > change[1]


def test_strengths_are_those_of_the_nearest_published_size():
    sizes = {8: 32, 32: 32, 44: 32, 48: 64, 64: 64, 96: 64, 128: 224, 224: 224, 512: 224}
    assert {side: published_size(side, 3 * side) for side in sizes} == sizes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((photo(), "rain", 1), "no corruption is called 'rain'; there are gaussian_noise"),
        ((photo(), "fog", 0), "severity must be 1 to 5, got 0"),
        ((photo().astype(np.float32), "fog", 1), "uint8"),
        ((photo()[..., 0], "fog", 1), "H, W, 3"),
        ((photo(7, 20), "fog", 1), "8 pixels or more"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        corrupt(*arguments)


# -- draws ---------------------------------------------------------------------------------------------------------


def test_draws_are_the_same_everywhere():
    """Fixed numbers: NumPy promises a bit generator's words for ever."""
    assert Draws(1, 2, 3).bits(5).tolist() == BITS
    assert Draws(1, 2, 3).integers(-4, 4, 6).tolist() == [(b * 8 >> 16) - 4 for b in Draws(1, 2, 3).bits(6).tolist()]


BITS = [47504, 63177, 4600, 43940, 9467]


def test_draws_have_their_distributions():
    draws = Draws(5)
    assert stats.kstest(draws.uniform(-2, 5, 20_000), stats.uniform(-2, 7).cdf).pvalue > 0.01
    normal = draws.normal(300, 300).ravel()
    assert stats.kstest(normal, stats.norm.cdf).pvalue > 0.01
    assert abs(normal.var() - 1) < 0.02
    counts = np.bincount(draws.integers(-3, 3, 60_000) + 3, minlength=6)
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 0.01


# -- noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", CONSTANTS[224]["gaussian_noise"])
def test_gaussian_noise_is_normal_and_clipped(scale):
    gray = np.full((200, 200, 3), 128, np.uint8)
    found = noise.gaussian_noise(gray, scale, Draws(*KEY)).ravel()
    # The probability of each level: where the noisy value lies in [level, level + 1), the ends open.
    edges = np.concatenate([[-np.inf], np.arange(1, 256), [np.inf]])
    expected = np.diff(stats.norm(128, 255 * scale).cdf(edges)) * found.size
    counts = np.bincount(found, minlength=256)
    enough = expected > 20
    assert (
        stats.chisquare(counts[enough], expected[enough] * counts[enough].sum() / expected[enough].sum()).pvalue > 0.01
    )


@pytest.mark.parametrize("photons", [*CONSTANTS[224]["shot_noise"], 500])
@pytest.mark.parametrize("level", [0, 1, 40, 128, 255])
def test_shot_noise_is_a_poisson_count(photons, level):
    found = noise.shot_noise(np.full((150, 150, 3), level, np.uint8), photons, Draws(*KEY)).ravel()
    counts = np.arange(4 * photons + 40)
    expected = np.zeros(256)
    levels = np.uint8(np.clip(counts / photons, 0, 1) * 255)
    np.add.at(expected, levels, stats.poisson(level / 255 * photons).pmf(counts) * found.size)
    seen = np.bincount(found, minlength=256)
    assert seen[expected < 1e-3].sum() == 0
    enough = expected > 20
    if enough.sum() > 1:
        rest = expected[enough] * seen[enough].sum() / expected[enough].sum()
        assert stats.chisquare(seen[enough], rest).pvalue > 0.001
    else:
        assert seen[enough] == found.size


@pytest.mark.parametrize("amount", CONSTANTS[224]["impulse_noise"])
def test_impulse_noise_is_salt_and_pepper_of_single_values(amount):
    found = noise.impulse_noise(np.full((200, 200, 3), 100, np.uint8), amount, Draws(*KEY))
    assert set(np.unique(found)) == {0, 100, 255}
    for value in (0, 255):
        assert stats.binomtest(int((found == value).sum()), found.size, amount / 2).pvalue > 0.01
    assert (found == 0).any(-1).sum() > (found == 0).all(-1).sum()  # channels on their own


# -- blur ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_blur_is_a_softened_disk(size, severity):
    radius, alias = CONSTANTS[size]["defocus_blur"][severity - 1]
    reach, taps = (8, 3) if radius <= 8 else (radius, 5)
    kernel = np.array(
        [[float(x * x + y * y <= radius**2) for x in range(-reach, reach + 1)] for y in range(-reach, reach + 1)]
    )
    kernel /= kernel.sum()
    line = np.exp(-((np.arange(taps) - taps // 2) ** 2) / (2 * alias**2))
    kernel = ndimage.correlate(kernel, np.outer(line, line) / line.sum() ** 2, mode="mirror")
    image = photo(48, 64)
    theirs = np.stack([ndimage.correlate(image[..., c] / 255, kernel, mode="mirror") for c in range(3)], -1)
    agree(blur.defocus_blur(image, radius, alias, Draws(*KEY)), cut(theirs), off=0.03)


@pytest.mark.parametrize("reach", [1, 2, 3, 4])
def test_a_round_of_glass_is_the_loop_over_pixels(reach):
    height, width = 33, 41
    there = np.arange(height * width).reshape(height, width, 1).repeat(3, -1)
    draws = Draws(*KEY)
    visited = [(h, w) for h in range(reach + 1, height - reach + 1) for w in range(reach + 1, width - reach + 1)]
    down, right = draws.integers(-reach, reach, len(visited)), draws.integers(-reach, reach, len(visited))
    for (h, w), dy, dx in reversed(list(zip(visited, down, right, strict=True))):
        # the reference's line, which copies, as its right side is two views
        there[h, w], there[h + dy, w + dx] = there[h + dy, w + dx], there[h, w]
    assert (blur.moved(height, width, reach, Draws(*KEY)) == there[..., 0].ravel()).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_blur_is_blur_moves_blur(severity):
    sigma, reach, rounds = CONSTANTS[224]["glass_blur"][severity - 1]
    image = photo(50, 60)

    def smooth(values):
        return ndimage.gaussian_filter(values / 255, (sigma, sigma, 0), mode="nearest", truncate=4)

    theirs = cut(smooth(image))
    draws = Draws(*KEY)
    for _ in range(rounds):
        theirs = theirs.reshape(-1, 3)[blur.moved(50, 60, reach, draws)].reshape(50, 60, 3)
    ours = blur.glass_blur(image, sigma, reach, rounds, Draws(*KEY))
    agree(ours, cut(smooth(theirs)), off=0.02)


@pytest.mark.parametrize("degrees", [-135, -90, -45, -17.3, 0, 30, 45])
@pytest.mark.parametrize(("radius", "sigma"), [(6, 1), (10, 3), (20, 15)])
def test_motion_blur_is_half_a_gaussian_along_a_line(degrees, radius, sigma):
    image = photo(30, 37).astype(float)
    steps = range(2 * radius + 1)
    weights = [math.exp(-i * i / (2 * sigma**2)) for i in steps]
    theirs = np.zeros_like(image)
    rows, columns = np.mgrid[:30, :37]
    for i, weight in zip(steps, weights, strict=True):
        x = math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        y = math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        theirs += weight / sum(weights) * image[np.clip(rows + y, 0, 29), np.clip(columns + x, 0, 36)]
    ours = blur.along_line(image.transpose(2, 0, 1).astype(np.float32), radius, sigma, degrees)
    np.testing.assert_allclose(ours.transpose(1, 2, 0), theirs, atol=2e-3)


def zoomed(image, factor):
    """The reference's crop, zoom and trim, for each side on its own."""
    crop = [math.ceil(n / factor) for n in image.shape[:2]]
    top, left = ((n - c) // 2 for n, c in zip(image.shape[:2], crop, strict=True))
    inner = image[top : top + crop[0], left : left + crop[1]]
    large = ndimage.zoom(inner, (factor, factor) + (1,) * (image.ndim - 2), order=1)
    top, left = ((a - b) // 2 for a, b in zip(large.shape[:2], image.shape[:2], strict=True))
    return large[top : top + image.shape[0], left : left + image.shape[1]]


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("shape", [(32, 32), (64, 80)])
def test_zoom_blur_is_a_mean_of_enlargements(severity, shape):
    stop, step = CONSTANTS[224]["zoom_blur"][severity - 1]
    image = photo(*shape)
    factors = np.arange(1, stop, step)
    theirs = (image / 255 + sum(zoomed(image / 255, factor) for factor in factors)) / (len(factors) + 1)
    agree(blur.zoom_blur(image, stop, step, Draws(*KEY)), cut(theirs))
    one_by_one = blur.zoomed_one_by_one(image.transpose(2, 0, 1).astype(np.float32), stop, step).transpose(1, 2, 0)
    np.testing.assert_allclose(one_by_one, theirs * 255, atol=0.02)


# -- weather -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("severity", SEVERITIES)
def test_snow_is_enlarged_thresholded_blurred_noise(severity):
    mean, deviation, zoom, threshold, radius, sigma, kept = CONSTANTS[224]["snow"][severity - 1]
    image = photo(60, 60)
    draws = Draws(*KEY)
    count = math.ceil(60 / zoom)
    first = (60 - count) // 2
    layer = np.zeros((60, 60))
    layer[first : first + count, first : first + count] = draws.normal(1, count, count)[0] * deviation + mean
    layer = zoomed(layer, zoom)
    layer[layer < threshold] = 0
    layer = cut(layer).astype(np.float32)
    flakes = np.rint(blur.along_line(layer[None], radius, sigma, draws.number(-135, -45))[0])[..., None] / 255
    x = image / 255
    gray = (x @ [0.299, 0.587, 0.114])[..., None]
    x = kept * x + (1 - kept) * np.maximum(x, gray * 1.5 + 0.5)
    ours = weather.snow(image, mean, deviation, zoom, threshold, radius, sigma, kept, Draws(*KEY))
    agree(ours, cut(x + flakes + np.rot90(flakes, 2)), off=0.02)


def test_frost_mixes_in_a_picture(tmp_path):
    colors = [(10 * i + 30, 100, 200 - 10 * i) for i in range(5)]
    for name, color in zip(weather.FROST_PICTURES, colors, strict=True):
        Image.new("RGB", (300, 260), color).save(tmp_path / name, quality=100, subsampling=0)
    image = photo(64, 64)
    for size in (32, 64, 224):
        for kept, amount, scale in CONSTANTS[size]["frost"]:
            draws = Draws(*KEY)
            color = np.array(colors[int(draws.integers(0, 5, 1)[0])])
            ours = weather.frost(image, kept, amount, scale, Draws(*KEY), pictures=tmp_path)
            difference = np.abs(ours - np.clip(kept * image + amount * color, 0, 255))
            assert difference.max() < 2.6  # the last two are JPEG files
    (tmp_path / "frost1.png").unlink()
    first = next(seed for seed in range(99) if not Draws(seed, CORRUPTIONS.index("frost"), 1).integers(0, 5, 1)[0])
    with pytest.raises(ValueError, match=r"frost1\.png cannot be read .*must hold frost1"):
        corrupt(photo(50, 50), "frost", 1, first, frost_pictures=tmp_path)


def test_made_frost_differs_from_picture_to_picture():
    means = []
    for index in range(5):
        texture = weather.made_frost(index)
        assert texture.shape == (720, 720, 3)
        means.append(texture.mean())
        assert texture.std() > 25
        assert texture[..., 2].mean() > texture[..., 0].mean()  # blue rather than red
    assert len(set(means)) == 5


def test_plasma_is_diamonds_and_squares():
    side, decay = 16, 1.7
    heights = np.zeros((side, side))
    draws = Draws(*KEY)
    step, size = side, 100.0
    while step >= 2:
        half = step // 2
        places = [(y, x) for y in range(0, side, step) for x in range(0, side, step)]

        def drawn(size=size, places=places):
            return draws.uniform(-size * size, size * size, len(places))

        def at(y, x):
            return heights[y % side, x % side]

        for (y, x), wobble in zip(places, drawn(), strict=True):
            mean = (at(y, x) + at(y + step, x) + at(y, x + step) + at(y + step, x + step)) / 4
            heights[y + half, x + half] = mean + wobble
        for (y, x), wobble in zip(places, drawn(), strict=True):
            mean = (at(y, x) + at(y, x + step) + at(y + half, x + half) + at(y - half, x + half)) / 4
            heights[y, x + half] = mean + wobble
        for (y, x), wobble in zip(places, drawn(), strict=True):
            mean = (at(y, x) + at(y + step, x) + at(y + half, x + half) + at(y + half, x - half)) / 4
            heights[y + half, x] = mean + wobble
        step, size = half, size / decay
    heights = (heights - heights.min()) / np.ptp(heights)
    np.testing.assert_allclose(weather.plasma(side, decay, Draws(*KEY)), heights, atol=1e-5)


def test_fog_adds_plasma_and_keeps_the_maximum():
    image = photo(50, 40) // 2
    x = image / 255
    theirs = (x + 2.5 * weather.plasma(64, 1.7, Draws(*KEY))[:50, :40, None]) * x.max() / (x.max() + 2.5)
    agree(weather.fog(image, 2.5, 1.7, Draws(*KEY)), cut(theirs))
    black = np.zeros((16, 16, 3), np.uint8)
    assert not corrupt(black, "fog", 5).any()


# -- digital -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", CONSTANTS[224]["brightness"])
def test_brightness_adds_to_hsvs_value(amount):
    from matplotlib.colors import hsv_to_rgb, rgb_to_hsv

    image = photo()
    hsv = rgb_to_hsv(image / 255)
    hsv[..., 2] = np.clip(hsv[..., 2] + amount, 0, 1)
    agree(digital.brightness(image, amount, Draws(*KEY)), cut(hsv_to_rgb(hsv)))


@pytest.mark.parametrize("factor", CONSTANTS[224]["contrast"])
def test_contrast_shrinks_differences_to_the_mean(factor):
    image = photo()
    mean = (image / 255).mean((0, 1))
    agree(digital.contrast(image, factor, Draws(*KEY)), cut((image / 255 - mean) * factor + mean))


@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_transform_is_an_affine_map_and_smooth_displacements(size, severity):
    strength, sigma, reach = CONSTANTS[size]["elastic_transform"][severity - 1]
    height, width = 60, 80
    image = photo(height, width)
    draws = Draws(*KEY)
    center, third = np.array([40, 30]), 20
    before = np.array([center + third, [center[0] + third, center[1] - third], center - third])
    after = before + draws.uniform(-reach, reach, 3, 2)
    forward = np.linalg.solve(np.hstack([before, np.ones((3, 1))]), after).T  # (2, 3): x, y of the moved points
    back = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))
    y, x = np.mgrid[:height, :width]
    source = back @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    at = [source[1].reshape(x.shape), source[0].reshape(x.shape)]
    values = [ndimage.map_coordinates(image[..., c] / 255, at, order=1, mode="mirror") for c in range(3)]
    if strength:
        noise = draws.uniform(-1, 1, 2, height, width).astype(float)
        right, down = (ndimage.gaussian_filter(n, sigma, mode="reflect", truncate=3) * strength for n in noise)
        values = [ndimage.map_coordinates(v, [y + down, x + right], order=1, mode="reflect") for v in values]
    ours = digital.elastic_transform(image, strength, sigma, reach, Draws(*KEY))
    agree(ours, cut(np.stack(values, -1)), off=0.02)


def test_pixelate_averages_boxes():
    image = photo(48, 64)
    boxes = np.rint(image.reshape(12, 4, 16, 4, 3).mean((1, 3)))
    agree(digital.pixelate(image, 0.25, Draws(*KEY)), boxes.repeat(4, 0).repeat(4, 1), off=0.4)  # Pillow rounds twice


@pytest.mark.parametrize("quality", [7, 25, 80])
def test_jpeg_compression_quantizes_cosines(quality):
    """Of a grey image, which has no colours that JPEG would halve: table, transform and rounding done here."""
    gray = photo()[..., 1]
    file = io.BytesIO()
    Image.fromarray(gray).save(file, "JPEG", quality=quality)
    table = np.array(Image.open(file).quantization[0]).reshape(8, 8)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    assert table[0, 0] == (16 * scale + 50) // 100  # the standard's first entry, scaled as libjpeg scales
    assert table[7, 7] == min(255, (99 * scale + 50) // 100)
    blocks = gray.reshape(12, 8, 12, 8).transpose(0, 2, 1, 3) - 128.0
    waves = np.rint(fft.dctn(blocks, axes=(2, 3), norm="ortho") / table) * table
    theirs = fft.idctn(waves, axes=(2, 3), norm="ortho").transpose(0, 2, 1, 3).reshape(96, 96) + 128
    ours = digital.jpeg_compression(np.repeat(gray[..., None], 3, -1), quality, Draws(*KEY))
    difference = np.abs(ours - np.clip(theirs, 0, 255)[..., None])
    assert difference.mean() < 0.6
    assert np.quantile(difference, 0.99) < 8  # where a coefficient lies half-way
