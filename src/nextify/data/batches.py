"""Batches as a function of (seed, step): the same for every design and number of workers, and after a resume."""

import multiprocessing
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nextify.data.bands import kind_of
from nextify.data.decode import Pixels, UnreadableImage, quiet
from nextify.data.errors import DataError
from nextify.data.images import EncodedStore, ImageSet, Labels
from nextify.data.randomness import AUGMENTATION, ORDER, order, reseed, seeded, words, words_of_rows
from nextify.data.share import Rows, Share
from nextify.data.sources.listing import members_by_number, split_train
from nextify.data.sources.parts import Splitting
from nextify.data.transforms import Square, TrainTransform
from nextify.paper.recipe import Recipe

Batch = tuple[Tensor, Tensor]
"""On the CPU: uint8 ``(B, S, S, 3)``, or float32 ``(B, S, S, N)`` of N channels; int64 ``(B,)``, or of several labels
``(B, K)``."""

Made = TypeVar("Made")

PREFETCHED = 4
"""Batches that each worker prepares ahead."""


def divided(images: ImageSet, recipe: Recipe) -> tuple[Rows, Rows]:
    """Indices of the images to train on, and of those that the recipe's ``calibration`` holds out, in whole groups.
    Raises ``DataError`` where the groups are too few to hold any of them out."""
    everything = np.arange(len(images))
    if recipe.calibration == "off":
        return everything, everything[:0]
    return split_train(images.labels, Splitting(recipe.calibration), everything, images.groups)[:2]


class BatchesByStep:
    """Which images the training batches of a recipe hold; an incomplete last batch of an epoch is dropped."""

    def __init__(self, trained: Rows, recipe: Recipe, seed: int, workers: int, share: Share | None) -> None:
        """Of the images at the indices ``trained``, prepared by ``workers`` processes, or on demand if 0, which gives
        the same batches; with ``share`` only this process's rows. Raises ``DataError`` where the images do not fill a
        batch."""
        self.trained, self.batch_size, self.seed, self.workers = trained, recipe.batch_size, seed, workers
        self.steps_per_epoch = len(trained) // self.batch_size
        if not self.steps_per_epoch:
            raise DataError(
                f"{len(trained):,} training images do not fill one batch of {self.batch_size:,}, so an epoch would "
                f"have no step: set batch_size to {len(trained)} or less, or let the recipe be fitted to the data"
            )
        self.rows: Rows = np.arange(self.batch_size) if share is None else share.rows
        self._order: tuple[int, Rows] | None = None

    def indices(self, step: int) -> Rows:
        """Indices ``(B,)`` of the images in the whole batch of ``step``."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self.trained[self._shuffled(epoch)]
        return self._order[1][position * self.batch_size : (position + 1) * self.batch_size]

    def _shuffled(self, epoch: int) -> Rows:
        return order(len(self.trained), self.seed, epoch)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_order": None}


def balanced_order(labels: Labels, seed: int, epoch: int) -> Rows:
    """The images of an epoch that shows every class equally often: ``(N,)`` indices into ``labels``.

    An epoch still has N places for N training images, so steps, schedule and time do not change. Each of the C classes
    with training images gets N // C places; N % C classes, drawn anew each epoch, get one more. A class of n images
    fills its k places with k // n copies of all its images and k % n of them drawn without replacement, so within an
    epoch the images of a class are used equally often to within one. The places are then shuffled. Everything is a
    function of labels, seed and epoch, so a resumed training continues with the same epochs.
    """
    random = np.random.RandomState(words(seed, epoch, ORDER))
    classes = members_by_number(labels)
    places = np.full(len(classes), len(labels) // len(classes))
    places[random.permutation(len(classes))[: len(labels) % len(classes)]] += 1
    chosen = []
    for members, count in zip(classes, places.tolist(), strict=True):
        repetitions, rest = divmod(count, len(members))
        chosen += [np.tile(members, repetitions), random.permutation(members)[:rest]]
    return random.permutation(np.concatenate(chosen)).astype(np.int64)


class TrainBatches(BatchesByStep):
    """The training batches of classification, by step."""

    def __init__(
        self, images: ImageSet, recipe: Recipe, image_size: int, seed: int, workers: int = 0, share: Share | None = None
    ) -> None:
        """Raises ``DataError`` where there are fewer images than a batch holds."""
        trained, self.held_out = divided(images, recipe)
        super().__init__(trained, recipe, seed, workers, share)
        self.images, self.image_size = images, image_size
        self.balanced = recipe.class_balance == "sampling"
        self.transform = TrainTransform(recipe, image_size)
        self.ready = self.transform.square.of_all(images) if self.transform.starts_square else images.array

    def _shuffled(self, epoch: int) -> Rows:
        if self.balanced:
            return balanced_order(self.images.labels[self.trained], self.seed, epoch)
        return super()._shuffled(epoch)

    def batch(self, step: int) -> Batch:
        """The batch of ``step``, counted over all epochs. The state of the global random generators is restored."""
        chosen = self.indices(step)[self.rows]
        with seeded(self.seed, step, AUGMENTATION):
            if self.transform.whole_batches:
                out = self.transform.of_squares(self._squares(chosen), self.rows, self.batch_size)
            else:
                out = self._one_by_one(chosen, step)
        return torch.from_numpy(out), torch.from_numpy(self.images.labels[chosen])

    def _squares(self, chosen: Rows) -> Pixels:
        if self.ready is not None:
            return self.ready[chosen]
        return np.stack([self.transform.square(self.images.load(index)) for index in chosen.tolist()])

    def _one_by_one(self, chosen: Rows, step: int) -> npt.NDArray[Any]:
        size, (channels, kind) = self.image_size, kind_of(self.images.bands)
        out = np.empty((len(chosen), size, size, channels), kind)
        # Each row is seeded by itself, so that a process need not draw for rows that are not its own.
        words = words_of_rows(self.seed, step, AUGMENTATION, self.batch_size)[self.rows]
        with quiet():
            for place, index in enumerate(chosen.tolist()):
                reseed(words[place])
                out[place] = self._one(index)
        return out

    def _one(self, index: int) -> Pixels:
        if self.ready is not None:
            return self.transform(self.ready[index])
        store = self.images.store
        if not isinstance(store, EncodedStore):
            return self.transform(store.load(index))
        try:
            return self.transform.of_encoded(store.encoded(index))
        except UnreadableImage as error:
            raise store.unreadable(index, str(error)) from None

    def iterate(self, start_step: int, end_step: int) -> Iterator[Batch]:
        """Yield the batches of steps ``start_step`` to ``end_step - 1``; workers live as long as the iterator."""
        return iterated(self.batch, self.workers, start_step, end_step)

    def __getstate__(self) -> dict[str, object]:
        # The array is restored from the image set, which pickles it more cheaply.
        return super().__getstate__() | {"ready": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.ready = self.transform.square.of_all(self.images) if self.transform.starts_square else self.images.array


def iterated(batch: Callable[[int], Made], workers: int, start_step: int, end_step: int) -> Iterator[Made]:
    """Yield ``batch(step)`` for each step, prepared by worker processes that live as long as the iterator. Raises
    ``DataError`` as ``batch`` does, in a worker too."""
    if not workers:
        yield from map(batch, range(start_step, end_step))
        return
    fork = "fork" in multiprocessing.get_all_start_methods()
    loader: DataLoader[Made | DataError] = DataLoader(
        _ByStep(batch),
        sampler=range(start_step, end_step),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context="fork" if fork else None,
        generator=torch.Generator(),  # the default would draw from the global generator, which is the model's
        prefetch_factor=PREFETCHED,
    )
    with warnings.catch_warnings():
        # Python warns of forking a process with threads; the workers run NumPy and Pillow, and torch on one thread.
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        batches = iter(loader)
    for made in batches:
        if isinstance(made, DataError):
            raise made
        yield made


class _ByStep(Dataset[Made | DataError], Generic[Made]):
    def __init__(self, batch: Callable[[int], Made]) -> None:
        self.batch = batch

    def __getitem__(self, step: int) -> Made | DataError:
        try:
            return self.batch(step)
        except DataError as error:
            return error  # raised by the main process; a worker's exception would arrive as a long traceback


def _as_it_is(batch: Any) -> Any:
    return batch


class BatchesInOrder(ABC, Generic[Made]):
    """The test images in order, each once; the last batch may be smaller. Can be iterated repeatedly.

    With N processes, each takes every N-th batch, so batches do not depend on N. All processes get equally many
    batches, since their networks may wait for each other; the missing ones hold one image that does not count.
    """

    def __init__(self, number: int, batch_size: int, rank: int, count: int) -> None:
        """``number``: of images; ``rank`` and ``count``: of the processes."""
        self.number, self.batch_size, self.rank, self.count = number, batch_size, rank, count

    def __len__(self) -> int:
        return -(-self.number // (self.batch_size * self.count))

    def __iter__(self) -> Iterator[Made]:
        for batch in range(len(self)):
            start = (batch * self.count + self.rank) * self.batch_size
            chosen = range(start, min(start + self.batch_size, self.number))
            yield self._part(chosen) if chosen else self._nothing()

    @abstractmethod
    def _part(self, chosen: range) -> Made: ...
    @abstractmethod
    def _nothing(self) -> Made: ...


class TestBatches(BatchesInOrder[Batch]):
    """The test images of classification. An image that does not count is labelled -1."""

    __test__ = False  # keeps pytest from collecting the class by its name

    def __init__(
        self, images: ImageSet, recipe: Recipe, image_size: int, batch_size: int, rank: int = 0, count: int = 1
    ) -> None:
        super().__init__(len(images), batch_size, rank, count)
        self.images, self.transform = images, Square(image_size, recipe.test_crop_ratio)
        self.pixels = self.transform.of_all(images)

    def _part(self, chosen: range) -> Batch:
        labels = torch.from_numpy(self.images.labels[chosen.start : chosen.stop])
        if self.pixels is not None:
            return torch.from_numpy(self.pixels[chosen.start : chosen.stop]), labels
        return torch.from_numpy(np.stack([self.transform(self.images.load(i)) for i in chosen])), labels

    def _nothing(self) -> Batch:
        pixels, labels = self._part(range(1))
        return pixels, torch.full_like(labels, -1)
