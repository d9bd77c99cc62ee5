"""What corruptions cost a bundle: error and calibration at each corruption and severity, and the mean corruption error
(``corruption_error.py``).

Images are prepared as the bundle says and corrupted then, at the network's own resolution, as ImageNet-C's were; each
has draws of its own, the same for every network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from nextify.data import DataError, Images
from nextify.evaluation.corrupted_images import (
    Key,
    Pixels,
    as_stored,
    corrupter,
    decoded,
    prepared,
    spread,
    stored,
)
from nextify.evaluation.corruption_error import (
    ALEXNET,
    ALEXNET_CLEAN_ERROR,
    Point,
    Summary,
    mean_if_all,
    summarize,
)
from nextify.evaluation.corruptions import CORRUPTIONS, SEVERITIES, SMALLEST_SIDE, published_size
from nextify.evaluation.evaluate import Part, match_classes, name_classes, probabilities
from nextify.evaluation.inference import Inference
from nextify.evaluation.metrics import calibration
from nextify.evaluation.partial import Partial
from nextify.system.environment import Environment, describe
from nextify.system.native import Mode
from nextify.system.several import several

if TYPE_CHECKING:
    from nextify.weights import Loaded, Preprocessing
    from nextify.weights.class_names import ClassOrder, Order

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with the images that have gone through a network, and how many will have."""

Confidence = npt.NDArray[np.float32]

BATCH = 64


@dataclass(frozen=True)
class Robustness:
    """What corruptions cost a bundle."""

    model: str
    data: str
    images: int
    size: tuple[int, int]
    """Height and width at which images are corrupted."""
    corrupted_here: bool
    """False where the published images of ImageNet-C were used."""
    strengths_of: int
    """The published size whose strengths were used: 224, 64 or 32."""
    clean_error: float
    """Top-1 error in percent."""
    clean_calibration_error: float
    mean_error: float
    """Mean top-1 error over corruptions and severities in percent: the unnormalized mCE."""
    mean_calibration_error: float
    """Mean of the expected calibration errors under corruption, 0 to 1."""
    baseline: str
    """Empty without one."""
    baseline_clean_error: float | None
    mean_corruption_error: float | None
    """mCE in percent."""
    relative_mean_corruption_error: float | None
    severities: tuple[int, ...]
    corruptions: tuple[Summary, ...]
    points: tuple[Point, ...]
    only_present_classes: bool
    """Whether the network chose among the classes that have images, not among all it knows."""
    seed: int
    made_frost: bool
    """Whether frost is our texture: its errors cannot be compared with published ones."""
    precision: str
    notes: tuple[str, ...]
    environment: Environment

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


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
    frost_pictures: Path | None = None,
    imagenet_c: Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    workers: int = 0,
    kernels: Mode = "auto",
    progress: Progress | None = None,
    partial: Partial | None = None,
) -> Robustness:
    """Corrupt images and see how often a bundle is wrong.

    Args:
        corruptions: one or several; none measures clean images only.
        baseline: another bundle, measured on the same corrupted images; ``alexnet`` for the published errors of AlexNet
            on ImageNet-C, which need all five severities; None for none.
        part: the images' test part, their training part, or both.
        limit: so many images, evenly spread over the set; None takes all.
        only_present_classes: choose among the classes that have images, as ImageNet-A and -R are measured.
        class_order: for a bundle that does not name its classes; see ``nextify.evaluation.evaluate.evaluate``.
        seed: decides what is drawn for each image.
        frost_pictures: folder of the reference's pictures of frost; None takes made textures.
        imagenet_c: folder of ImageNet-C as published (``fog/3/CLASS/…``, or in its four groups), whose files are taken
            instead of corrupting here; ``images`` are the clean ones. As in the reference, cropped and not resized.
        workers: processes that corrupt; 0 corrupts between the batches.
        partial: keeps each finished batch, and gives back those of an earlier run of the same measurement that was
            killed; the figures are the same. None keeps nothing.

    Raises:
        WeightsError: no bundle, or a damaged one.
        DataError: classes that the bundle does not know.
        ValueError: an unknown corruption or severity, or a setting that does not go with another.
    """
    import torch

    from nextify.weights import load
    from nextify.weights.class_names import is_word

    corruptions, severities = _checked(several(corruptions), several(severities), baseline, limit)
    if threads is not None:
        torch.set_num_threads(threads)
    order = is_word(class_order)
    loaded = load(bundle, class_order=None if order else class_order)
    networks = [_Network(loaded, images, device, only_present_classes, order, kernels)]
    if baseline is not None and baseline != ALEXNET:
        networks.append(_Network(load(baseline), images, device, only_present_classes, None, kernels))
    # Networks that take the same pixels share the corrupted ones.
    groups: dict[object, list[_Network]] = {}
    for network in networks:
        groups.setdefault(_pixels_key(network.settings), []).append(network)

    sets = {"test": [images.test], "train": [images.train], "all": [images.train, images.test]}[part]
    places = [(s, i) for s in sets for i in range(len(s))]
    chosen = spread(len(places), limit)
    if not chosen:
        raise DataError(f"{images.name} has no images to measure on")
    keys = [(name, severity) for name in corruptions for severity in severities]
    files = {} if imagenet_c is None else {key: stored(imagenet_c, key, images, limit) for key in keys}
    made = [] if files else keys
    total = (len(chosen) * (len(made) + 1) + sum(map(len, files.values()))) * len(networks)
    done = 0
    if partial is not None:
        asked = [images.fingerprint, part, chosen, keys, seed, only_present_classes, BATCH, device]
        folders = [None if folder is None else str(folder.resolve()) for folder in (frost_pictures, imagenet_c)]
        partial.begin([*asked, *folders, *(network.identity() for network in networks)])

    def remembered(name: str) -> bool:
        """Whether a part was finished before; then the networks get back what they said."""
        nonlocal done
        kept = None if partial is None else partial.load(name)
        if kept is None:
            return False
        for network, own in zip(networks, _said(kept, len(networks)), strict=True):
            for key, (right, confidence) in own.items():
                network.add(key, right, confidence)
                done += len(right)
        if progress is not None:
            progress(done, total)
        return True

    def show(group: Sequence[_Network], key: Key | None, pixels: Pixels, classes: npt.NDArray[np.int64]) -> None:
        nonlocal done
        for network in group:
            right, confidence = network.see(pixels, classes)
            network.add(key, right, confidence)
            name = f"{networks.index(network)}/{'clean/0' if key is None else f'{key[0]}/{key[1]}'}"
            said[f"{name}/right"], said[f"{name}/confidence"] = right, confidence
            done += len(classes)
            if progress is not None:
                progress(done, total)

    said: dict[str, npt.NDArray[Any]] = {}
    with corrupter(workers, frost_pictures) as corrupted:
        for number, batch in enumerate(_batches(chosen)):
            if remembered(f"made-{number}"):
                continue
            here = [places[i] for i in batch]
            classes = np.array([s.labels[i] for s, i in here])
            seeds = [(seed << 32) + i for i in batch]
            for group in groups.values():
                for key, pixels in corrupted(prepared(here, group[0].settings), made, seeds):
                    show(group, key, pixels, classes)
            if partial is not None:
                partial.save(f"made-{number}", said)
            said.clear()
    for file_key, all_files in files.items():
        for number, some_files in enumerate(_batches(all_files)):
            name = f"{file_key[0]}-{file_key[1]}-{number}"
            if remembered(name):
                continue
            classes = np.array([c for _, c in some_files])
            read = [decoded(path) for path, _ in some_files]
            for group in groups.values():
                show(group, file_key, np.stack([as_stored(image, group[0].settings) for image in read]), classes)
            if partial is not None:
                partial.save(name, said)
            said.clear()

    found = _conclude(networks, baseline, corruptions, keys)
    first = networks[0]
    made_frost = any(name == "frost" for name, _ in made) and frost_pictures is None
    notes = [*images.warnings, *images.notes, *(note for network in networks for note in network.notes)]
    if baseline == ALEXNET:
        notes += _differences_to_published(first, made_frost, bool(made))
    return Robustness(
        **found,
        model=first.name,
        data=images.name if part == "test" else f"{images.name} ({part})",
        images=len(chosen),
        size=first.settings.size,
        corrupted_here=bool(made),
        strengths_of=published_size(*first.settings.size),
        severities=tuple(severities) if corruptions else (),
        only_present_classes=only_present_classes,
        seed=seed,
        made_frost=made_frost,
        precision="bf16" if first.inference.bf16 else "fp32",
        notes=tuple(dict.fromkeys(notes)),
        environment={**describe(), "device": device},
    )


def _conclude(
    networks: Sequence[_Network], baseline: str | Path | None, corruptions: Sequence[str], keys: Sequence[Key]
) -> dict[str, Any]:
    """The figures of ``Robustness`` from what the networks said."""
    first, other = networks[0], networks[1] if len(networks) > 1 else None
    alexnet = baseline == ALEXNET
    points = tuple(
        Point(*key, first.error(key), first.calibration_error(key), None if other is None else other.error(key))
        for key in keys
    )
    clean, base_clean = first.error(None), ALEXNET_CLEAN_ERROR if alexnet else None
    name = "AlexNet as published" if alexnet else ""
    if other is not None:
        base_clean, name = other.error(None), other.name or str(baseline)
    summaries = tuple(
        summarize(c, [p for p in points if p.corruption == c], clean, base_clean, alexnet) for c in corruptions
    )
    calibration_errors = [p.expected_calibration_error for p in points] or [first.calibration_error(None)]
    return {
        "clean_error": clean,
        "clean_calibration_error": first.calibration_error(None),
        "mean_error": float(np.mean([p.error for p in points] or [clean])),
        "mean_calibration_error": float(np.mean(calibration_errors)),
        "baseline": name,
        "baseline_clean_error": base_clean,
        "mean_corruption_error": mean_if_all([s.corruption_error for s in summaries]),
        "relative_mean_corruption_error": mean_if_all([s.relative_corruption_error for s in summaries]),
        "corruptions": summaries,
        "points": points,
    }


def _checked(
    corruptions: Sequence[str], severities: Sequence[int], baseline: str | Path | None, limit: int | None
) -> tuple[list[str], list[int]]:
    unknown = [name for name in corruptions if name not in CORRUPTIONS]
    if unknown:
        raise ValueError(f"no corruption is called {', '.join(unknown)}; there are {', '.join(CORRUPTIONS)}")
    if any(s not in SEVERITIES for s in severities) or not severities:
        raise ValueError(f"severities must be some of 1 to 5, got {', '.join(map(str, severities)) or 'none'}")
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be 1 or more, got {limit}")
    ordered = [s for s in SEVERITIES if s in severities]
    if baseline == ALEXNET and ordered != list(SEVERITIES):
        raise ValueError("AlexNet's published errors are means over all five severities: leave --severities out")
    return [name for name in CORRUPTIONS if name in corruptions], ordered


def _differences_to_published(network: _Network, made_frost: bool, made: bool) -> list[str]:
    size, classes = network.settings.size, network.num_classes
    notes = ["ImageNet-C's images were stored as JPEG of quality 85 once corrupted; these are not"] if made else []
    if classes != 1000:
        notes.append(
            f"AlexNet's errors are for ImageNet's 1,000 classes and this network has {classes:,}: the "
            f"mCE compares with no other; give a bundle as baseline"
        )
    if size != (224, 224):
        notes.append(f"AlexNet's errors are at 224×224 pixels, these at {size[0]}×{size[1]}")
    if made_frost:
        notes.append("frost is a made texture, not the published pictures: its error and the mCE are not comparable")
    return notes


class _Network:
    """A network, and what it said of each key's images so far; the key None is the clean ones."""

    def __init__(
        self,
        loaded: Loaded,
        images: Images,
        device: str,
        only_present: bool,
        order: Order | None,
        kernels: Mode,
    ) -> None:
        from nextify.kernels import install

        self.name, self.settings, self.num_classes = loaded.about.name, loaded.preprocessing, loaded.about.num_classes
        if self.settings.channels != 3 or min(self.settings.size) < SMALLEST_SIDE:
            raise ValueError(
                f"the corruptions are for colour images of {SMALLEST_SIDE} pixels or more a side; this network takes "
                f"{self.settings.channels} channel(s) of {self.settings.size[0]}×{self.settings.size[1]}"
            )
        notes: list[str] = list(loaded.notes)
        self.label_of = match_classes(name_classes(loaded.about, images, notes, order), images, notes)
        self.device = device
        self.present = np.unique(self.label_of) if only_present else None
        self.inference = Inference.of(loaded.about.recipe)
        self.notes = notes + self.inference.notes
        self.model = loaded.model.to(device)
        install(self.model, kernels)
        self.right: dict[object, list[npt.NDArray[np.bool_]]] = {}
        self.confidence: dict[object, list[npt.NDArray[np.float32]]] = {}

    def identity(self) -> list[str]:
        """What decides its answers: weights and preprocessing."""
        import torch

        digest = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        bf16, mirror = self.inference
        asked = f"{bf16}, mirror" if mirror else str(bf16)  # the latter as before there were mirror images
        return [digest.hexdigest(), repr(self.settings), asked, str(self.label_of.tolist())]

    def see(self, pixels: Pixels, classes: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.bool_], Confidence]:
        """Which of the images are right, and how sure the network is of what it says."""
        import torch

        found = probabilities(self.model, torch.from_numpy(pixels), self.device, self.settings, self.inference)
        labels = self.label_of[classes]
        if self.present is not None:
            found = found[:, self.present]
            found = found / found.sum(1, keepdims=True)
            labels = np.searchsorted(self.present, labels)
        return found.argmax(1) == labels, found.max(1)

    def add(self, key: object, right: npt.NDArray[np.bool_], confidence: Confidence) -> None:
        self.right.setdefault(key, []).append(right)
        self.confidence.setdefault(key, []).append(confidence)

    def error(self, key: object) -> float:
        return 100 * (1 - float(np.concatenate(self.right[key]).mean()))

    def calibration_error(self, key: object) -> float:
        return calibration(np.concatenate(self.confidence[key]), np.concatenate(self.right[key]))[0]


def _said(
    kept: Mapping[str, npt.NDArray[Any]], networks: int
) -> list[dict[Key | None, tuple[npt.NDArray[np.bool_], Confidence]]]:
    """A kept part, network by network: ``{key: (right, confidence)}``."""
    found: list[dict[Key | None, tuple[npt.NDArray[np.bool_], Confidence]]] = [{} for _ in range(networks)]
    for name, right in kept.items():
        number, corruption, severity, what = name.split("/")
        if what == "right":
            key = None if corruption == "clean" else (corruption, int(severity))
            found[int(number)][key] = right, kept[f"{number}/{corruption}/{severity}/confidence"]
    return found


def _pixels_key(settings: Preprocessing) -> object:
    return (settings.size, settings.resize_size, settings.fit, settings.interpolation, settings.antialias)


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
