"""Running ``nextify evaluate``: measuring a bundle, and printing what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from nextify.cli.options import refuse_for_dense
from nextify.cli.printing import note, print_columns, print_json
from nextify.cli.progress import read_any, read_images
from nextify.data.dense.annotations import DenseImages
from nextify.evaluation import dense, multilabel
from nextify.evaluation.dense import DetectionEvaluation, SegmentationEvaluation
from nextify.evaluation.dense_intervals import DRAWS
from nextify.evaluation.evaluate import evaluate, files
from nextify.evaluation.finder import open_finder
from nextify.report.text import percent
from nextify.system import processes
from nextify.system.text import plural, printable
from nextify.tasks import multilabel_metrics
from nextify.tasks.accuracy import SPECS
from nextify.tasks.task import summary
from nextify.training.trial import runtime
from nextify.weights.bundle import About, DenseAbout, stated

if TYPE_CHECKING:
    from nextify.cli.evaluate import Options


def run_evaluation(options: Options) -> int:
    about = stated(options.bundle)
    if isinstance(about, DenseAbout):
        return _run_dense(options, about)
    if options.ignore_index is not None:
        raise ValueError(f"--ignore-index is for index masks, and {options.bundle} is a classifier: leave it out")
    if isinstance(about, About) and about.thresholds:
        return _run_multilabel(options)
    return _run(options)


def _run_multilabel(options: Options) -> int:
    place = runtime(options.machine.device, options.machine.threads)
    with processes.joined(place.device):
        images = read_images(
            *(Console(stderr=True), options.data, options.reading, None, options.bundle),
            to_train=False,
            tested=options.split,
            task="multilabel",
            several=True,
        )
        found = multilabel.evaluate_multilabel(
            options.bundle,
            images,
            part=options.part,
            device=place.device,
            threads=options.machine.threads,
            class_order=options.class_order,
            kernels=options.machine.kernels,
            out=options.out,
        )
    if processes.number() > 0:
        return 0
    if options.json:
        print_json(found.to_dict())
        return 0
    note(*images.warnings, *images.notes, *found.notes)
    measured = f"{found.model or options.bundle} on {plural(found.images, 'image')} of {found.data}"
    print(f"{printable(measured)}, {found.precision}")
    within = {key: f" ({low:.2f} to {high:.2f})" for key, (low, high) in found.intervals.items()}
    figures = ", ".join(
        spec.text(found.metrics[spec.key]) + within.get(spec.key, "") for spec in multilabel_metrics.SPECS
    )
    print(f"{figures}{f'; in parentheses 95 % intervals of {DRAWS:,} bootstrap draws' if within else ''}\n")
    rows = [
        (
            *(printable(c.name), f"{c.images:,}", percent(c.ap), f"{c.threshold:.3f}", f"{c.given:,}"),
            *map(percent, (c.precision, c.recall, c.f1)),
        )
        for c in found.classes
    ]
    header = ("class", "images", "AP, %", "threshold", "given", "precision, %", "recall, %", "F1, %")
    print_columns(header, rows)
    if options.out is not None:
        for name in multilabel.files(found):
            print(f"written: {options.out / name}")
    return 0


def _run(options: Options) -> int:
    place = runtime(options.machine.device, options.machine.threads)
    with processes.joined(place.device):
        images = read_images(
            *(Console(stderr=True), options.data, options.reading, None, options.bundle),
            to_train=False,
            tested=options.split,
        )
        found = evaluate(
            options.bundle,
            images,
            part=options.part,
            device=place.device,
            threads=options.machine.threads,
            class_order=options.class_order,
            kernels=options.machine.kernels,
            out=options.out,
        )
    if processes.number() > 0:
        return 0  # only the first process prints
    if options.json:
        print_json(found.to_dict())
        return 0
    note(*images.warnings, *images.notes, *found.notes)
    measured = f"{found.model or options.bundle} on {plural(found.images, 'image')} of {found.data}"
    print(f"{printable(measured)}, {found.precision}")
    low, high = found.top1_interval
    figures = summary(SPECS, {"top1": found.top1, "top5": found.top5})
    print(f"{figures}; 95 % interval of top-1 {low:.2f} to {high:.2f} %")
    before = "" if found.uncalibrated_error is None else f", {100 * found.uncalibrated_error:.2f} % before"
    error = f"{100 * found.expected_calibration_error:.2f} %{before} ({len(found.bins)} bins)"
    print(f"expected calibration error {error}: {found.confidence}\n")
    rows = [
        (printable(c.name), f"{c.images:,}", percent(c.top1), f"{c.predicted:,}", percent(c.precision))
        for c in found.classes
    ]
    print_columns(("class", "images", "recall, %", "predicted", "precision, %"), rows)
    if options.out is not None:
        for name in files(found):
            print(f"written: {options.out / name}")
    return 0


def _run_dense(options: Options, about: DenseAbout) -> int:
    refuse_for_dense(about.task, {"--class-order": options.class_order, "--channels": options.reading.channels})
    place, console = runtime(options.machine.device, options.machine.threads), Console(stderr=True)
    with processes.joined(place.device):
        images = read_any(
            *(console, options.data, options.reading, None, None, about.design.task, options.ignore_index),
            to_train=False,
            tested=options.split,
        )
        assert isinstance(images, DenseImages)
        finder = open_finder(
            options.bundle, device=place.device, threads=options.machine.threads, kernels=options.machine.kernels
        )
        with console.status("looking at the images …") as status:
            found = dense.evaluate_dense(
                *(finder, images),
                part=options.part,
                out=options.out,
                on_progress=lambda done, count: status.update(f"evaluated {done:,} of {count:,} images …"),
            )
    if processes.number() > 0:
        return 0
    if options.json:
        print_json(found.to_dict())
        return 0
    note(*images.warnings, *images.notes, *found.notes)
    print(f"{printable(found.model)} on {plural(found.images, 'image')} of {printable(found.data)}, {found.precision}")
    drawn = f"; in parentheses 95 % intervals of {DRAWS:,} bootstrap draws" if found.intervals else ""
    print(f"{dense.figures(found)}{drawn}")
    _print_classes(found)
    if options.out is not None:
        for name in dense.files(found):
            print(f"written: {options.out / name}")
    return 0


def _print_classes(found: DetectionEvaluation | SegmentationEvaluation) -> None:
    """What the figures come from: sizes and the best score, and a line per class."""
    if isinstance(found, SegmentationEvaluation):
        pixels = max(1, sum(row.pixels for row in found.classes))
        print()
        print_columns(
            ("class", "pixels, %", "IoU, %", "recall, %", "precision, %"),
            [
                (
                    printable(row.name),
                    percent(100 * row.pixels / pixels),
                    *map(percent, (row.iou, row.recall, row.precision)),
                )
                for row in found.classes
            ],
        )
        return
    sizes = [f"{size} {percent(found.metrics.get(f'ap_{size}'))}" for size in ("small", "medium", "large")]
    print(f"AP by size: {', '.join(sizes)}")
    print(f"highest F1 {100 * found.f1:.2f} %, with a score of at least {found.least_score:.3f} (IoU 0.5)\n")
    masks = "mask_ap" in found.metrics
    header = ("class", "objects", "found", "AP", "AP50", "recall at IoU 0.5", *(("mask AP",) if masks else ()))
    rows = [
        (
            *(printable(row.name), f"{row.objects:,}", f"{row.found:,}"),
            *map(percent, (row.ap, row.ap50, row.recall50, *((row.mask_ap,) if masks else ()))),
        )
        for row in found.classes
    ]
    print_columns(header, rows)
