"""The proof of an exported file: real images through it in its own runtime, against the bundle."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from nextify.data.decode import Pixels
from nextify.data.dense.annotations import DenseSet
from nextify.data.images import ImageSet
from nextify.data.preprocessing import Preprocessing
from nextify.deploy.runners import Exported, Precision, Run
from nextify.evaluation.runner import Floats
from nextify.system.text import printable, shortened
from nextify.tasks.multilabel_metrics import decided

BATCHES = (1, 2, 7, 64)
"""Sizes at which a file is compared; of large inputs fewer at once, see ``Preprocessing.batch_size``."""
LIMITS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.1, "int8": 1.0}
"""Largest difference of a logit, as a share of the image's largest logit; of int8, which is judged by its accuracy, of
the batch's largest."""
PREPARING_LIMIT = 0.02
"""The same where the file prepares the images: a pixel differs by one level where Pillow rounds the other way."""
_SHAPES = (None, (1.5, 2.3), (2.1, 1.2), (0.7, 0.9))
"""Height and width of the images that such a file is given at each batch size, as multiples of its input's; None leaves
them alone."""
_CALLS, _LONG = 3, 1.0
"""Timed calls of a batch, after one that is not timed; of the largest, only one if that takes so many seconds."""


class ExportFailed(ValueError):
    """A file that does not compute what the bundle does; nothing was written."""


@dataclass(frozen=True)
class Timing:
    """Median of calls in turns, milliseconds."""

    batch: int
    file: float
    bundle: float
    """In plain torch and fp32."""


@dataclass(frozen=True)
class Verification:
    """What a file was held to, and what was found."""

    data: str
    images: int
    batches: tuple[int, ...]
    largest_difference: float
    """Of a logit, as a share of the image's largest; or of a box's corner or a score, of 1."""
    limit: float
    timings: tuple[Timing, ...]


@dataclass(frozen=True)
class ClassifierVerification(Verification):
    top1_equal: float
    """Percent of the images whose highest logit is the bundle's; of several labels per image, whose labels are."""


def some_images(images: ImageSet | DenseSet, count: int = max(BATCHES)) -> list[tuple[str, Pixels]]:
    """(name, pixels) of images spread over the whole set, some more than once where it has fewer."""
    places = np.arange(count) * max(len(images), count) // count % len(images)
    return [(images.name(i), images.load(i)) for i in places.tolist()]


def verify(
    exported: Exported,
    run: Run,
    bundle: Run,
    images: Sequence[tuple[str, Pixels]],
    settings: Preprocessing,
    data: str,
    thresholds: Sequence[float] = (),
) -> ClassifierVerification:
    """Compare a file with the bundle, at every batch size and, where it takes several, at two sizes of input. Raises
    ``ExportFailed``, which names the image and by how much it differs.

    Args:
        run: the file, called with what it takes.
        bundle: the bundle in plain torch and fp32, called with normalized ``(N, C, H, W)``.
        images: names and RGB pixels of ``data``, which ``settings`` make into inputs.
        thresholds: of several labels per image: those at or above them must be the same, except where a logit is as
            near to its threshold as it may differ. Empty for one class per image, which must be the same.
    """
    limit = max(LIMITS[exported.precision], PREPARING_LIMIT if exported.with_preprocessing else 0.0)
    exact = exported.precision == "fp32"
    sides = [settings]
    if exported.size is None and not exported.with_preprocessing:
        sides.append(at_size(settings, (settings.size[0] * 5 // 4, settings.size[1] * 3 // 2)))
    worst, equal, counted, timings = 0.0, 0, 0, []
    for own in sides:
        for batch, shape in zip(dict.fromkeys(own.batch_size(batch) for batch in BATCHES), _SHAPES, strict=False):
            names, pixels = zip(*images[:batch], strict=True)
            if exported.with_preprocessing:
                pixels = tuple(_reshaped(p, shape, settings.size) for p in pixels)
            prepared = np.stack([own(p).numpy() for p in pixels])
            given = np.stack(pixels) if exported.with_preprocessing else prepared
            asked = partial(_answered, exported, run)
            found, expected, timing = in_turns(exported, asked, bundle, given, prepared)
            largest = np.abs(expected).max(1)
            if exported.precision == "int8":  # an image that is hard to tell may have no logit above its rounding
                largest[:] = largest.max()
            differences = np.abs(found - expected).max(1) / largest
            same = _same_answers(found, expected, limit, thresholds)
            bad = ~(differences <= limit) | (exact & ~same)
            if bad.any():
                i = int(np.argmax(np.where(bad, np.nan_to_num(differences, nan=np.inf), -1)))
                raise ExportFailed(
                    f"{exported.name} does not compute what the bundle does: {printable(names[i])} of {data} at batch "
                    f"{batch} differs by {differences[i]:.2g} of its largest logit (limit {limit:g}), its "
                    f"{_answers(found[i], expected[i], thresholds)}; nothing was written"
                )
            worst, equal, counted = max(worst, float(differences.max())), equal + int(same.sum()), counted + batch
            if own is settings:
                timings.append(timing)
    batches = tuple(timing.batch for timing in timings)
    return ClassifierVerification(data, len(images), batches, worst, limit, tuple(timings), 100 * equal / counted)


def in_turns(
    exported: Exported, run: Run, bundle: Run, given: npt.NDArray[Any], prepared: Floats
) -> tuple[Floats, Floats, Timing]:
    """What a file makes of ``given`` and the bundle of ``prepared``, the same batch, and how long they take in turns.
    Raises ``ExportFailed`` where the shapes differ."""
    batch, seconds = len(prepared), list[tuple[float, float]]()
    while len(seconds) <= (1 if seconds and batch == max(BATCHES) and sum(seconds[-1]) > _LONG else _CALLS):
        times = [time.perf_counter()]
        found = run(given)
        times.append(time.perf_counter())
        expected = bundle(prepared)
        times.append(time.perf_counter())
        seconds.append((times[1] - times[0], times[2] - times[1]))
    if found.shape != expected.shape:
        raise ExportFailed(f"{exported.name}: {found.shape} instead of {expected.shape} at batch {batch}")
    return found, expected, Timing(batch, *(1000 * median(t) for t in zip(*seconds[1:], strict=True)))


def _answered(exported: Exported, run: Run, given: npt.NDArray[Any]) -> Floats:
    """Raises ``ExportFailed`` where the runtime refuses the inputs."""
    try:
        return run(given)
    except Exception as error:  # of a runtime's own classes, some of which derive from nothing else
        said = printable((str(error).strip() or type(error).__name__).splitlines()[0])
        raise ExportFailed(
            f"{exported.name} fails on inputs of shape {given.shape} ({said}): give another --image-size; nothing was "
            f"written"
        ) from error


def _same_answers(found: Floats, expected: Floats, limit: float, thresholds: Sequence[float]) -> npt.NDArray[np.bool_]:
    """``(N,)``: whether the class or the labels of each row of logits are the same."""
    same: npt.NDArray[np.bool_] = found.argmax(1) == expected.argmax(1)
    if not thresholds:
        return same
    from scipy.special import logit

    with np.errstate(divide="ignore"):
        near = np.abs(expected - logit(np.array(thresholds))) <= limit * np.abs(expected).max(1, keepdims=True)
    same = ((decided(found, thresholds) == decided(expected, thresholds)) | near).all(1)
    return same


def _answers(found: Floats, expected: Floats, thresholds: Sequence[float]) -> str:
    """The class or the labels of a row of logits, beside those that they should be."""
    if not thresholds:
        return f"class is {found.argmax()} instead of {expected.argmax()}"
    one, other = (np.flatnonzero(decided(row[None], thresholds)[0]).tolist() for row in (found, expected))
    return f"labels are {shortened(one)} instead of {shortened(other)}"


def at_size(settings: Preprocessing, size: tuple[int, int]) -> Preprocessing:
    """The same settings with the same crop ratio for another size of input."""
    return replace(settings, size=size, resize_size=max(1, int(min(size) / settings.crop_ratio)))


def _reshaped(pixels: Pixels, shape: tuple[float, float] | None, size: tuple[int, int]) -> Pixels:
    if shape is None:
        return pixels
    height, width = (max(1, round(share * side)) for share, side in zip(shape, size, strict=True))
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
