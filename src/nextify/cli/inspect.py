"""``nextify inspect BUNDLE --data PATH``: likely label errors, near duplicates and outliers, as a list to review."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from nextify.cli.options import UNSET, ClassOrder, Folder, InferenceOptions, Reading, check_folder, check_weights
from nextify.data.source import check_source, source_name
from nextify.paper.settings import Range


@dataclass(frozen=True, kw_only=True)
class Options(InferenceOptions):
    """Look for labels that are likely wrong, near duplicates across classes and splits, and outliers.

    Writes a CSV, a sheet of each kind and the probabilities to --out. Delete the CSV's rows of images to keep, then
    pass it to nextify train --without.
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """A bundle left by nextify train, or other weights with the same classes."""
    data: str
    """digits, cifar10, hf:OWNER/NAME, or a path, as for nextify train."""
    folds: Annotated[Annotated[int, Range(least=2, most=100)] | None, UNSET] = None
    """Train this many networks like the bundle, each leaving out a different share of the training images, and check
    the training labels with them. Default: only test labels are checked."""
    class_order: ClassOrder = None
    split: Annotated[Literal["val", "test"] | None, UNSET] = None
    """Which split to use as test images if the data has both val and test. Default: val, as in training."""
    out: Folder = None
    """Folder of the results. Default: runs/inspect-DATA."""
    reading: OmitArgPrefixes[Reading] = Reading()

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / f"inspect-{source_name(self.data)}"

    def check(self) -> None:
        """Raises ``DataError``, ``FileNotFoundError`` or ``UnusableFolder`` for what is not there."""
        check_weights(self.bundle)
        check_source(self.data)
        check_folder(self.folder)


run = "nextify.cli.inspection:run_inspection"
