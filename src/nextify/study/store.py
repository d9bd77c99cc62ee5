"""A study on disk: one folder per trial, named by step, seed and fingerprint, with ``result.json`` once it is finished.

``result.json`` is written atomically, so it is whole or not there; a lock keeps two runs out of one study and is freed
by the system when its holder dies. A store that several machines share is also leased (``system/lease.py``).
"""

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from nextify.study.plan import PlannedTrial
from nextify.system.files import make_folder, parse_json, write_json_atomic
from nextify.system.lease import leased, taken
from nextify.training.result import Result, finished, of_earlier_versions


class Store:
    """The trials of one study below ``root``; as a context manager it locks the study for this process. ``shared``:
    whether other machines work in it, so that a lease tells them."""

    def __init__(self, root: Path, shared: bool = False) -> None:
        self.root, self.shared = root, shared
        self.trials = root / "trials"
        make_folder(self.trials)
        self._lock = ExitStack()

    def __enter__(self) -> Self:
        """Lock the study. Raises ``UnusableFolder`` while another process holds the lock."""
        with ExitStack() as stack:
            stack.enter_context(taken(self.root))
            if self.shared:
                stack.enter_context(leased(self.root))
            self._lock = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(OSError):  # a store in which nothing was trained, by a dry run, leaves no folder
            if {path.name for path in self.root.iterdir()} <= {"trials", ".lock"}:
                self.trials.rmdir()
                (self.root / ".lock").unlink(missing_ok=True)
                self.root.rmdir()
        self._lock.close()

    def folder(self, planned: PlannedTrial) -> Path:
        return self.trials / planned.folder

    def result(self, planned: PlannedTrial) -> Result | None:
        """The result of a finished trial, or None."""
        return finished(self.folder(planned), planned.trial)

    def keep_right(self, planned: PlannedTrial, right: str) -> None:
        """Add to the result of a finished trial which test images its network gets right."""
        path = self.folder(planned) / "result.json"
        write_json_atomic(path, parse_json(path.read_text(encoding="utf-8")) | {"right": right})

    def of_earlier_versions(self, planned: PlannedTrial) -> list[Path]:
        """Folders of the same step and seed that another version of nextify left."""
        return of_earlier_versions(self.trials.glob(f"{planned.step}-seed{planned.trial.seed}-*"))
