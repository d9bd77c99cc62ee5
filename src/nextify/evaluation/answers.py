"""What networks answered during a robustness measurement: collected in memory, and kept on disk to survive a kill."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nextify.evaluation.corrupted_images import Key
from nextify.evaluation.metrics import calibration
from nextify.system.files import write_bytes_atomic

Right = npt.NDArray[np.bool_]
Confidence = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with the number of images that networks have classified so far, and the number they will classify."""


class Partial:
    """Finished parts of one measurement, one file per part, in a folder of ``root`` named after the request's hash."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder: Path | None = None

    def begin(self, request: object) -> None:
        """Open the folder of ``request``: JSON-like data of everything that decides the figures. Raises ``OSError``."""
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = self.root / digest
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


class Answers:
    """One network's answers so far; the key None stands for the clean images."""

    def __init__(self) -> None:
        self._right: dict[Key | None, list[Right]] = {}
        self._confidence: dict[Key | None, list[Confidence]] = {}

    def add(self, key: Key | None, right: Right, confidence: Confidence) -> None:
        """Add a batch: whether each answer is right, and its probability."""
        self._right.setdefault(key, []).append(right)
        self._confidence.setdefault(key, []).append(confidence)

    def error(self, key: Key | None) -> float:
        """Top-1 error in percent."""
        return 100 * (1 - float(np.concatenate(self._right[key]).mean()))

    def calibration_error(self, key: Key | None) -> float:
        """Expected calibration error, 0 to 1."""
        return calibration(np.concatenate(self._confidence[key]), np.concatenate(self._right[key]))[0]


class Recorder:
    """Collects the answers of several networks part by part, and restores the parts that an earlier run finished."""

    def __init__(self, networks: int, total: int, partial: Partial | None, progress: Progress | None) -> None:
        """``total``: the number of images that all networks together will classify."""
        self.answers: Sequence[Answers] = [Answers() for _ in range(networks)]
        self._done, self._total, self._partial, self._progress = 0, total, partial, progress
        self._part: dict[str, npt.NDArray[Any]] = {}

    def restored(self, part: str) -> bool:
        """Whether the part was finished by an earlier run; if so, its answers are added."""
        kept = None if self._partial is None else self._partial.load(part)
        if kept is None:
            return False
        for name in [name for name in kept if name.endswith("/right")]:
            place = name.removesuffix("/right")
            network, corruption, severity = place.split("/")
            key = None if corruption == "clean" else (corruption, int(severity))
            self._add(int(network), key, kept[name], kept[f"{place}/confidence"])
        self._report()
        return True

    def add(self, network: int, key: Key | None, right: Right, confidence: Confidence) -> None:
        """Add a batch of one network's answers to the part in progress."""
        self._add(network, key, right, confidence)
        corruption, severity = key or ("clean", 0)
        place = f"{network}/{corruption}/{severity}"
        self._part[f"{place}/right"], self._part[f"{place}/confidence"] = right, confidence
        self._report()

    def finish(self, part: str) -> None:
        """Keep the part in progress under this name. Raises ``OSError``."""
        if self._partial is not None:
            self._partial.save(part, self._part)
        self._part = {}

    def _add(self, network: int, key: Key | None, right: Right, confidence: Confidence) -> None:
        self.answers[network].add(key, right, confidence)
        self._done += len(right)

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total)
