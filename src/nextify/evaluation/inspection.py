"""What a data set hides: likely label errors, near duplicates across classes and parts, and outliers.

Label errors need probabilities of images that the network was not trained on: the bundle's of the test images, and
those of ``study/folds.py`` of the training images. Duplicates and outliers are found among all images by the features
that enter the bundle's classifier, and duplicates compared pixel by pixel on thumbnails.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from nextify.data import DataError, Images, ImageSet
from nextify.data.bands import visible
from nextify.evaluation.evaluate import MatchedNetwork, load_matched
from nextify.evaluation.identity import check_same, fingerprint
from nextify.evaluation.label_errors import label_errors
from nextify.evaluation.pictures import Tile, contact_sheet, heading, short
from nextify.evaluation.seen import trained_on
from nextify.networks.network import ConvNet
from nextify.system.device import torch_defaults, usable_device
from nextify.system.files import UnusableFolder, parse_json, write_bytes_atomic, write_json_atomic
from nextify.system.native import Mode
from nextify.system.text import as_csv, plural, printable
from nextify.weights.class_names import ClassOrder

Kind = Literal["label", "duplicate_classes", "duplicate_parts", "outlier"]
"""``label``: likely labelled wrong; ``duplicate_classes``, ``duplicate_parts``: nearly the same image stands in another
class, or among the test images; ``outlier``: unlike all others."""
COLUMNS = ("file", "label", "suggested", "score", "kind", "other")
"""Of the CSV."""
TABLE, PROBABILITIES, SUMMARY = "inspect.csv", "probabilities.npz", "inspect.json"
TITLES: Mapping[Kind, str] = {
    "label": "labels that are likely wrong",
    "duplicate_classes": "nearly the same image in two classes",
    "duplicate_parts": "training images that are nearly test images",
    "outlier": "images unlike all others",
}
NEIGHBOURS = 10
THUMBNAIL = 16
"""Side in pixels of what near duplicates are told by."""
ALIKE = 0.98
"""Least correlation of two thumbnails, one of them possibly mirrored, that makes a near duplicate."""
FAR_OUT = 3.0
"""Interquartile ranges above the third quartile from which a distance is an outlier's: Tukey's outer fence."""
SHOWN = 24
"""Images of a sheet."""


@dataclass(frozen=True)
class Finding:
    """One image to look at."""

    file: str
    label: str
    suggested: str
    """The class that it rather is; empty where there is none to suggest."""
    score: float
    """Higher is more certain: 1 less the probability of the label, the correlation of duplicates, or the mean cosine
    distance of an outlier to its nearest neighbours."""
    kind: Kind
    other: str = ""
    """The image that it duplicates."""


@dataclass(frozen=True)
class Inspection:
    """What was found, the likeliest of each kind first, in the order of ``Kind``."""

    model: str
    data: str
    train_images: int
    test_images: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    def of(self, kind: Kind) -> list[Finding]:
        return [found for found in self.findings if found.kind == kind]

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


@torch_defaults()
def inspect_images(
    bundle: str | Path,
    images: Images,
    *,
    out_of_fold: npt.NDArray[np.float32] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    class_order: ClassOrder | None = None,
    kernels: Mode = "auto",
    out: str | Path | None = None,
) -> Inspection:
    """Inspect labelled images with a bundle.

    Args:
        out_of_fold: ``(N, K)`` probabilities of the training images by networks that were not trained on them, the
            classes being the images'; see ``study/folds.py``. None looks for label errors among the test images.
        out: a folder for a CSV of the findings, a sheet of each kind, and the probabilities.

    Raises:
        WeightsError, DataError: as ``evaluate``.
        TypeError: ``images`` is not an ``Images``.
        UnusableFolder: as ``begin_inspection``.
    """
    device, out = usable_device(device), None if out is None else Path(out)
    network = load_matched(bundle, images, device, threads, class_order, kernels)
    asked = begin_inspection(out, network, images)
    about, notes, labels_of = network.about, network.notes, network.label_of
    about.check_single("nextify inspect")
    assert isinstance(network.model, ConvNet)
    seen: list[Tensor] = []  # what enters the classifier, (B, C) of each batch
    network.model.head.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
    sets = (images.train, images.test)
    predicted = [network(part) for part in sets if len(part)]
    passes = 2 if network.inference.mirror else 1  # each image's own, and then its mirror image's
    features = torch.cat(seen[::passes]).numpy()
    labels = labels_of[np.concatenate([part.labels for part in sets])]
    known = [np.zeros((0, len(about.classes)), np.float32), predicted[-1]]
    if out_of_fold is not None:
        known[0] = np.zeros((len(images.train), len(about.classes)), np.float32)
        known[0][:, labels_of] = out_of_fold
    else:
        notes += trained_on(bundle, [images.test])
    if out_of_fold is None and len(images.train):
        notes.append(
            f"labels are checked on {plural(len(images.test), 'test image')}; --folds 5 checks those of the "
            f"{plural(len(images.train), 'training image')} too, by networks that have not seen them"
        )
    held = _Held(sets, images.classes, labels, len(images.train))
    rows = [*_labels(held, about.classes, known), *_from_features(held, features, notes)]
    rows.sort(key=lambda row: (get_args(Kind).index(row[1].kind), -row[1].score))
    found = Inspection(
        *(about.name, images.name, len(images.train), len(images.test)), tuple(row for _, row in rows), tuple(notes)
    )
    if out is not None:
        _write(found, held, [i for i, _ in rows], known, asked, out)
    return found


def begin_inspection(out: Path | None, network: MatchedNetwork, images: Images) -> str:
    """The fingerprint of an inspection. One with folds may replace the same without, as it checks more labels.

    Raises:
        UnusableFolder: ``out`` holds another inspection, or a list that was edited since it was written.
    """
    asked = fingerprint([*network.identity(), images.fingerprint])
    if out is not None:
        check_same(out / SUMMARY, asked, "inspection")
        _check_unedited(out)
    return asked


def _check_unedited(out: Path) -> None:
    table, written = out / TABLE, None
    if not table.exists():
        return
    with suppress(FileNotFoundError, ValueError, TypeError, LookupError):
        written = parse_json((out / SUMMARY).read_text(encoding="utf-8"))["digest"]
    if hashlib.sha256(table.read_bytes()).hexdigest() != written:
        raise UnusableFolder(
            f"{table} was edited, or not written by nextify inspect, and would be replaced: rename it, or choose "
            f"another --out"
        )


@dataclass(frozen=True)
class _Held:
    """All images in one row, those to train on first."""

    sets: tuple[ImageSet, ImageSet]
    classes: Sequence[str]
    labels: npt.NDArray[np.int64]
    train: int

    def load(self, index: int) -> npt.NDArray[np.uint8]:
        """To look at."""
        part, place = self._place(index)
        return visible(part.load(place))

    def name(self, index: int) -> str:
        part, place = self._place(index)
        return f"{'train' if index < self.train else 'test'} {place}" if part.names is None else part.names[place]

    def label(self, index: int) -> str:
        part, place = self._place(index)
        return str(self.classes[part.labels[place]])

    def _place(self, index: int) -> tuple[ImageSet, int]:
        return (self.sets[0], index) if index < self.train else (self.sets[1], index - self.train)


def _labels(
    held: _Held, classes: Sequence[str], known: Sequence[npt.NDArray[np.float32]]
) -> Iterator[tuple[int, Finding]]:
    """Each part by itself, as its probabilities come from networks of its own."""
    for start, probabilities in zip((0, held.train), known, strict=True):
        labels = held.labels[start : start + len(probabilities)]
        for i, suggested in zip(*label_errors(labels, probabilities), strict=True):
            score = 1 - float(probabilities[i, labels[i]])
            yield start + int(i), _finding(held, start + int(i), score, "label", classes[suggested])


def _finding(
    held: _Held, index: int, score: float, kind: Kind, suggested: str = "", other: int | None = None
) -> Finding:
    beside = "" if other is None else held.name(other)
    return Finding(held.name(index), held.label(index), suggested, round(score, 6), kind, beside)


def _from_features(held: _Held, features: npt.NDArray[np.float32], notes: list[str]) -> Iterator[tuple[int, Finding]]:
    """Near duplicates and outliers."""
    from sklearn.neighbors import NearestNeighbors

    count = min(NEIGHBOURS, len(features) - 1)
    if count < 1:
        raise DataError("one image has no neighbours: give more images")
    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(features)
    distances, neighbours = search.kneighbors()  # (N, count), without the image itself
    thumbnails = np.stack([thumbnail(held.load(i)) for i in range(len(features))])
    pairs: dict[tuple[int, int], float] = {}
    for others in neighbours.T:
        alike = likeness(thumbnails, thumbnails[others])
        for i in np.flatnonzero(alike >= ALIKE).tolist():
            pairs[min(i, int(others[i])), max(i, int(others[i]))] = float(alike[i])
    within = 0
    for (i, j), score in sorted(pairs.items()):
        if held.labels[i] != held.labels[j]:
            yield i, _finding(held, i, score, "duplicate_classes", held.label(j), j)
            yield j, _finding(held, j, score, "duplicate_classes", held.label(i), i)
        elif i < held.train <= j:
            yield i, _finding(held, i, score, "duplicate_parts", other=j)
        else:
            within += 1
    if within:
        notes.append(f"{plural(within, 'pair')} of near duplicates within one class and split: not listed")
    mean = distances.mean(1)
    low, high = np.quantile(mean, (0.25, 0.75))
    for i in np.flatnonzero(mean > high + FAR_OUT * (high - low)).tolist():
        yield i, _finding(held, i, float(mean[i]), "outlier")


def thumbnail(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """``(THUMBNAIL, THUMBNAIL, 3)`` of an image."""
    return np.asarray(Image.fromarray(pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def likeness(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """``(N,)``: the correlation of thumbnails ``(N, S, S, 3)``, or of one with the other's mirror image if higher."""
    return np.maximum(_correlation(one, other), _correlation(one, other[:, :, ::-1]))


def _correlation(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Of images of one colour 1 if they are equal, else 0."""
    same: npt.NDArray[np.float32] = (one == other).reshape(len(one), -1).all(1).astype(np.float32)
    a, b = (x.reshape(len(x), -1).astype(np.float32) for x in (one, other))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    np.divide((a * b).sum(1), scale, out=same, where=scale > 0)
    return same


def csv_text(found: Inspection) -> str:
    return as_csv(COLUMNS, ([getattr(row, name) for name in COLUMNS] for row in found.findings))


def sheets(found: Inspection) -> dict[Kind, str]:
    """The names of the sheets that ``inspect_images`` writes, of the kinds that were found."""
    return {kind: f"{kind}.png" for kind in TITLES if found.of(kind)}


def _write(
    found: Inspection,
    held: _Held,
    rows: Sequence[int],
    known: Sequence[npt.NDArray[np.float32]],
    fingerprint: str,
    out: Path,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    which = np.r_[0 : len(known[0]), held.train : held.train + len(known[1])]
    kept = io.BytesIO()
    files = np.array([printable(held.name(i)) for i in which.tolist()])
    np.savez_compressed(kept, files=files, labels=held.labels[which], probabilities=np.concatenate(known))
    write_bytes_atomic(out / PROBABILITIES, kept.getvalue())
    for kind in TITLES:
        if found.of(kind):
            write_bytes_atomic(out / f"{kind}.png", _sheet(found, kind, held, rows))
        else:  # of an earlier run
            (out / f"{kind}.png").unlink(missing_ok=True)
    table = csv_text(found).encode("utf-8", "surrogateescape")
    summary = {name: value for name, value in found.to_dict().items() if name != "findings"}
    summary |= {"fingerprint": fingerprint, "digest": hashlib.sha256(table).hexdigest()}
    (out / TABLE).unlink(missing_ok=True)  # if killed between the two, no list is taken for an edited one
    write_json_atomic(out / SUMMARY, summary)
    write_bytes_atomic(out / TABLE, table)


def _sheet(found: Inspection, kind: Kind, held: _Held, rows: Sequence[int]) -> bytes:
    place = {held.name(i): i for i in range(len(held.labels))}
    tiles: list[Tile] = []
    for i, row in zip(rows, found.findings, strict=True):
        if row.kind != kind or len(tiles) >= SHOWN:
            continue
        said = f"rather {short(row.suggested, 14)}" if row.suggested else "to train on" if row.other else "far off"
        labelled = f"labelled {short(row.label, 16)}"
        tiles.append(Tile(held.load(i), row.file, f"{said}, {row.score:.3f}", labelled))
        if kind == "duplicate_parts":
            other = place[row.other]
            labelled = f"labelled {short(held.label(other), 16)}"
            tiles.append(Tile(held.load(other), row.other, "the test image", labelled))
    return contact_sheet(tiles, f"{heading(found)}: {TITLES[kind]}")
