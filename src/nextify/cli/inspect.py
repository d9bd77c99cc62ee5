"""``nextify inspect BUNDLE --data PATH``: what the data hides, as a list to look at and to act on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from nextify.cli.options import (
    UNSET,
    ClassOrder,
    Folder,
    InferenceOptions,
    Reading,
    check_folder,
    check_weights,
    refuse_for_dense,
)
from nextify.cli.printing import note, print_columns, print_json
from nextify.data.source import check_source, source_name
from nextify.paper.settings import Range
from nextify.system.text import plural, printable
from nextify.training.trial import runtime

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console

    from nextify.data import Images
    from nextify.training.trial import Runtime

SHOWN = 20
"""Findings that are printed; all of them are in the CSV."""


@dataclass(frozen=True, kw_only=True)
class Options(InferenceOptions):
    """Look for labels that are likely wrong, near duplicates across classes and parts, and outliers.

    Leaves a CSV, a sheet of each kind and the probabilities in --out. Cut to what is to be left out, the CSV goes to
    nextify train --without.
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """A bundle left by nextify train, or other weights with the same classes."""
    data: str
    """digits, cifar10, hf:OWNER/NAME, or a path, as for nextify train."""
    folds: Annotated[Annotated[int, Range(least=2, most=100)] | None, UNSET] = None
    """Train this many networks as the bundle was, each without its share of the training images, and check the labels
    of these too. Default: only those of the test images."""
    class_order: ClassOrder = None
    split: Annotated[Literal["val", "test"] | None, UNSET] = None
    """Which part the test images are, of data that has both val and test. Default: val, as in training."""
    out: Folder = None
    """Folder of the results. Default: runs/inspect-DATA."""
    reading: OmitArgPrefixes[Reading] = Reading()

    @property
    def folder(self) -> Path:
        """Of the results."""
        return self.out or Path("runs") / f"inspect-{source_name(self.data)}"

    def check(self) -> None:
        """Raises ``DataError``, ``FileNotFoundError`` or ``UnusableFolder`` for what is not there."""
        check_weights(self.bundle)
        check_source(self.data)
        check_folder(self.folder)


def run(options: Options) -> int:
    from rich.console import Console

    from nextify.cli.progress import read_images
    from nextify.evaluation.inspection import TABLE, TITLES, inspect_images, sheets
    from nextify.training.loop import TrainingStopped
    from nextify.weights.bundle import DenseAbout, stated

    about = stated(options.bundle)
    if isinstance(about, DenseAbout):
        refuse_for_dense(about.task, {"nextify inspect": True})
    place, console = runtime(options.machine.device, options.machine.threads), Console(stderr=True)
    images = read_images(
        *(console, options.data, options.reading, None, options.bundle),
        to_train=options.folds is not None,
        tested=options.split,
    )
    try:
        known = None if options.folds is None else _out_of_fold(options, images, place, console, options.folds)
    except TrainingStopped as stopped:
        console.print(f"{stopped}; the same command goes on from there", highlight=False, markup=False)
        return 130
    found = inspect_images(
        options.bundle,
        images,
        out_of_fold=known,
        device=place.device,
        threads=options.machine.threads,
        class_order=options.class_order,
        kernels=options.machine.kernels,
        out=options.folder,
    )
    if options.json:
        print_json(found.to_dict())
        return 0
    note(*images.warnings, *images.notes, *found.notes)
    print(
        f"{printable(found.model or options.bundle)} on {printable(found.data)}: "
        f"{plural(found.train_images, 'training image')}, {found.test_images:,} to test on"
    )
    for kind, title in TITLES.items():
        print(f"{len(found.of(kind)):,} {kind}: {title}")
    rows = [
        (*map(printable, (row.file, row.label, row.suggested)), f"{row.score:.3f}", row.kind, printable(row.other))
        for row in found.findings[:SHOWN]
    ]
    if rows:
        print()
        print_columns(("file", "label", "suggested", "score", "kind", "other"), rows)
        if len(found.findings) > SHOWN:
            print(f"… and {len(found.findings) - SHOWN:,} more")
        print()
    for name in (TABLE, *sheets(found).values()):
        print(f"written: {options.folder / name}")
    return 0


def _out_of_fold(
    options: Options, images: Images, place: Runtime, console: Console, count: int
) -> npt.NDArray[np.float32]:
    from nextify import cli
    from nextify.cli.progress import Stopping, TrainingProgress
    from nextify.training.folds import folds_of, gathered

    folds = folds_of(options.bundle, images, count)
    known = []
    for number, fold in enumerate(folds, 1):
        console.print(
            f"fold {number} of {count}: learns from {plural(len(images.train) - len(fold.held_out), 'image')} and "
            f"checks {len(fold.held_out):,}",
            highlight=False,
        )
        with TrainingProgress(console, fold.prepared, cli.STARTED) as progress, Stopping() as stopping:
            known.append(fold.probabilities(options.folder / "folds", place, progress.show, stopping.asked))
    return gathered(folds, known)
