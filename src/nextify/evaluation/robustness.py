"""The robustness of a bundle: its error and calibration at each corruption and severity, and its mCE.

Images are first resized and cropped as the bundle asks, then corrupted at the network's resolution, as ImageNet-C's
were. The random numbers are a function of the seed and the image, so they are the same for every network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nextify.data import DataError, Images
from nextify.data.images import ImageSet, check_images
from nextify.evaluation.answers import Confidence, Partial, Progress, Recorder, Right
from nextify.evaluation.corrupted_images import Key, Pixels, as_stored, corrupter, decoded, prepared, spread, stored
from nextify.evaluation.corruption_error import ALEXNET_CLEAN_ERROR, Point, Summary, mean_if_all, summarize
from nextify.evaluation.corruption_names import ALEXNET, CORRUPTIONS, SEVERITIES, checked
from nextify.evaluation.corruptions import SMALLEST_SIDE, published_size
from nextify.evaluation.evaluate import MatchedNetwork, Measurement, Part, measurement, part_of
from nextify.evaluation.identity import fingerprint
from nextify.evaluation.runner import load_classifier, why_not_finite
from nextify.evaluation.seen import trained_on
from nextify.system.device import torch_defaults, usable_device
from nextify.system.native import Mode
from nextify.system.text import several
from nextify.weights import Loaded, WeightsError
from nextify.weights.class_names import ClassOrder, Order, is_word

BATCH = 64


@dataclass(frozen=True)
class Robustness(Measurement):
    """A bundle's errors on clean and corrupted images."""

    size: tuple[int, int]
    """Height and width at which images are corrupted."""
    corrupted_here: bool
    """False if the published images of ImageNet-C were used."""
    strengths_of: int
    """The published image size whose strengths were used: 224, 64 or 32."""
    clean_error: float
    """Top-1 error in percent."""
    clean_calibration_error: float
    """Expected calibration error on clean images, 0 to 1."""
    mean_error: float
    """Mean top-1 error over corruptions and severities in percent: the unnormalized mCE."""
    mean_calibration_error: float
    """Mean expected calibration error over corruptions and severities, 0 to 1."""
    baseline: str
    """Name of the baseline; empty without one."""
    baseline_clean_error: float | None
    mean_corruption_error: float | None
    """mCE in percent."""
    relative_mean_corruption_error: float | None
    severities: tuple[int, ...]
    corruptions: tuple[Summary, ...]
    points: tuple[Point, ...]
    only_present_classes: bool
    """Whether the network chose only among the classes that have images."""
    seed: int
    made_frost: bool
    """Whether frost is nextify's own texture, whose errors cannot be compared with published ones."""


@torch_defaults()
def measure(
    bundle: str | Path,
    images: Images,
    *,
    corruptions: str | Sequence[str] = CORRUPTIONS,
    severities: int | Sequence[int] = SEVERITIES,
    baseline: str | Path | None = None,
    part: Part = "test",
    limit: int | None = None,
    only_present_classes: bool = False,
    class_order: ClassOrder | None = None,
    seed: int = 0,
    frost_pictures: str | Path | None = None,
    imagenet_c: str | Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    workers: int = 0,
    kernels: Mode = "auto",
    progress: Progress | None = None,
    partial: Partial | None = None,
) -> Robustness:
    """Corrupt images and measure how often a bundle is wrong.

    Args:
        corruptions: one or several; none measures clean images only.
        baseline: another bundle, measured on the same corrupted images, or ``alexnet`` for AlexNet's published errors
            on ImageNet-C, which require all five severities.
        part: the images' test part, their training part, or both.
        limit: measure on this many images, spread evenly over the set; None takes all.
        only_present_classes: choose only among the classes that have images in this part (or in ``imagenet_c``), the
            protocol of ImageNet-A and -R.
        class_order: for a bundle that does not name its classes; see ``nextify.evaluation.evaluate.evaluate``.
        seed: decides the random numbers of every corruption.
        frost_pictures: folder of the reference's frost pictures; None generates textures.
        imagenet_c: folder of the published ImageNet-C (``fog/3/CLASS/…``, also within its four groups), whose files
            are measured instead of corrupting here; ``images`` are the clean ones. As in the reference, its files are
            cropped and not resized.
        workers: processes that corrupt images; 0 corrupts them between batches.
        partial: keeps each finished batch on disk and restores those that a killed run of the same measurement left.
            The figures do not depend on it.

    Raises:
        WeightsError: the bundle is missing or damaged, or its outputs are NaN or infinite.
        DataError: the images have classes that the bundle does not know, or there are none.
        ValueError: a corruption or severity does not exist, or two settings contradict each other.
        TypeError: ``images`` is not an ``Images``.
        UnusableFolder: the results that ``partial`` would replace are those of another measurement.
    """
    check_images(images)
    device = usable_device(device)
    frost_pictures, imagenet_c = (None if path is None else Path(path) for path in (frost_pictures, imagenet_c))
    corruptions, severities = checked(several(corruptions), several(severities), baseline)
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be 1 or more, got {limit}")
    if threads is not None:
        torch.set_num_threads(threads)
    order = is_word(class_order)
    loaded = load_classifier(bundle, None if order else class_order)
    data, sets = part_of(images, part)
    keys = [(name, severity) for name in corruptions for severity in severities]
    files = {} if imagenet_c is None else {key: stored(imagenet_c, key, images, limit) for key in keys}
    present: npt.NDArray[np.int64] | None = None
    if only_present_classes:
        published = (np.array([c for _, c in own], np.int64) for own in files.values())
        present = np.unique(np.concatenate([*(s.labels for s in sets), *published]))
    networks, measured = [_Network(loaded, images, device, present, order, kernels)], [bundle]
    if baseline is not None and baseline != ALEXNET:
        networks.append(_opened_baseline(baseline, images, device, present, kernels))
        measured.append(baseline)
    first = networks[0]
    places = [(s, i) for s in sets for i in range(len(s))]
    chosen = spread(len(places), limit)
    if not chosen:
        raise DataError(f"{images.name} has no images to measure on")
    asking = _Asking(networks, places, chosen, [] if files else keys, files)
    shown = False if present is None else present.tolist()
    asked = [images.fingerprint, part, chosen, keys, seed, shown, BATCH, device]
    asked += [None if folder is None else str(folder.resolve()) for folder in (frost_pictures, imagenet_c)]
    asked += [*(network.identity() for network in networks), *[ALEXNET] * (baseline == ALEXNET)]
    identity = fingerprint(asked)
    if partial is not None:
        partial.begin(identity)
    recorder = Recorder(asking.total, partial, progress)
    asking.clean_and_made(recorder, seed, workers, frost_pictures)
    asking.published(recorder)

    made_frost = any(name == "frost" for name, _ in asking.made) and frost_pictures is None
    notes = [note for one in measured for note in trained_on(one, sets, part)]
    notes += [*images.warnings, *images.notes, *(note for network in networks for note in network.notes)]
    base_name, base_clean = "", None
    if baseline == ALEXNET:
        base_name, base_clean = "AlexNet as published", ALEXNET_CLEAN_ERROR
        notes += _differences_to_published(first, made_frost, bool(asking.made))
    elif baseline is not None:
        base_name, base_clean = _named_apart(networks[1], first, baseline), recorder.figures(1, None)[0]
        notes += _differences_in_size(networks[1], first)
    clean, clean_calibration = recorder.figures(0, None)
    points = [
        Point(*key, *recorder.figures(0, key), recorder.figures(1, key)[0] if len(networks) > 1 else None)
        for key in keys
    ]
    summaries = tuple(
        summarize(c, [p for p in points if p.corruption == c], clean, base_clean, baseline == ALEXNET)
        for c in corruptions
    )
    if baseline is not None:
        notes += _without_relative_error(summaries)
    return Robustness(
        **measurement(first.name, data, len(chosen), device, first.inference, notes, identity),
        size=first.settings.size,
        corrupted_here=bool(asking.made),
        strengths_of=published_size(*first.settings.size),
        clean_error=clean,
        clean_calibration_error=clean_calibration,
        mean_error=float(np.mean([p.error for p in points] or [clean])),
        mean_calibration_error=float(np.mean([p.expected_calibration_error for p in points] or [clean_calibration])),
        baseline=base_name,
        baseline_clean_error=base_clean,
        mean_corruption_error=mean_if_all([s.corruption_error for s in summaries]),
        relative_mean_corruption_error=mean_if_all([s.relative_corruption_error for s in summaries]),
        severities=tuple(severities) if corruptions else (),
        corruptions=summaries,
        points=tuple(points),
        only_present_classes=only_present_classes,
        seed=seed,
        made_frost=made_frost,
    )


@dataclass(frozen=True)
class _Asking:
    """What the networks are asked: images as they are and with each corruption."""

    networks: Sequence[_Network]
    places: Sequence[tuple[ImageSet, int]]
    """The set and index of every image."""
    chosen: Sequence[int]
    """Of ``places``, those to measure on."""
    made: Sequence[Key]
    """The corruptions and severities that are applied here."""
    files: Mapping[Key, Sequence[tuple[Path, int]]]
    """The published images of each corruption and severity, with their classes."""

    @property
    def total(self) -> int:
        """Number of answers."""
        images = len(self.chosen) * (len(self.made) + 1) + sum(map(len, self.files.values()))
        return images * len(self.networks)

    @cached_property
    def groups(self) -> Sequence[Sequence[int]]:
        """The networks that take the same pixels, which share the corrupted ones."""
        found = defaultdict(list)
        for index, network in enumerate(self.networks):
            own = network.settings
            found[own.size, own.resize_size, own.fit, own.interpolation, own.antialias].append(index)
        return [*found.values()]

    @property
    def batch(self) -> int:
        return min(network.settings.batch_size(BATCH) for network in self.networks)

    def clean_and_made(self, recorder: Recorder, seed: int, workers: int, frost_pictures: Path | None) -> None:
        """Ask about the images as they are and as they are corrupted here."""
        with corrupter(workers, frost_pictures) as corrupted:
            for name, batch in recorder.missing("made", self.chosen, self.batch):
                here = [self.places[i] for i in batch]
                classes = np.array([s.labels[i] for s, i in here])
                seeds = [(seed << 32) + i for i in batch]
                for group in self.groups:
                    settings = self.networks[group[0]].settings
                    for key, pixels in corrupted(prepared(here, settings), self.made, seeds):
                        self._ask(recorder, group, key, pixels, classes)
                recorder.finish(name)

    def published(self, recorder: Recorder) -> None:
        """Ask about the published images."""
        for key, files in self.files.items():
            for name, some in recorder.missing(f"{key[0]}-{key[1]}", files, self.batch):
                classes = np.array([c for _, c in some])
                read = [decoded(path) for path, _ in some]
                for group in self.groups:
                    settings = self.networks[group[0]].settings
                    pixels = np.stack([as_stored(image, settings) for image in read])
                    self._ask(recorder, group, key, pixels, classes)
                recorder.finish(name)

    def _ask(
        self, recorder: Recorder, group: Sequence[int], key: Key | None, pixels: Pixels, classes: npt.NDArray[np.int64]
    ) -> None:
        for index in group:
            recorder.add(index, key, *self.networks[index].answer(pixels, classes))


def _opened_baseline(
    path: str | Path, images: Images, device: str, present: npt.NDArray[np.int64] | None, kernels: Mode
) -> _Network:
    loaded = load_classifier(path)
    try:
        return _Network(loaded, images, device, present, None, kernels)
    except ValueError as error:
        raise type(error)(f"the baseline {path}: {error}") from None


def _named_apart(baseline: _Network, network: _Network, path: str | Path) -> str:
    """The baseline's name, with its path where it has the network's name."""
    name = baseline.name or str(path)
    return f"{name} of {path}" if name == network.name else name


def _differences_in_size(baseline: _Network, network: _Network) -> list[str]:
    (height, width), (own_height, own_width) = baseline.settings.size, network.settings.size
    if (height, width) == (own_height, own_width):
        return []
    return [
        f"the baseline's images were resized to {height}×{width} before they were corrupted, as it asks for, "
        f"and the network's to {own_height}×{own_width}: the mCE compares networks and sizes"
    ]


def _without_relative_error(summaries: Sequence[Summary]) -> list[str]:
    """Why there is no relative mCE: corruptions under which the baseline is no worse than on clean images."""
    unhurt = [s.corruption for s in summaries if s.relative_corruption_error is None]
    if not unhurt:
        return []
    return [f"no relative mCE: the baseline is no worse than on clean images under {', '.join(unhurt)}"]


def _differences_to_published(network: _Network, made_frost: bool, made: bool) -> list[str]:
    size, classes = network.settings.size, network.num_classes
    notes = ["ImageNet-C's images were stored as JPEG of quality 85 after corruption; these were not"] if made else []
    if classes != 1000:
        notes.append(
            f"AlexNet's errors are for ImageNet's 1,000 classes and this network has {classes:,}: the mCE is not "
            f"comparable with others; give a bundle as baseline"
        )
    if size != (224, 224):
        notes.append(f"AlexNet's errors are at 224×224 pixels, these at {size[0]}×{size[1]}")
    if made_frost:
        notes.append(
            "frost is a generated texture, not the published pictures: its error and the mCE are not comparable"
        )
    return notes


class _Network(MatchedNetwork):
    """A loaded network that classifies batches of the images' classes."""

    def __init__(
        self,
        loaded: Loaded,
        images: Images,
        device: str,
        present: npt.NDArray[np.int64] | None,
        order: Order | None,
        kernels: Mode,
    ) -> None:
        """``present``: those of the images' classes to choose among; None for all that the bundle knows."""
        settings = loaded.preprocessing
        if settings.channels != 3 or min(settings.size) < SMALLEST_SIDE:
            raise ValueError(
                f"the corruptions need colour images of at least {SMALLEST_SIDE} pixels a side; this network takes "
                f"{settings.channels} channel(s) of {settings.size[0]}×{settings.size[1]}"
            )
        super().__init__(loaded, images, device, kernels, order)
        self.notes += self.inference.notes
        self.name, self.num_classes = self.about.name, self.about.num_classes
        self.present = None if present is None else np.unique(self.label_of[present])

    def answer(self, pixels: Pixels, classes: npt.NDArray[np.int64]) -> tuple[Right, Confidence]:
        """Whether each image's most probable class is right, and its probability; ``(N,)`` each."""
        found = self.outputs(torch.from_numpy(pixels))
        if not np.isfinite(found).all():
            raise WeightsError(f"the network's outputs are NaN or infinite: {why_not_finite(self.settings)}")
        labels = self.label_of[classes]
        if self.present is not None:
            found = found[:, self.present]
            found = found / found.sum(1, keepdims=True)
            labels = np.searchsorted(self.present, labels)
        return found.argmax(1) == labels, found.max(1)
