"""Running ``nextify robustness``, and printing what was found."""

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from nextify.cli.printing import note, print_columns, print_json
from nextify.cli.progress import Bars, read_images
from nextify.cli.robustness import Options
from nextify.evaluation.answers import Partial
from nextify.evaluation.corruption_names import CORRUPTIONS
from nextify.evaluation.robustness import Robustness, measure
from nextify.report.robustness import FILES, table, write
from nextify.report.text import percent
from nextify.system.text import plural, printable
from nextify.training.trial import runtime


def run_robustness(options: Options) -> int:
    console, machine = Console(stderr=True), options.machine
    place = runtime(machine.device, machine.threads, options.workers)
    given = options.data, options.reading, None, options.bundle
    images = read_images(console, *given, to_train=False, tested=options.split)
    partial = None if options.out is None else Partial(options.out / "unfinished", options.out / FILES[0])
    done, percentage = TextColumn("{task.completed:,.0f} of {task.total:,.0f} images"), "{task.percentage:>3.0f} %"
    bars = done, BarColumn(bar_width=30), TextColumn(percentage), TimeRemainingColumn(), TextColumn("left")
    with Bars(console, *bars) as bar:
        task = bar.add_task("", total=1)
        found = measure(
            options.bundle,
            images,
            corruptions=() if options.clean_only else options.corruptions or CORRUPTIONS,
            severities=options.severities,
            baseline=options.baseline,
            part=options.part,
            limit=options.limit,
            only_present_classes=options.present_classes,
            class_order=options.class_order,
            seed=options.seed,
            frost_pictures=options.frost,
            imagenet_c=options.imagenet_c,
            device=place.device,
            threads=machine.threads,
            workers=place.workers,
            kernels=machine.kernels,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            partial=partial,
        )
    written = [] if options.out is None else write(found, options.out)
    if partial is not None:
        partial.remove()
    if options.json:
        print_json(found.to_dict())
        return 0
    _print(found, options.bundle, table(found))
    for path in written:
        print(f"written: {path}")
    return 0


def _print(found: Robustness, bundle: str, figures: tuple[tuple[str, ...], list[tuple[str, ...]]]) -> None:
    note(*found.notes)
    measured = f"{found.model or bundle} on {plural(found.images, 'image')} of {found.data}"
    print(f"{printable(measured)}, {found.precision}")
    print(f"clean: error {found.clean_error:.2f} %, ECE {100 * found.clean_calibration_error:.2f} %")
    if not found.corruptions:
        return
    height, width = found.size
    if found.corrupted_here:
        strengths = f"{found.strengths_of}×{found.strengths_of}"
        print(f"corrupted at {height}×{width} with the strengths published for {strengths}")
    print()
    print_columns(*figures)
    if found.baseline:
        mce, relative = percent(found.mean_corruption_error, 1), percent(found.relative_mean_corruption_error, 1)
        print(f"\nmCE {mce}, relative mCE {relative}; 100 is {printable(found.baseline)}")
    if found.made_frost:
        print("\nfrost: a generated texture, not the published pictures; see --frost")
