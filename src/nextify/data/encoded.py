"""Encoded images by index: the interface of every source, and its implementation for single files.

Listings, checks and stores use this interface only, whether images are files, members of tar shards or Parquet rows.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from nextify.data.decode import UnreadableImage

Stamp = tuple[int, ...]
"""Size, times of modification and change, and inode of the file that holds an image."""

LARGEST_FILE = 2**30
"""Bytes of an image's file; what is larger is none, or more than is decoded."""


class Encoded(Protocol):
    """Images as encoded bytes. Cheap to pickle; can be read from several threads and processes."""

    @property
    def names(self) -> Sequence[str]:
        """A name for each image, independent of where the data set is stored."""

    @property
    def place(self) -> str:
        """Where the data set is stored; distinguishes sets with equal names."""

    def stamp(self, index: int) -> Stamp:
        """Changes whenever the image may have changed. Raises ``OSError`` or ``UnreadableImage``."""

    def read(self, index: int) -> bytes:
        """The encoded bytes of an image. Raises ``OSError`` or ``UnreadableImage``."""


class Below:
    """Images in files below a folder."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    @property
    def place(self) -> str:
        return str(self.root.resolve())


class Files(Below):
    """One file per image; ``names`` are paths below ``root``, with ``/``."""

    def stamp(self, index: int) -> Stamp:
        path = self._path(index)
        try:
            return stamp_of(path)
        except OSError:
            if os.path.islink(path):
                raise UnreadableImage("dangling link") from None
            raise

    def read(self, index: int) -> bytes:
        return read_file(self._path(index))

    def _path(self, index: int) -> str:
        return os.path.join(self.root, self.names[index])


class Selected:
    """Some images of a source, in an order of their own."""

    def __init__(self, images: Encoded, chosen: Sequence[int]) -> None:
        """``chosen``: the positions of the images in ``images``."""
        self.images, self.chosen = images, np.asarray(chosen, np.int64)
        self.names = tuple(images.names[i] for i in chosen)

    @property
    def place(self) -> str:
        return self.images.place

    def stamp(self, index: int) -> Stamp:
        return self.images.stamp(int(self.chosen[index]))

    def read(self, index: int) -> bytes:
        return self.images.read(int(self.chosen[index]))


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file; a pipe or a device might never end. Raises ``OSError`` where it cannot be read, and
    ``UnreadableImage`` where it is no regular file, or larger than ``LARGEST_FILE``."""
    status = _regular(path)
    if status.st_size > LARGEST_FILE:
        raise UnreadableImage(f"a file of more than {LARGEST_FILE // 2**20:,} MiB")
    with open(path, "rb") as file:
        return file.read()


def stamp_of(path: str | os.PathLike[str]) -> Stamp:
    """The stamp of a regular file. Raises ``OSError`` and ``UnreadableImage``, as ``read_file`` does."""
    status = _regular(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _regular(path: str | os.PathLike[str]) -> os.stat_result:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImage("not a regular file")
    return status
