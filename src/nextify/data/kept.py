"""Decoded arrays on disk: written atomically, memory-mapped, and shared by all processes that open them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nextify.system.files import write_atomic

Array = npt.NDArray[Any]


class Kept:
    """An array that is cheap to hand to another process: pickled as its file's path, where there is one."""

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
    """The array in ``path``, memory-mapped; None if the file is missing or damaged."""
    try:
        # Copy on write protects the file, and torch warns of read-only arrays.
        mapped = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return Kept(mapped.view(np.ndarray), path)


def keep(
    path: Path | None, shape: tuple[int, ...], parts: Iterable[Array], dtype: npt.DTypeLike = np.uint8
) -> tuple[Kept, OSError | None]:
    """Join ``parts`` in row order to an array of ``shape``, kept on disk if ``path`` is given. An array that is kept
    there already is returned, without a look at the parts.

    Plain writes report a full disk; a write into a memory mapping would kill the process. If writing fails, the array
    stays in memory and the error is returned beside it.
    """
    if path is not None and (there := open_kept(path)) and (there.array.shape, there.array.dtype) == (shape, dtype):
        return there, None
    # Joined in memory first, so that a full disk does not cost a second decoding; the caller limits its size.
    array = np.empty(shape, dtype)
    at = 0
    for part in parts:
        array[at : at + len(part)] = part
        at += len(part)
    if at != shape[0]:
        raise ValueError(f"{at} rows for {shape[0]}")
    if path is None:
        return Kept(array), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda file: np.lib.format.write_array(file, array, allow_pickle=False))
    except OSError as error:
        return Kept(array), error
    return open_kept(path) or Kept(array), None
