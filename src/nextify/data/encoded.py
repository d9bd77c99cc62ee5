"""Encoded images by index: the interface of every source, and its implementation for single files.

Listings, checks and stores use this interface only, whether images are files, members of tar shards or Parquet rows.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nextify.data.decode import UnreadableImage

Stamp = tuple[int, ...]
"""Size, times of modification and change, and inode of the file that holds an image."""


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


class Files:
    """One file per image; ``names`` are paths below ``root``, with ``/``."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    @property
    def place(self) -> str:
        return str(self.root.resolve())

    def stamp(self, index: int) -> Stamp:
        path = self._path(index)
        try:
            return stamp_of(path)
        except OSError:
            if os.path.islink(path):
                raise UnreadableImage("dangling link") from None
            raise

    def read(self, index: int) -> bytes:
        with open(self._path(index), "rb") as file:
            return file.read()

    def _path(self, index: int) -> str:
        return os.path.join(self.root, self.names[index])


def stamp_of(path: str | Path) -> Stamp:
    """The stamp of a regular file. Raises ``OSError``, or ``UnreadableImage`` for a pipe, which would hang a reader."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImage("not a regular file")
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
