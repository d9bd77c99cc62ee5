"""What a study found, written out: JSON, CSV, the figure and one HTML page.

A report needs only :class:`nextify.study.results.StudyResults`, so it can be made again from a ``results.json``:
``write(StudyResults.read("results.json"), folder)``. Importing this package does not import what draws.
"""

from typing import TYPE_CHECKING

from nextify.study.results import StudyResults, finite
from nextify.system.later import later

if TYPE_CHECKING:
    from nextify.report.files import FILES, write

__all__ = ["FILES", "StudyResults", "finite", "write"]


__getattr__ = later(__name__, {"FILES": "files", "write": "files"})
