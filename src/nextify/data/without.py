"""``nextify train --without LIST``: training images that a list names are left out."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from nextify.data.decode import UnreadableImage
from nextify.data.encoded import read_file
from nextify.data.errors import DataError, reading_of
from nextify.data.sources.listing import Listing, present
from nextify.system.text import plural, printable, some

COLUMN = "file"
"""Of the list: images as ``nextify inspect`` and split.csv name them."""


def listed(path: Path) -> tuple[str, ...]:
    """The files that a CSV names in its column ``file``, each once. Raises ``DataError`` where it cannot be read, or
    has no such column, or names nothing."""
    where = printable(str(path))
    try:
        with reading_of(path):
            text = read_file(path).decode("utf-8-sig", "surrogateescape")
        rows = csv.DictReader(text.splitlines(), strict=True)
        if COLUMN not in (rows.fieldnames or ()):
            raise DataError(f"{where} has no column {COLUMN}: give a CSV written by nextify inspect")
        names = tuple(dict.fromkeys(row[COLUMN] for row in rows if row[COLUMN]))
    except UnreadableImage as error:
        raise DataError(f"{where} is {error}: give a CSV written by nextify inspect") from None
    except csv.Error as error:
        raise DataError(f"{where} is not a CSV table ({error}): give one written by nextify inspect") from None
    if not names:
        raise DataError(f"{where} names no files: leave --without out")
    return names


def without(listing: Listing, path: Path) -> Listing:
    """The listing less the training images that ``path`` names; images to test on stay. Raises ``DataError`` as
    ``listed``, for files that are not in the data, and for a class that would lose all its training images."""
    names, where = {*listed(path)}, printable(path.name)
    known = listing.images.names
    used = np.concatenate([listing.train, listing.test])
    if foreign := sorted(names - {known[i] for i in used.tolist()}):
        raise DataError(
            f"{where} names {plural(len(foreign), 'file')} that are not among the training or test images: "
            f"{some(foreign)}; remove them from the list, or make a new one with nextify inspect"
        )
    named = np.array([known[i] in names for i in listing.train.tolist()], bool)
    train, out = listing.train[~named], [known[i] for i in listing.train[named].tolist()]
    lost = np.setdiff1d(present(listing.labels[listing.train]), present(listing.labels[train]))
    if len(lost):
        raise DataError(
            f"{where} names every training image of {some([listing.classes[i] for i in lost])}: remove some from the "
            f"list"
        )
    said = f"{plural(len(out), 'training image is', 'training images are')} left out, as {where} says."
    if stay := len({known[i] for i in listing.test.tolist()} & names):
        said += f" It also names {plural(stay, 'test image, which stays', 'test images, which stay')}."
    left_out = {**listing.left_out, f"named by {where}": out}
    return replace(listing, train=train, notes=(*listing.notes, said), left_out=left_out)
