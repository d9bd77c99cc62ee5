"""Running ``nextify evaluate``: measuring a bundle, and printing what was found."""

from typing import Any, assert_never

from rich.console import Console

from nextify.cli.evaluate import Options
from nextify.cli.options import refuse_for_dense
from nextify.cli.printing import note, print_columns, print_json
from nextify.cli.progress import read_any, read_images
from nextify.data.dense.annotations import DenseImages
from nextify.data.dense.opening import recognize
from nextify.evaluation import dense, multilabel
from nextify.evaluation.dense import DetectionEvaluation, SegmentationEvaluation
from nextify.evaluation.dense_intervals import DRAWS
from nextify.evaluation.evaluate import Evaluation, evaluate, part_of
from nextify.evaluation.finder import open_finder
from nextify.evaluation.multilabel import MultiLabelEvaluation
from nextify.evaluation.seen import trained_on
from nextify.report.text import percent
from nextify.system import processes
from nextify.system.text import plural, printable
from nextify.tasks.metric_specs import ACCURACY, LABELS, is_telling, summary
from nextify.training.learned import AnyImages
from nextify.training.trial import runtime
from nextify.weights.bundle import About, DenseAbout, stated

Found = Evaluation | MultiLabelEvaluation | DetectionEvaluation | SegmentationEvaluation


def run_evaluation(options: Options) -> int:
    about = stated(options.bundle)
    if isinstance(about, DenseAbout):
        refuse_for_dense(about.task, {"--class-order": options.class_order, "--channels": options.reading.channels})
    elif options.multi_scale:
        raise ValueError(f"--multi-scale is for segmenters, and {options.bundle} is a classifier: leave it out")
    elif options.ignore_index is not None:
        raise ValueError(f"--ignore-index is for index masks, and {options.bundle} is a classifier: leave it out")
    place = runtime(options.machine.device, options.machine.threads)
    with processes.joined(place.device):
        images, found = _measured(options, about, place.device)
    if processes.number() > 0:
        return 0  # only the first process prints
    if options.json:
        print_json(found.to_dict())
        return 0
    note(*images.warnings, *images.notes, *found.notes)
    measured = f"{found.model or options.bundle} on {plural(found.images, 'image')} of {found.data}"
    print(f"{printable(measured)}, {found.precision}")
    match found:
        case Evaluation():
            _print(found)
        case MultiLabelEvaluation():
            _print_multilabel(found)
        case DetectionEvaluation() | SegmentationEvaluation():
            _print_dense(found)
        case unknown:
            assert_never(unknown)
    if options.out is not None:
        for name in found.files:
            print(f"written: {options.out / name}")
    return 0


def _measured(options: Options, about: object, device: str) -> tuple[AnyImages, Found]:
    """The images, and what the bundle of ``about`` gives on them."""
    console = Console(stderr=True)
    of_parts: dict[str, Any] = {"to_train": False, "tested": options.split}
    machine: dict[str, Any] = {"device": device, "threads": options.machine.threads, "kernels": options.machine.kernels}
    if isinstance(about, DenseAbout):
        ignored, notes = options.ignore_index, list[str]()
        if ignored is None and about.ignore_index is not None and recognize(options.data) == "segmentation":
            ignored = about.ignore_index
            notes = [f"As in training, index {ignored} of the masks is ignored; --ignore-index 255 counts it."]
        dense_images = read_any(*(console, options.data, options.reading, None, about.design.task, ignored), **of_parts)
        assert isinstance(dense_images, DenseImages)
        finder = open_finder(options.bundle, **machine, multi_scale=options.multi_scale)
        with console.status("evaluating the images …") as status:
            return dense_images, dense.evaluate_dense(
                *(finder, dense_images),
                part=options.part,
                notes=[*notes, *trained_on(options.bundle, part_of(dense_images, options.part)[1], options.part)],
                out=options.out,
                on_progress=lambda done, count: status.update(f"evaluated {done:,} of {count:,} images …"),
            )
    several = isinstance(about, About) and bool(about.thresholds)
    images = read_images(
        *(console, options.data, options.reading, None, options.bundle),
        task="multilabel" if several else None,
        several=several,
        **of_parts,
    )
    measure = multilabel.evaluate_multilabel if several else evaluate
    how: dict[str, Any] = {"part": options.part, "class_order": options.class_order, "out": options.out}
    return images, measure(options.bundle, images, **how, **machine)


def _print_multilabel(found: MultiLabelEvaluation) -> None:
    within = {key: f" ({low:.2f} to {high:.2f})" for key, (low, high) in found.intervals.items()}
    figures = ", ".join(spec.text(found.metrics[spec.key]) + within.get(spec.key, "") for spec in LABELS)
    print(f"{figures}{f'; in parentheses, 95 % intervals from {DRAWS:,} bootstrap draws' if within else ''}\n")
    rows = [
        (
            *(printable(c.name), f"{c.images:,}", percent(c.ap), f"{c.threshold:.3f}", f"{c.given:,}"),
            *map(percent, (c.precision, c.recall, c.f1)),
        )
        for c in found.classes
    ]
    header = ("class", "images", "AP, %", "threshold", "given", "precision, %", "recall, %", "F1, %")
    print_columns(header, rows)


def _print(found: Evaluation) -> None:
    low, high = found.top1_interval
    specs = [spec for spec in ACCURACY if is_telling(spec.key, len(found.classes))]
    figures = summary(specs, {"top1": found.top1, "top5": found.top5})
    print(f"{figures}; 95 % interval of top-1 {low:.2f} to {high:.2f} %")
    before = "" if found.uncalibrated_error is None else f", {100 * found.uncalibrated_error:.2f} % before"
    error = f"{100 * found.expected_calibration_error:.2f} %{before} ({len(found.bins)} bins)"
    print(f"expected calibration error {error}: {found.confidence}\n")
    rows = [
        (printable(c.name), f"{c.images:,}", percent(c.top1), f"{c.predicted:,}", percent(c.precision))
        for c in found.classes
    ]
    print_columns(("class", "images", "recall, %", "predicted", "precision, %"), rows)


def _print_dense(found: DetectionEvaluation | SegmentationEvaluation) -> None:
    """The figures and what they come from: sizes and the best score, and a line per class."""
    drawn = f"; in parentheses, 95 % intervals from {DRAWS:,} bootstrap draws" if found.intervals else ""
    print(f"{dense.figures(found)}{drawn}")
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
    print(
        f"highest F1 {100 * found.f1:.2f} %, with a score of at least {found.least_score:.3f} (IoU 0.5); recall and "
        "precision of the classes are at that score\n"
    )
    masks = "mask_ap" in found.metrics
    header = ("class", "objects", "AP", "AP50", *(("mask AP",) if masks else ()), "recall, %", "precision, %")
    given = [sum(column) for column in zip(*found.confusion, strict=True)]
    rows = []
    for k, row in enumerate(found.classes):
        right = 100 * found.confusion[k][k]
        shares = (right / row.objects if row.objects else None, right / given[k] if given[k] else None)
        figures = (row.ap, row.ap50, *((row.mask_ap,) if masks else ()), *shares)
        rows.append((printable(row.name), f"{row.objects:,}", *map(percent, figures)))
    print_columns(header, rows)
