"""What a long measurement has finished, a file a part, so that a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nextify.system.files import write_bytes_atomic

Arrays = Mapping[str, npt.NDArray[Any]]


class Partial:
    """Parts of one measurement below ``root``, in a folder named by what was asked for: another request sees none."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder: Path | None = None

    def begin(self, request: Any) -> None:
        """``request``: plain data of everything that decides the figures. Raises ``OSError``."""
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = self.root / digest
        self.folder.mkdir(parents=True, exist_ok=True)

    def load(self, part: str) -> dict[str, npt.NDArray[Any]] | None:
        """The arrays of a finished part, or None; a damaged file counts as none."""
        damaged = (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError)
        with suppress(*damaged), np.load(io.BytesIO(self._path(part).read_bytes())) as found:
            return {name: found[name] for name in found.files}
        return None

    def save(self, part: str, arrays: Arrays) -> None:
        """Keep a finished part, whole or not at all. Raises ``OSError``."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_bytes_atomic(self._path(part), buffer.getvalue())

    def remove(self) -> None:
        """Once the results are written; what other requests left stays."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):
                self.root.rmdir()  # only where nothing else is in it

    def _path(self, part: str) -> Path:
        assert self.folder is not None, "begin() comes first"
        return self.folder / f"{part}.npz"
