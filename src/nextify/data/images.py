"""A data set as the rest of Nextify sees it: labelled images to train on and to test on.

A store holds the pixels: in one array (images of one size), in one flat array (mixed sizes), or encoded, to be decoded
on demand (sets too large to hold).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from nextify.data.bands import LARGEST, Bands, can_normalize, kind_of
from nextify.data.decode import Pixels, UnreadableImage, decode, quiet, why_unread
from nextify.data.encoded import Encoded
from nextify.data.errors import DataError
from nextify.data.kept import Kept
from nextify.system.text import plural, printable

Labels = npt.NDArray[np.int64]
"""``(N,)`` classes; or ``(N, K)`` of 0 and 1 where an image can have several."""

Digests = npt.NDArray[np.bytes_]
DIGEST = 16
"""Digits of a file's SHA-256 that are kept of each image."""
MEASURED = 2_000
"""Images whose mean and deviation are measured at most, spread over the set."""

S = TypeVar("S", bound=Sized)


def class_counts(labels: Labels, num_classes: int) -> npt.NDArray[np.int64]:
    """``(K,)``: images of each class."""
    return labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=num_classes)


def label_of(labels: Labels, index: int) -> tuple[int, ...]:
    """The classes of an image, in order."""
    row = labels[index]
    return tuple(np.flatnonzero(row).tolist()) if labels.ndim == 2 else (int(row),)


class Store(Protocol):
    def load(self, index: int) -> Pixels: ...


class UniformStore:
    """Images of one size: ``(N, H, W, 3)``."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept

    def load(self, index: int) -> Pixels:
        image: Pixels = self.kept.array[index]
        return image


class MixedStore:
    """Images of mixed sizes, one after the other in one flat array."""

    def __init__(self, kept: Kept, sizes: npt.NDArray[np.int64]) -> None:
        self.kept, self.sizes = kept, sizes  # sizes: (N, 2) height and width
        self.channels = kept.array.size // int(sizes.prod(1).sum())
        self.ends = np.cumsum(sizes.prod(1) * self.channels)

    def load(self, index: int) -> Pixels:
        height, width = self.sizes[index]
        end = self.ends[index]
        return self.kept.array[end - height * width * self.channels : end].reshape(height, width, -1)


class EncodedStore:
    """Images that are decoded on demand, every time."""

    def __init__(self, images: Encoded, indices: npt.NDArray[np.int64]) -> None:
        self.images, self.indices = images, indices  # indices: (N,), which of ``images``

    def load(self, index: int) -> Pixels:
        try:
            with quiet():
                return decode(self.encoded(index))
        except UnreadableImage as error:
            raise self.unreadable(index, str(error)) from None

    def encoded(self, index: int) -> bytes:
        """The image's file. Raises ``DataError``."""
        try:
            return self.images.read(int(self.indices[index]))
        except (OSError, UnreadableImage) as error:
            raise self.unreadable(index, why_unread(error)) from None

    def unreadable(self, index: int, reason: str) -> DataError:
        """The error that names an image and the remedy."""
        name = printable(self.images.names[self.indices[index]])
        return DataError(f"{name} cannot be read ({reason}): replace it, or leave it out with --skip-unreadable")


class SelectedStore:
    """Some images of another store."""

    def __init__(self, store: Store, indices: npt.NDArray[np.int64]) -> None:
        self.store, self.indices = store, indices

    def load(self, index: int) -> Pixels:
        return self.store.load(int(self.indices[index]))


def check_images(images: object, *, several: bool = False) -> None:
    """Raise ``TypeError`` for anything but an ``Images``, such as the path of a folder, and ``DataError`` for several
    labels per image where ``several`` is not set."""
    if not isinstance(images, Images):
        raise TypeError(
            f"images must be what nextify.open_images(…) returns, got {type(images).__name__} {images!r:.60}"
        )
    if images.multilabel and not several:
        raise DataError(
            f"{images.name} has several labels per image (multi-label), but this takes one class each; nextify train, "
            f"evaluate, predict, explain, export and serve take several, with weights that were trained on them"
        )


def check_pictures(images: Images, what: str) -> None:
    """Raise ``DataError`` for images of N channels where ``what`` is for pictures."""
    if isinstance(images.bands, int):
        raise DataError(
            f"{what} needs ordinary pictures, but {images.name} was opened with {plural(images.bands, 'channel')}: "
            f"only nextify train takes them"
        )


class StoredImages:
    """Images of a store, and what the source calls each of them."""

    def __init__(self, store: Store, names: Sequence[str] | None, digests: Digests | None = None) -> None:
        self.store, self.names, self.digests = store, names, digests

    def load(self, index: int) -> Pixels:
        """``(H, W, 3)`` uint8 RGB, or ``(H, W, N)`` float32 of N channels, upright; may be a view, to be copied before
        writing to it. Raises ``DataError`` where it cannot be read."""
        return self.store.load(index)

    def name(self, index: int) -> str:
        """What the source calls the image (a file below its folder, a shard's member), or its number; safe to print."""
        return str(index) if self.names is None else printable(self.names[index])

    def digest(self, index: int) -> str:
        """The start of the SHA-256 of the image's file; empty where it lies in none."""
        return "" if self.digests is None else bytes(self.digests[index]).decode()

    def names_at(self, indices: npt.NDArray[np.int64]) -> list[str] | None:
        return None if self.names is None else [self.names[i] for i in indices]


class ImageSet(StoredImages):
    """Labelled images. Pickles cheaply where its pixels are on disk."""

    def __init__(
        self,
        labels: Labels,
        store: Store,
        names: Sequence[str] | None = None,
        keep_under: Path | None = None,
        bands: Bands | None = None,
        groups: Sequence[str] | None = None,
        digests: Digests | None = None,
    ) -> None:
        """
        Args:
            labels: ``(N,)`` int64, indices into the data set's classes; or ``(N, K)``, 1 for each label of an image.
            names: what to call each image in a message; None numbers them.
            keep_under: path whose extensions name the files in which resized copies are kept; None keeps none on disk.
            bands: as ``Images`` has them.
            groups: what each image shows (a patient, a plant), empty for none; None where the source tells no groups.
            digests: ``(N,)``, of each image's file; None where they lie in none.
        """
        super().__init__(store, names, digests)
        self.labels, self.keep_under, self.bands, self.groups = labels, keep_under, bands, groups
        self.squares: dict[tuple[int, int], Kept] = {}
        """Resized copies made in this process, by (resized short side, side of the central crop)."""

    def __len__(self) -> int:
        return len(self.labels)

    def selected(self, indices: npt.NDArray[np.int64]) -> ImageSet:
        """The images at ``indices (M,)``, in that order; resized copies of them are held in memory only."""
        groups = None if self.groups is None else [self.groups[i] for i in indices]
        chosen = SelectedStore(self.store, indices)
        digests = None if self.digests is None else self.digests[indices]
        return ImageSet(self.labels[indices], chosen, self.names_at(indices), None, self.bands, groups, digests)

    @property
    def array(self) -> Pixels | None:
        """All images as one ``(N, H, W, C)`` array, where they are held decoded and have one size."""
        return self.store.kept.array if isinstance(self.store, UniformStore) else None

    @property
    def short_sides(self) -> npt.NDArray[np.int64] | None:
        """``(N,)`` pixels, where the images are of mixed sizes and held decoded."""
        if isinstance(self.store, SelectedStore) and isinstance(self.store.store, MixedStore):
            chosen: npt.NDArray[np.int64] = self.store.store.sizes[self.store.indices].min(1)
            return chosen
        return self.store.sizes.min(1) if isinstance(self.store, MixedStore) else None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"squares": {}}


@dataclass(frozen=True)
class DataSet(Generic[S]):
    """What every data set has, checked and ready."""

    name: str
    classes: tuple[str, ...]
    train: S
    test: S
    mirror_keeps_class: bool
    """Whether a mirrored image, or object, still belongs to its class (mirrored digits do not)."""
    fingerprint: str
    """SHA-256 of the content: classes, split, names and the files' bytes (or labels and pixels), and the task and the
    annotations where there are any."""
    notes: tuple[str, ...]
    """What was decided on the user's behalf and what may surprise, one sentence each."""
    warnings: tuple[str, ...] = field(default=(), kw_only=True)
    """Problems of the data that do not prevent a training, one sentence each."""
    test_images_also_in_training: int | None = field(default=None, kw_only=True)
    """By content; None where this was not checked."""
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict, kw_only=True)
    """Names of what the source holds and is not used, by the reason."""

    @property
    def train_images(self) -> int:
        return len(self.train)

    @property
    def test_images(self) -> int:
        return len(self.test)

    @property
    def num_classes(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Images(DataSet[ImageSet]):
    """A data set for classification."""

    native_size: tuple[int, int] | None
    """Height and width in pixels where all images have the same."""
    untested: tuple[str, ...] = ()
    """Classes without test images, where ``notes`` name them already."""
    middle_side: int | None = None
    """Median of the short sides, pixels; None where the images were not looked at one by one."""
    bands: Bands | None = None
    """The bands that were chosen of each image (``--channels``), or how many there are, where all of them are numbers;
    None shows the images as they are."""

    @property
    def native_side(self) -> int | None:
        """The shorter side in pixels, where all images have one size."""
        return None if self.native_size is None else min(self.native_size)

    @property
    def multilabel(self) -> bool:
        """Whether an image can have several labels, or none."""
        return self.test.labels.ndim == 2

    @property
    def channels(self) -> int:
        return kind_of(self.bands)[0]


def measured(images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation over all pixels of each channel, to six digits; a channel of one value has 1 for the
    latter. Raises ``DataError`` as ``load`` does, and for values too large or too small to normalize."""
    count = min(MEASURED, len(images))
    places = np.arange(count) * len(images) // count
    total = squares = np.zeros(())
    pixels = 0
    for i in places.tolist():
        loaded = images.load(i)
        values = loaded.astype(np.float64).reshape(-1, loaded.shape[-1])
        total, squares, pixels = total + values.sum(0), squares + np.square(values).sum(0), pixels + len(values)
    mean = total / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - np.square(mean), 0))
    deviation = np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1e-3), deviation, 1.0)
    means, deviations = (tuple(float(f"{x:.6g}") for x in values) for values in (mean, deviation))
    for channel, (m, s) in enumerate(zip(means, deviations, strict=True), 1):
        if not can_normalize(m, s):
            raise DataError(
                f"channel {channel} of the training images has a mean of {m:g} and a standard deviation of {s:g}, but "
                f"a network takes means up to {LARGEST:g} and deviations from {1 / LARGEST:g} to {LARGEST:g}: scale "
                f"its values by a constant, or replace no-data values"
            )
    return means, deviations
