"""Encoded images by number, whatever they lie in: single files here, members of tar shards or rows of Parquet.

What a source of images has to give; listing, checks and stores know nothing more of where images lie.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nextify.data.decode import UnreadableImage

Stamp = tuple[int, int]
"""Size in bytes and time of change in nanoseconds of the file that an image lies in."""


class Encoded(Protocol):
    """Images as their files' bytes. Pickles cheaply; may be read from several threads and processes."""

    @property
    def names(self) -> Sequence[str]:
        """What to call each image: the same wherever the data set is moved to."""

    @property
    def place(self) -> str:
        """Where the data set lies; tells sets of equal names apart."""

    def stamp(self, index: int) -> Stamp:
        """While it stays the same, so does the image. Raises ``OSError``, ``UnreadableImage``."""

    def read(self, index: int) -> bytes:
        """Raises ``OSError``, ``UnreadableImage``."""


class Files:
    """A file an image; ``names`` are paths below ``root``, with ``/``."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    @property
    def place(self) -> str:
        return str(self.root.resolve())

    def stamp(self, index: int) -> Stamp:
        path = self._path(index)
        try:
            status = os.stat(path)
        except OSError:
            if os.path.islink(path):
                raise UnreadableImage("dangling link") from None
            raise
        return status.st_size, status.st_mtime_ns

    def read(self, index: int) -> bytes:
        with open(self._path(index), "rb") as file:
            return file.read()

    def _path(self, index: int) -> str:
        return os.path.join(self.root, self.names[index])


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file. Raises ``OSError``."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
