"""A bundle for several labels per image on a set of images: the figures, and the pictures of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nextify.data import DataError, Images, ImageSet
from nextify.data.bands import visible
from nextify.data.images import check_images
from nextify.evaluation.dense_intervals import DRAWS, Interval, draw_counts, middle, parts_of_draws
from nextify.evaluation.evaluate import (
    MatchedNetwork,
    Measurement,
    Part,
    begin_evaluation,
    measurement,
    part_of,
    write_evaluation,
)
from nextify.evaluation.multilabel_pictures import curves_picture, worst_picture
from nextify.evaluation.seen import trained_on
from nextify.system import processes
from nextify.system.device import torch_defaults, usable_device
from nextify.system.native import Mode
from nextify.tasks.multilabel_metrics import UNFITTED, ClassPrecision, MultiLabelMetrics, average_precision
from nextify.weights import WeightsError, load
from nextify.weights.class_names import ClassOrder, is_word

SHOWN_WORST = 24


@dataclass(frozen=True)
class WorstImage:
    """One image, and what was said of it."""

    name: str
    loss: float
    """Mean binary cross entropy of its labels."""
    true: tuple[str, ...]
    given: tuple[str, ...]
    """Labels whose probability reaches the threshold, in the classes' order."""


@dataclass(frozen=True)
class Curve:
    """Precision at the recalls of a class, from its highest score to its lowest; 0 to 1."""

    name: str
    recall: tuple[float, ...]
    precision: tuple[float, ...]


@dataclass(frozen=True)
class MultiLabelEvaluation(Measurement):
    """What a bundle gives on a set of images; figures in percent."""

    metrics: dict[str, float]
    """``map``, ``micro_f1`` and ``macro_f1``."""
    intervals: dict[str, Interval]
    """95 %, of the percentile bootstrap over the images; none for a single image."""
    classes: tuple[ClassPrecision, ...]
    """The bundle's, in the order of the logits."""
    worst: tuple[WorstImage, ...]
    """Highest loss first."""
    curves: tuple[Curve, ...]
    """Of the classes that an image has; not in ``to_dict``."""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of what ``evaluate_multilabel`` leaves; mistakes.png only where anything is wrong."""
        return ("evaluation.json", "precision-recall.png", *["mistakes.png"] * bool(self.worst))

    def to_dict(self) -> dict[str, object]:
        found = asdict(self)
        del found["curves"]
        return found


@torch_defaults()
def evaluate_multilabel(
    bundle: str | Path,
    images: Images,
    *,
    part: Part = "test",
    device: str = "cpu",
    threads: int | None = None,
    class_order: ClassOrder | None = None,
    kernels: Mode = "auto",
    out: str | Path | None = None,
) -> MultiLabelEvaluation:
    """Evaluate a bundle for several labels per image; ``part`` is that of ``evaluate``.

    Args:
        images: ``open_images(…, task="multilabel")``. Labels that the bundle knows and they do not are taken to be in
            none of them.
        class_order: the names of the classes in the order of the logits, or a file of them, where it names none.
        out: a folder for evaluation.json and two pictures.

    Raises:
        WeightsError: no bundle, a damaged one, or one for one class per image.
        DataError: labels that the bundle does not know; images of one class each, or without any label; outputs that
            are NaN or infinite.
        TypeError: ``images`` is not an ``Images``.
        UnusableFolder: ``out`` holds another evaluation.
    """
    check_images(images, several=True)
    device, out = usable_device(device), None if out is None else Path(out)
    if threads is not None:
        torch.set_num_threads(threads)
    if is_word(class_order):
        raise WeightsError("--class-order orders classes of folders; for several labels give a file of the names")
    loaded = load(bundle, class_order=class_order)
    about = loaded.about
    if not about.thresholds:
        raise WeightsError(f"{bundle} gives one class per image, and {images.name} has several labels")
    if not images.multilabel:
        raise DataError(f"{images.name} has one class per image: open it with task='multilabel'")
    network = MatchedNetwork(loaded, images, device, kernels)
    notes = network.notes
    asked = begin_evaluation(out, [*network.identity(), images.fingerprint, part, about.thresholds])
    data, sets = part_of(images, part)
    notes += trained_on(bundle, sets, part)
    logits = np.concatenate([network(s, raw=True) for s in sets])
    truth = np.zeros((len(logits), about.num_classes), bool)
    truth[:, network.label_of] = np.concatenate([s.labels for s in sets]) > 0
    if not truth.any():
        raise DataError(f"no image of {images.name} ({part}) has a label, so nothing can be measured: label some")
    seen = MultiLabelMetrics(logits, truth, about.thresholds)
    if set(about.thresholds) == {UNFITTED}:
        notes.append(
            "labels are assigned from a probability of 0.5; train with --set calibration=0.1 to fit thresholds"
        )
    worst, shown = _worst(seen, about.classes, sets)
    found = MultiLabelEvaluation(
        **measurement(about.name, data, len(truth), device, network.inference, notes, asked),
        metrics=seen.values(),
        intervals=intervals(seen),
        classes=seen.per_class(about.classes),
        worst=worst,
        curves=tuple(
            _curve(name, logits[:, k], truth[:, k]) for k, name in enumerate(about.classes) if truth[:, k].any()
        ),
    )
    if out is not None and processes.is_first():
        write(found, out, shown)
    return found


def intervals(seen: MultiLabelMetrics, draws: int = DRAWS) -> dict[str, Interval]:
    """95 % intervals of the metrics, percent, over draws of as many images with replacement; none for one image.

    A class of which a draw has no image does not count in its means.
    """
    if seen.images < 2:
        return {}
    weights = draw_counts(seen.images, draws)
    right, given, true = (part.astype(np.float64) for part in (seen.given & seen.truth, seen.given, seen.truth))
    counts = [weights.astype(np.float64) @ part for part in (right, given, true)]  # (draws, K) each
    there = counts[2] > 0
    ap = np.full(there.shape, np.nan)
    for k in np.flatnonzero(seen.truth.any(0)).tolist():
        for part in parts_of_draws(draws, seen.images):
            ap[part, k] = average_precision(seen.logits[:, k], seen.truth[:, k], weights[part].astype(np.float64))
    f1 = np.where(there, 2 * counts[0] / np.maximum(counts[1] + counts[2], 1), np.nan)
    some = there.any(1)
    right, given, true = (part.sum(1) for part in counts)
    drawn = {
        "map": np.nanmean(ap[some], 1),
        "micro_f1": (2 * right / np.maximum(given + true, 1))[some],
        "macro_f1": np.nanmean(f1[some], 1),
    }
    return {key: middle(100 * values) for key, values in drawn.items()}


def _curve(name: str, scores: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> Curve:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(truth, scores)
    return Curve(name, tuple(recall[::-1].tolist()), tuple(precision[::-1].tolist()))


def _worst(
    seen: MultiLabelMetrics, classes: Sequence[str], sets: Sequence[ImageSet]
) -> tuple[tuple[WorstImage, ...], list[npt.NDArray[np.uint8]]]:
    """The images with a wrong label of the highest loss, and their pixels."""
    signed = np.where(seen.truth, -1, 1) * seen.logits.astype(np.float64)
    losses = np.logaddexp(0, signed).mean(1)
    wrong = np.flatnonzero((seen.given != seen.truth).any(1))
    chosen = wrong[np.argsort(-losses[wrong], kind="stable")][:SHOWN_WORST].tolist()

    def names(row: npt.NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(classes[k] for k in np.flatnonzero(row).tolist())

    everything = [(part, i) for part in sets for i in range(len(part))]
    places = [everything[i] for i in chosen]
    worst = tuple(
        WorstImage(own.name(at), float(losses[i]), names(seen.truth[i]), names(seen.given[i]))
        for i, (own, at) in zip(chosen, places, strict=True)
    )
    return worst, [visible(own.load(at)) for own, at in places]


def write(found: MultiLabelEvaluation, out: Path, shown: Sequence[npt.NDArray[np.uint8]]) -> None:
    """Write ``found.files``; ``shown`` are the images of ``found.worst``."""
    pictures = {"precision-recall.png": curves_picture(found)}
    if found.worst:
        pictures["mistakes.png"] = worst_picture(found, shown)
    write_evaluation(out, found.to_dict(), pictures)
