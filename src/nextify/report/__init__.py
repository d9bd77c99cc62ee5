"""What a study found, written out: JSON, CSV, the figure and one HTML page.

A report needs only :class:`nextify.study.results.StudyResults`, so it can be made again from a ``results.json``:
``write(StudyResults.read("results.json"), folder)``. Importing this package does not import what draws.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nextify.study.results import StudyResults, finite

if TYPE_CHECKING:
    from nextify.report.files import FILES, write

__all__ = ["FILES", "StudyResults", "finite", "write"]


def __getattr__(name: str) -> Any:
    if name in ("FILES", "write"):
        return getattr(import_module("nextify.report.files"), name)
    raise AttributeError(f"module 'nextify.report' has no attribute {name!r}")
