"""Decoded arrays on disk: written whole or not at all, memory-mapped, shared by every process that opens them."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Kept:
    """An array that a process in need of it gets cheaply: from memory, or, pickled, by the name of its file."""

    def __init__(self, array: Array, path: Path | None = None) -> None:
        self.array, self.path = array, path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Kept, (self.array,)) if self.path is None else (_reopen, (self.path,))


def _reopen(path: Path) -> Kept:
    kept = open_kept(path)
    if kept is None:
        raise FileNotFoundError(f"{path} is gone or damaged: open the images again")
    return kept


def open_kept(path: Path) -> Kept | None:
    """The array in ``path``, memory-mapped; None where there is no whole one."""
    try:
        # Copy on write: the file stays as it is, and torch does not warn of an array that it may not write to.
        mapped = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return Kept(mapped.view(np.ndarray), path)


def keep(path: Path | None, shape: tuple[int, ...], parts: Iterable[Array]) -> tuple[Kept, OSError | None]:
    """A uint8 array of ``shape`` made of ``parts`` in row order, on disk where ``path`` is given.

    Written by plain writes, which report a full disk, where a write into a mapping would kill the process. When the
    disk refuses, the array is held in memory and the error comes beside it.
    """
    if path is None:
        return Kept(_gathered(shape, parts)), None
    # Made in memory first, so that a full disk does not cost a second decoding; it is at most the limit of the caller.
    array = _gathered(shape, parts)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            np.lib.format.write_array(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return Kept(array), error
    return open_kept(path) or Kept(array), None


def _gathered(shape: tuple[int, ...], parts: Iterable[Array]) -> Array:
    array = np.empty(shape, np.uint8)
    at = 0
    for part in parts:
        array[at : at + len(part)] = part
        at += len(part)
    if at != shape[0]:
        raise ValueError(f"{at} rows for {shape[0]}")
    return array
