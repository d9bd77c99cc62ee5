"""What networks answered during a robustness measurement: collected in memory, and kept on disk to survive a kill."""

import io
import shutil
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nextify.evaluation.corrupted_images import Key
from nextify.evaluation.identity import check_same
from nextify.evaluation.metrics import calibration
from nextify.system.files import write_bytes_atomic

T = TypeVar("T")
Right = npt.NDArray[np.bool_]
Confidence = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with the number of images that networks have classified so far, and the number they will classify."""


class Partial:
    """Finished parts of one measurement, one file per part, in a folder of ``root`` named by its fingerprint."""

    def __init__(self, root: Path, results: Path | None = None) -> None:
        """``results``: the JSON file of a measurement that will be replaced by this one's."""
        self.root, self.results = root, results
        self.folder: Path | None = None

    def begin(self, fingerprint: str) -> None:
        """Open the folder of a measurement. Raises ``OSError``; ``UnusableFolder`` where the results are another's."""
        if self.results is not None:
            check_same(self.results, fingerprint, "robustness measurement")
        self.folder = self.root / fingerprint
        self.folder.mkdir(parents=True, exist_ok=True)

    def load(self, part: str) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays of a finished part, or None; a damaged file counts as none."""
        damaged = (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError)
        with suppress(*damaged), np.load(io.BytesIO(self._path(part).read_bytes())) as found:
            return {name: found[name] for name in found.files}
        return None

    def save(self, part: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep a finished part atomically. Raises ``OSError``."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_bytes_atomic(self._path(part), buffer.getvalue())

    def remove(self) -> None:
        """Delete the parts once the results are written; parts of other requests stay."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):
                self.root.rmdir()  # fails unless it is empty

    def _path(self, part: str) -> Path:
        assert self.folder is not None, "begin() comes first"
        return self.folder / f"{part}.npz"


class Recorder:
    """The answers of several networks, collected part by part; parts that an earlier run finished are restored."""

    def __init__(self, total: int, partial: Partial | None, progress: Progress | None) -> None:
        """``total``: the number of images that all networks together will classify."""
        self._done, self._total, self._partial, self._progress = 0, total, partial, progress
        self._answers: dict[tuple[int, Key | None], list[tuple[Right, Confidence]]] = defaultdict(list)
        self._part: dict[str, npt.NDArray[Any]] = {}

    def figures(self, network: int, key: Key | None) -> tuple[float, float]:
        """Top-1 error in percent and expected calibration error (0 to 1); the key None stands for clean images."""
        right, confidence = map(np.concatenate, zip(*self._answers[network, key], strict=True))
        return 100 * (1 - float(right.mean())), calibration(confidence, right)[0]

    def missing(self, what: str, items: Sequence[T], size: int) -> Iterator[tuple[str, Sequence[T]]]:
        """Yield ``items`` in named batches of ``size``, except those whose answers an earlier run has left."""
        for number, start in enumerate(range(0, len(items), size)):
            name = f"{what}-{number}"
            kept = None if self._partial is None else self._partial.load(name)
            if kept is None:
                yield name, items[start : start + size]
                continue
            for place in (field.removesuffix("/right") for field in kept if field.endswith("/right")):
                network, corruption, severity = place.split("/")
                key = None if corruption == "clean" else (corruption, int(severity))
                self._count(int(network), key, kept[f"{place}/right"], kept[f"{place}/confidence"])
            self._report()

    def add(self, network: int, key: Key | None, right: Right, confidence: Confidence) -> None:
        """Add a batch of one network's answers to the part in progress: whether each is right, and its probability."""
        corruption, severity = key or ("clean", 0)
        place = f"{network}/{corruption}/{severity}"
        self._part |= {f"{place}/right": right, f"{place}/confidence": confidence}
        self._count(network, key, right, confidence)
        self._report()

    def finish(self, part: str) -> None:
        """Keep the part in progress under this name. Raises ``OSError``."""
        if self._partial is not None:
            self._partial.save(part, self._part)
        self._part = {}

    def _count(self, network: int, key: Key | None, right: Right, confidence: Confidence) -> None:
        self._answers[network, key].append((right, confidence))
        self._done += len(right)

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total)
