"""Epochs that show every class equally often: ``class_balance="sampling"``.

An epoch still has N places for N training images, so steps, schedule and time do not change. Each of the C classes
with training images gets N // C places; N % C classes, drawn anew each epoch, get one more. A class of n images fills
its k places with k // n copies of all its images and k % n of them drawn without replacement, so within an epoch the
images of a class are used equally often to within one. The places are then shuffled. Everything is a function of
labels, seed and epoch, so a resumed training continues with the same epochs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nextify.data.images import Labels
from nextify.data.randomness import ORDER, words


def balanced_order(labels: Labels, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The images of an epoch in order: ``(N,)`` indices into ``labels``."""
    random = np.random.RandomState(words(seed, epoch, ORDER))
    by_class = np.argsort(labels, kind="stable")
    classes = np.split(by_class, np.flatnonzero(np.diff(labels[by_class])) + 1)
    places = np.full(len(classes), len(labels) // len(classes))
    places[random.permutation(len(classes))[: len(labels) % len(classes)]] += 1
    chosen = []
    for members, count in zip(classes, places.tolist(), strict=True):
        repetitions, rest = divmod(count, len(members))
        chosen += [np.tile(members, repetitions), random.permutation(members)[:rest]]
    order: npt.NDArray[np.int64] = random.permutation(np.concatenate(chosen)).astype(np.int64)
    return order
