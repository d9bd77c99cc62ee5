"""An epoch in which every class is shown equally often: ``class_balance="sampling"``.

An epoch stays as long as without it: as many places as there are training images, so steps, schedule and time are the
same. Its N places are shared out evenly over the C classes that have training images: N // C for each, and one more
for N % C classes that are drawn anew each epoch. A class of n images fills its k places with k // n whole repetitions
of all its images, and a draw of k % n of them without replacement. So within an epoch the images of one class are used
equally often to within one: a small class repeats, a large one shows another draw of its images each epoch. The places
are then shuffled. All of it is a function of labels, seed and epoch, so a resumed training goes on with the same ones.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nextify.data.images import Labels
from nextify.data.randomness import ORDER, words


def balanced_order(labels: Labels, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Which image stands at each place of an epoch: ``(N,)`` indices into ``labels``."""
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
