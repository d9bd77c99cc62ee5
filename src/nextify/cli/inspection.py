"""Running ``nextify inspect``."""

import sys
from dataclasses import replace

from rich.console import Console

from nextify.cli.cross_validation import train_folds
from nextify.cli.inspect import Options
from nextify.cli.printing import command_line, note, print_columns, print_json
from nextify.cli.progress import read_images
from nextify.evaluation.evaluate import load_matched
from nextify.evaluation.inspection import TABLE, TITLES, begin_inspection, inspect_images, sheets
from nextify.study.folds import CrossTrainings, FoldsPlan
from nextify.study.store import Store
from nextify.study.study import default_side_by_side
from nextify.system.text import plural, printable
from nextify.training.continued import Finished
from nextify.training.trial import runtime
from nextify.weights.bundle import DenseAbout, stated

SHOWN = 20
"""Findings that are printed; all of them are in the CSV."""


def run_inspection(options: Options) -> int:
    about = stated(options.bundle)
    if isinstance(about, DenseAbout):
        raise ValueError(
            f"nextify inspect takes only classifiers, and the bundle is for {about.task} "
            f"(docs/dense.md#not-supported-yet)"
        )
    place, console = runtime(options.machine.device, options.machine.threads), Console(stderr=True)
    images = read_images(
        *(console, options.data, options.reading, None, options.bundle),
        to_train=options.folds is not None,
        tested=options.split,
    )
    known = None
    if options.folds is not None:
        before = Finished.of(options.bundle)
        network = load_matched(options.bundle, images, place.device, None, options.class_order, options.machine.kernels)
        begin_inspection(options.folder, network, images)  # refuses before hours of training
        plan = FoldsPlan.like(before, images, options.folds, options.reading.split_seed)
        side = plan.prepared.image_size
        together, threads = default_side_by_side(side, place.device, options.machine.threads)
        with Store(options.folder / plan.folder) as store:
            trainings = CrossTrainings(
                *(plan, store, images, replace(place, threads=threads), together, command_line())
            )
            folds = train_folds(console, trainings)
            if isinstance(folds, int):
                return folds
            if failed := [fold for fold in folds.folds if fold.error]:
                print(f"nextify: fold {failed[0].fold} failed: {failed[0].error}", file=sys.stderr)
                return 1
            known, _ = trainings.probabilities()
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
    said = () if options.folds is not None else images.notes  # the folds said them already
    note(*images.warnings, *said, *found.notes)
    print(
        f"{printable(found.model or options.bundle)} on {printable(found.data)}: "
        f"{plural(found.train_images, 'training image')}, {plural(found.test_images, 'test image')}"
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
