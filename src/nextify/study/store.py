"""A study on disk: one folder a trial, named by step, seed and fingerprint, with ``result.json`` once it is finished.

``result.json`` is written atomically, so it is whole or not there; a lock keeps two runs out of one study and is freed
by the system when its holder dies.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

from nextify.study.plan import PlannedTrial
from nextify.system.files import write_json_atomic


class StoreError(OSError):
    """A folder that cannot hold a study; the message names the remedy."""


class Store:
    """The trials of one study below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trials = root / "trials"
        try:
            self.trials.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {self.trials}: {error.strerror}; choose another --out") from error
        self._lock: IO[str] | None = None

    def __enter__(self) -> Store:
        """Take the study for this process. Raises ``StoreError`` while another process has it."""
        try:
            import fcntl
        except ImportError:  # Windows: no lock, the user's care
            return self
        self._lock = open(self.root / ".lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise StoreError(f"{self.root} is in use by another run; wait for it or choose another --out") from error
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def folder(self, planned: PlannedTrial) -> Path:
        return self.trials / planned.folder

    def result(self, planned: PlannedTrial) -> dict[str, Any] | None:
        """The result of a finished trial, or None. A file that is not this trial's result counts as none."""
        try:
            found: dict[str, Any] = json.loads((self.folder(planned) / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if found.get("fingerprint") == planned.trial.fingerprint else None


def save_result(folder: Path, fingerprint: str, result: dict[str, Any]) -> None:
    """Mark a trial as finished."""
    write_json_atomic(folder / "result.json", {"fingerprint": fingerprint, **result})
