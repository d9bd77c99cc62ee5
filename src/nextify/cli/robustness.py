"""``nextify robustness BUNDLE --data PATH``: measure how corruptions of the images hurt a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from nextify.cli.options import UNSET, Count, Folder, MeasurementOptions, Seed, Workers
from nextify.cli.printing import note, print_columns, print_json
from nextify.paper.settings import Range
from nextify.report.text import percent
from nextify.system.text import plural, printable
from nextify.training.trial import runtime

if TYPE_CHECKING:
    from rich.progress import Progress

    from nextify.evaluation.robustness import Robustness


@dataclass(frozen=True, kw_only=True)
class Options(MeasurementOptions):
    """Corrupt images as ImageNet-C does (15 corruptions, 5 severities) and measure a bundle's error and calibration.

    With --out, also write robustness.json, .csv, .svg, .png and .html; if the command is stopped or killed, running it
    again continues. docs/robustness.md describes the corruptions and how they differ from the published images.
    """

    corruptions: Annotated[tuple[str, ...] | None, UNSET] = None
    """Names, such as fog zoom_blur. Default: all 15."""
    severities: tuple[Annotated[int, Range(least=1, most=5)], ...] = (1, 2, 3, 4, 5)
    """Any of 1 to 5."""
    clean_only: Annotated[bool, UNSET] = False
    """Corrupt nothing: for images that are hard as they are (ImageNet-A, -R, -Sketch)."""
    present_classes: Annotated[bool, UNSET] = False
    """Predict only classes that have images, as in the protocol of ImageNet-A and -R."""
    baseline: Annotated[str | None, UNSET] = None
    """A bundle whose errors count as 100, or alexnet for AlexNet's published errors on ImageNet-C. Default: no mCE."""
    limit: Count = None
    """Measure on this many images, spread evenly over the set."""
    seed: Seed = 0
    """Seed of the corruptions' random numbers."""
    frost: Folder = None
    """Folder of the published frost pictures (frost1.png … frost5.jpg). Default: generated textures."""
    imagenet_c: Folder = None
    """Folder of the published ImageNet-C, measured instead of corrupting images here; --data holds the clean images."""
    workers: Workers = None
    """Processes that corrupt images. Default: none on a CPU, all cores but one with a GPU."""

    def check(self) -> None:
        """Raises ``ValueError`` for options that exclude each other, and as for every measurement."""
        if self.clean_only and self.corruptions is not None:
            raise ValueError("--clean-only corrupts nothing: leave --corruptions out")
        super().check()


def run(options: Options) -> int:
    from rich.console import Console

    from nextify.cli.progress import read_images
    from nextify.evaluation.answers import Partial
    from nextify.evaluation.corruptions import CORRUPTIONS
    from nextify.evaluation.robustness import measure
    from nextify.report.robustness import table, write

    machine = options.machine
    place = runtime(machine.device, machine.threads, options.workers)
    images = read_images(
        Console(stderr=True), options.data, options.reading, None, options.bundle, tested=options.split
    )
    partial = None if options.out is None else Partial(options.out / "unfinished")
    with _bar() as bar:
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
    images = plural(found.images, "image")
    print(f"{printable(found.model) or bundle} on {images} of {found.data}, {found.precision}")
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


def _bar() -> Progress:
    """A bar with the time left on stderr; nothing if stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} images"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
