"""A bundle on a set of images: the figures, and the pictures of them.

Each image is prepared as the bundle says and counted once. Classes are matched by name: the images' folders may hold
fewer classes than the bundle knows, in any order, but none that it does not know. The classes of weights that name
none are matched by order, where there is no doubt about it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args
from unicodedata import normalize

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nextify.data import DataError, Images, ImageSet
from nextify.data.bands import check_agree, visible
from nextify.data.images import DataSet, S, check_images
from nextify.data.preprocessing import normalized
from nextify.evaluation.identity import check_same, digest, fingerprint
from nextify.evaluation.metrics import Bin, ClassAccuracy, calibration, confidence_gap, confusion, per_class, wilson
from nextify.evaluation.pictures import confusion_picture, mistakes_picture, reliability_picture
from nextify.evaluation.runner import load_classifier, why_not_finite
from nextify.evaluation.seen import trained_on
from nextify.kernels import install
from nextify.system import processes
from nextify.system.device import torch_defaults, usable_device
from nextify.system.environment import Environment, describe
from nextify.system.files import write_bytes_atomic, write_json_atomic
from nextify.system.native import Mode
from nextify.system.text import plural, some
from nextify.tasks.classification import Classification, Hits, Inference
from nextify.weights import About, Loaded, WeightsError, load
from nextify.weights.class_names import ClassOrder, Order, in_order, is_word, repeated

BATCH = 256
SHOWN_MISTAKES = 24
WIDE_GAP = 5.0
"""Points between mean confidence and accuracy from which a note names the remedy."""
CALIBRATE = "--set calibration=0.1"
Part = Literal["test", "train", "all"]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured, on which images, and how."""

    model: str
    data: str
    images: int
    precision: str
    """``fp32`` or ``bf16``."""
    notes: tuple[str, ...]
    environment: Environment
    fingerprint: str
    """Of everything that decides the figures: networks, images and settings."""

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


def measurement(
    model: str,
    data: str,
    images: int,
    device: str,
    inference: Inference,
    notes: Iterable[str],
    fingerprint: str,
) -> dict[str, Any]:
    """The fields of a ``Measurement``, for one that has more."""
    return {
        "model": model,
        "data": data,
        "images": images,
        "precision": "bf16" if inference.bf16 else "fp32",
        "notes": tuple(dict.fromkeys((*notes, *inference.notes))),
        "environment": {**describe(), "device": device},
        "fingerprint": fingerprint,
    }


@dataclass(frozen=True)
class Mistake:
    """One image that is wrong, and how sure the network was."""

    name: str
    true: str
    predicted: str
    probability: float
    """Of the predicted class."""


@dataclass(frozen=True)
class Evaluation(Measurement):
    """What a bundle gives on a set of images."""

    top1: float
    """Percent."""
    top5: float
    """Percent; of all classes where there are fewer than five."""
    expected_calibration_error: float
    """0 to 1."""
    bins: tuple[Bin, ...]
    classes: tuple[ClassAccuracy, ...]
    """The bundle's, in the order of the logits."""
    confusion: tuple[tuple[int, ...], ...]
    """Row the true class, column the predicted one; ``to_dict`` has only what is not 0."""
    mistakes: tuple[Mistake, ...]
    """The worst: wrong with the highest probability."""
    temperature: float = 1.0
    """What the bundle divides logits by before they become probabilities."""
    uncalibrated_error: float | None = None
    """Expected calibration error at a temperature of 1; None where the bundle has that."""
    uncalibrated_bins: tuple[Bin, ...] = ()
    right: bytes = b""
    """Of each image in order, 1 if its class has the highest probability, else 0; not in ``to_dict``."""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of what ``evaluate`` leaves; mistakes.png only where anything is wrong."""
        return ("evaluation.json", "confusion.png", "reliability.png", *["mistakes.png"] * bool(self.mistakes))

    @property
    def top1_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of ``top1``, percent."""
        return wilson(round(self.top1 * self.images / 100), self.images)

    @property
    def confidence(self) -> str:
        """Whether the network is as sure as it is right, in a sentence."""
        now = _gap(confidence_gap(self.bins))
        if not self.uncalibrated_bins:
            return f"confidences are {now} on average"
        before = _gap(confidence_gap(self.uncalibrated_bins))
        return f"confidences were {before} on average, and are {now} with the temperature {self.temperature:.3g}"

    def to_dict(self) -> dict[str, object]:
        """Plain data; ``confusion`` is ``{true class: {predicted class: images}}``, the keys being indices as text."""
        derived = {
            "top1_interval": self.top1_interval,
            "confidence": self.confidence,
            "confidence_gap": confidence_gap(self.bins),
            "uncalibrated_confidence_gap": confidence_gap(self.uncalibrated_bins) if self.uncalibrated_bins else None,
        }
        found = asdict(replace(self, confusion=()))
        del found["right"]
        return {**found, **derived, "confusion": sparse(self.confusion)}


def sparse(confusion: Sequence[Sequence[int]]) -> dict[str, dict[str, int]]:
    """``{row: {column: count}}`` of a matrix without its zeros, the keys being indices as text."""
    rows = {str(i): {str(j): row[j] for j in np.flatnonzero(row).tolist()} for i, row in enumerate(confusion)}
    return {i: row for i, row in rows.items() if row}


def _gap(points: float) -> str:
    if abs(points) < 0.05:
        return "right"
    return f"too {'high' if points > 0 else 'low'} by {abs(points):.1f} points"


def part_of(images: DataSet[S], part: Part) -> tuple[str, list[S]]:
    """What figures on a part of the images call it, and its sets: the test part, the training part, or both."""
    if part not in get_args(Part):
        raise ValueError(f"part must be test, train or all, got {part!r}; open_images(…, tested=…) takes val or test")
    sets = {"test": [images.test], "train": [images.train], "all": [images.train, images.test]}[part]
    return images.name if part == "test" else f"{images.name} ({part})", sets


class BundleNetwork:
    """A bundle's network, which takes images prepared as the bundle says."""

    def __init__(self, loaded: Loaded, device: str, kernels: Mode = "auto") -> None:
        self.inference = Inference.of(loaded.about.recipe, loaded.about.temperature)
        self.settings, self.device = loaded.preprocessing, device
        self.model = loaded.model.to(device)
        install(self.model, kernels)

    def __call__(self, images: ImageSet, *, raw: bool = False) -> Floats:
        """``(N, K)`` probabilities of a whole set, or with ``raw`` logits, in order.

        Of several processes each computes its run of the images, and all get the whole; every process must call this.
        Raises ``DataError`` where outputs are NaN or infinite.
        """
        pixels = (images.load(i) for i in own_run(len(images)))
        own: list[Floats] = []
        while batch := [self.settings.pixels(image) for image in islice(pixels, self.settings.batch_size(BATCH))]:
            own.append(self.outputs(torch.stack(batch), raw=raw))
        found = np.concatenate([batch for batches in processes.gathered(own) for batch in batches])
        if len(bad := np.flatnonzero(~np.isfinite(found).all(1))):
            raise DataError(
                f"the outputs of {len(bad):,} of {plural(len(found), 'image')} are NaN or infinite, the first being "
                f"{images.name(int(bad[0]))}: {why_not_finite(self.settings)}"
            )
        return found

    def outputs(self, pixels: Tensor, *, raw: bool = False) -> Floats:
        """``(B, K)`` probabilities of one class per image, or with ``raw`` logits, of uint8 ``pixels (B, H, W, C)`` as
        ``settings.pixels`` gives them; they are normalized as in training, so that the result is the training's own."""
        with torch.inference_mode():
            images = normalized(pixels, torch.device(self.device), self.settings.mean, self.settings.std)
            logits = self.inference.logits(self.model, images)
            return (logits if raw else logits.softmax(-1)).cpu().numpy()


class MatchedNetwork(BundleNetwork):
    """A bundle's network, with its classes matched to those of images."""

    def __init__(
        self, loaded: Loaded, images: Images, device: str, kernels: Mode = "auto", order: Order | None = None
    ) -> None:
        """Raises ``WeightsError`` and ``DataError`` as ``name_classes`` and ``match_classes``."""
        self.notes = list(loaded.notes)
        self.about = loaded.about if images.multilabel else name_classes(loaded.about, images, self.notes, order)
        self.label_of = match_classes(self.about, images, self.notes)
        super().__init__(loaded, device, kernels)

    def identity(self) -> list[str]:
        """Everything that decides its answers: weights, preprocessing, inference and classes."""
        bf16, mirror, temperature = self.inference
        asked = f"{bf16}, mirror" if mirror else str(bf16)  # without mirroring, as before it existed
        if temperature != 1:
            asked += f", temperature {temperature!r}"
        return [digest(self.model), repr(self.settings), asked, str(self.label_of.tolist())]


def load_network(bundle: str | Path, device: str = "cpu", kernels: Mode = "auto") -> BundleNetwork:
    """Load a bundle to run it on images whose classes are known to be its own."""
    return BundleNetwork(load(bundle), device, kernels)


def load_matched(
    bundle: str | Path, images: Images, device: str, threads: int | None, class_order: ClassOrder | None, kernels: Mode
) -> MatchedNetwork:
    """Load a bundle to measure it on images of one class each, with its arguments as ``evaluate`` has them."""
    check_images(images)
    if threads is not None:
        torch.set_num_threads(threads)
    order = is_word(class_order)
    loaded = load_classifier(bundle, None if order else class_order)
    return MatchedNetwork(loaded, images, device, kernels, order)


@torch_defaults()
def evaluate(
    bundle: str | Path,
    images: Images,
    *,
    part: Part = "test",
    device: str = "cpu",
    threads: int | None = None,
    class_order: ClassOrder | None = None,
    kernels: Mode = "auto",
    out: str | Path | None = None,
) -> Evaluation:
    """Evaluate a bundle (or other weights whose classes are known) on images.

    Args:
        part: the images' test part, their training part, or both.
        device: ``auto`` takes a GPU where there is one.
        class_order: for weights that do not name their classes: ``imagefolder`` (by code point, as torchvision and
            Hugging Face), ``natural`` (as timm), ``data`` (as these images are numbered), or the names in the order of
            the logits, or a file of them.
        out: a folder for evaluation.json and three pictures.

    Raises:
        WeightsError: no bundle, or a damaged one; no class names and more than one possible order; a network for
            several labels per image, which ``evaluate_multilabel`` measures.
        DataError: classes that the bundle does not know; several labels per image; outputs that are NaN or infinite.
        TypeError: ``images`` is not an ``Images``.
        UnusableFolder: ``out`` holds another evaluation.
    """
    device, out = usable_device(device), None if out is None else Path(out)
    network = load_matched(bundle, images, device, threads, class_order, kernels)
    asked = begin_evaluation(out, [*network.identity(), images.fingerprint, part])
    data, sets = part_of(images, part)
    probabilities = np.concatenate([network(s) for s in sets])
    labels = network.label_of[np.concatenate([s.labels for s in sets])]
    places = [(part, i) for part in sets for i in range(len(part))]
    about, classes, notes = network.about, network.about.classes, network.notes
    notes += trained_on(bundle, sets, part)
    accuracy = Classification.metrics([Hits.of(torch.from_numpy(probabilities), torch.from_numpy(labels))])
    predicted = probabilities.argmax(1)
    confidence = probabilities.max(1)
    counts = confusion(predicted, labels, len(classes))
    error, bins = calibration(confidence, predicted == labels)
    temperature = about.temperature
    plain_error: float | None = None
    plain_bins: list[Bin] = []
    if temperature != 1:
        plain = probabilities.astype(np.float64) ** temperature  # softmax(logits), but for its scale
        plain_error, plain_bins = calibration(plain.max(1) / plain.sum(1), predicted == labels)
    elif about.recipe is not None and abs(confidence_gap(bins)) >= WIDE_GAP:
        notes.append(f"confidences are {_gap(confidence_gap(bins))}: train with {CALIBRATE} to correct this")
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:SHOWN_MISTAKES]
    mistakes = tuple(
        Mistake(own.name(at), classes[labels[i]], classes[predicted[i]], float(confidence[i]))
        for i, (own, at) in ((i, places[i]) for i in worst.tolist())
    )
    found = Evaluation(
        **measurement(about.name, data, len(labels), device, network.inference, notes, asked),
        top1=accuracy.top1,
        top5=accuracy.top5,
        expected_calibration_error=error,
        bins=tuple(bins),
        classes=tuple(per_class(counts, classes)),
        confusion=tuple(map(tuple, counts.tolist())),
        mistakes=mistakes,
        temperature=temperature,
        uncalibrated_error=plain_error,
        uncalibrated_bins=tuple(plain_bins),
        right=accuracy.right,
    )
    if out is not None and processes.is_first():
        write(found, out, [visible(own.load(at)) for own, at in (places[i] for i in worst.tolist())])
    return found


def name_classes(about: About, images: Images, notes: list[str], order: Order | None = None) -> About:
    """``about`` with class names: its own, or the images' in the order of the logits.

    Raises ``WeightsError`` where it has none, no order is given, and libraries order the images' classes differently,
    or where an order contradicts its own names; and ``DataError`` for no names and another number of classes."""
    if about.classes and order is None:
        return about
    if about.num_classes != images.num_classes:
        if set(images.classes) <= set(about.classes):
            raise WeightsError(f"the weights name their classes, so {order} orders nothing: leave --class-order out")
        named = "" if about.classes else " without names"
        raise DataError(
            f"the weights have {about.num_classes} classes{named}, the images {images.num_classes}: evaluate on images "
            f"of the classes they were trained on, or name the weights' classes with --class-order FILE"
        )
    classes = in_order(images.classes, order)
    if about.classes == classes:
        notes.append(f"the weights name their classes, in the order of {order}: --class-order can be left out")
        return about
    if set(about.classes) == set(classes):
        raise WeightsError(f"the weights name their classes, in another order than {order}: leave --class-order out")
    how = f"the order of {order}" if order else "order, which is the same in torchvision, Hugging Face and timm"
    notes.append(
        f"the class names of the weights were not used: matched by {how}"
        if about.classes
        else f"the weights do not name their classes: matched by {how}"
    )
    return replace(about, classes=classes)


def match_classes(about: About, images: Images, notes: list[str]) -> npt.NDArray[np.int64]:
    """The bundle's index of each of the images' classes, by name in any Unicode form (see ``name_classes`` for weights
    without names). Raises ``DataError`` where the bundle lacks a class or has one twice, or does not name its classes
    and has another number of them, and where the images were opened with other bands than it was trained on."""
    check_agree(about.preprocessing.bands, images.bands)
    if not images.multilabel:
        about.check_one_class("this")
        return place_classes(name_classes(about, images, notes).classes, images.name, images.classes, notes)
    return place_classes(about.classes, images.name, images.classes, notes, "labels", "mAP is over the other classes")


def place_classes(
    bundle: Sequence[str],
    name: str,
    classes: Sequence[str],
    notes: list[str],
    where: str = "folders",
    then: str = "accuracy is over the other classes",
) -> npt.NDArray[np.int64]:
    """The place in ``bundle`` of each of the ``classes`` of the data called ``name``. Raises ``DataError`` for a class
    that the bundle lacks or has twice. For messages: ``where`` the data names its classes, and what ``then`` of those
    it lacks."""
    known, wanted = ([normalize("NFC", text) for text in names] for names in (bundle, classes))
    if twice := repeated(known) & set(wanted):
        raise DataError(
            f"the weights have several classes called {some(sorted(twice))}, so images cannot be matched with "
            f"them: give each class a name of its own with --class-order FILE"
        )
    place = {text: i for i, text in enumerate(known)}
    if unknown := [text for text in wanted if text not in place]:
        count = plural(len(wanted), "class", "classes")
        raise DataError(
            f"{name} has {len(unknown)} of {count} that the bundle does not know: "
            f"{some(unknown)}; it knows {some(bundle)}: rename the {where}, or leave those classes out"
        )
    if absent := [text for text in known if text not in wanted]:
        notes.append(f"{name} has no images of {some(absent)}: {then}")
    return np.array([place[text] for text in wanted], np.int64)


def own_run(number: int) -> range:
    """This process's run of ``number`` images."""
    first, last = (number * end // processes.count() for end in (processes.rank(), processes.rank() + 1))
    return range(first, last)


def write(found: Evaluation, out: Path, shown: Sequence[npt.NDArray[np.uint8]]) -> None:
    """Write ``found.files``; ``shown`` are the images of ``found.mistakes``."""
    pictures = {"confusion.png": confusion_picture(found), "reliability.png": reliability_picture(found)}
    if found.mistakes:
        pictures["mistakes.png"] = mistakes_picture(found, shown)
    write_evaluation(out, found.to_dict(), pictures)


def begin_evaluation(out: Path | None, request: object) -> str:
    """The fingerprint of an evaluation, of JSON-like data of everything that decides its figures.

    Raises:
        UnusableFolder: ``out`` holds another evaluation.
    """
    asked = fingerprint(request)
    if out is not None:
        check_same(out / "evaluation.json", asked, "evaluation")
    return asked


def write_evaluation(out: Path, found: Mapping[str, object], files: Mapping[str, bytes]) -> None:
    """Write evaluation.json and the other ``files``, by their names, into a folder that is made where there is none."""
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomic(out / "evaluation.json", found)
    for name, content in files.items():
        write_bytes_atomic(out / name, content)
