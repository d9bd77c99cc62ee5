"""Which images calibrate, choose between candidates and test the chosen one."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from nextify.data import Images
from nextify.data.preflight import digest
from nextify.data.sources.listing import complete_groups
from nextify.deploy.gate import images_needed

CALIBRATION_IMAGES = 300
"""NNCF's default."""
GATE_SHARE = 0.3
"""Of the held-out images; the others are left for the final check, where the interval has to be narrow."""


class TooFewImages(ValueError):
    """Images that cannot show what is promised."""


def divided(images: Images, max_drop: float, seed: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Indices that calibrate (of the training part), choose and test (of the held-out part); equal images, and those of
    a group, are in one part only. Raises ``TooFewImages``."""
    if not max_drop > 0:
        raise TooFewImages("no number of images shows that nothing is lost: give --max-drop above 0, such as 0.3")
    draw, train, test = np.random.default_rng(seed), images.train, images.test
    held = draw.permutation(len(test))
    cut = round(GATE_SHARE * len(held))
    needed = images_needed(max_drop)
    if len(held) - cut < needed:
        least = -int(-needed // (1 - GATE_SHARE))
        raise TooFewImages(
            f"{len(held):,} held-out images of {images.name} cannot show a loss below {max_drop:g} points, even if no "
            f"answer changes: give about {least:,}, or a larger --max-drop"
        )
    if not len(train):
        raise TooFewImages(f"{images.name} has no training images to calibrate on: give data with a training split")
    contents = [digest(test, i) for i in range(len(test))]
    kin = _kin(contents, test.groups)
    _, first, own = np.unique(kin[held], return_index=True, return_inverse=True)
    held = held[np.argsort(first[own], kind="stable")]  # each behind the first of its kin
    borders = np.flatnonzero(np.diff(kin[held])) + 1
    borders = borders[borders <= len(held) - needed]
    if not len(borders):
        raise TooFewImages(
            f"the {len(held):,} held-out images of {images.name} are of too few groups to choose by some of these and "
            f"to test on {needed:,} images of others: add groups, or give a larger --max-drop"
        )
    cut = borders[np.abs(borders - cut).argmin()]
    known, groups = {*contents}, {*(test.groups or ())} - {""}
    fresh = (
        i
        for i in draw.permutation(len(train)).tolist()
        if digest(train, i) not in known and (train.groups is None or train.groups[i] not in groups)
    )
    calibration = np.array([*islice(fresh, CALIBRATION_IMAGES)], np.int64)
    if not len(calibration):
        raise TooFewImages(
            f"each training image of {images.name} is held out, too, or of a held-out group: give others to "
            f"calibrate on"
        )
    return calibration, held[:cut], held[cut:]


def _kin(contents: Sequence[bytes], groups: Sequence[str] | None) -> npt.NDArray[np.int64]:
    """``(N,)``: a number for each image, the same for all that equal ``contents`` or a common group link."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(contents)
    content = np.unique(contents, return_inverse=True)[1]
    group = np.unique(complete_groups(groups or [""] * count), return_inverse=True)[1]
    links = coo_array((np.ones(count), (content, count + group)), shape=(2 * count, 2 * count))
    numbers: npt.NDArray[np.int64] = connected_components(links, directed=False)[1][content]
    return numbers
