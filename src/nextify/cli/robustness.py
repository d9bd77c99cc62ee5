"""``nextify robustness BUNDLE --data PATH``: what corruptions cost a bundle."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from nextify.cli.options import ClassOrder
from nextify.cli.printing import print_columns, print_json

if TYPE_CHECKING:
    from nextify.evaluation.robustness import Progress, Robustness


@dataclass(frozen=True)
class Options:
    """Corrupt images as ImageNet-C does (15 ways, 5 severities) and measure the bundle's error and calibration.

    With --out also robustness.json, .csv, .svg, .png and .html, and stopped or killed, the same command goes on.
    docs/robustness.md says what the corruptions are and where they differ from the published images.
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """What nextify train left; also other weights with as many classes."""
    data: str
    """As for nextify train: digits, cifar10, hf:OWNER/NAME, or a path. The bundle has to know the classes."""
    corruptions: tuple[str, ...] | None = None
    """Names, such as fog zoom_blur. Default: all 15."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Some of 1 to 5."""
    clean_only: bool = False
    """Corrupt nothing: for images that are hard as they are (ImageNet-A, -R, -Sketch)."""
    present_classes: bool = False
    """Choose among the classes that have images, as ImageNet-A and -R are measured."""
    baseline: str | None = None
    """A bundle whose errors count as 100, or alexnet: its published errors on ImageNet-C. Default: no mCE."""
    class_order: ClassOrder = None
    part: Literal["test", "train", "all"] = "test"
    """test: val/ or test/, or what training would have set apart; all: every image, for a folder never trained on."""
    split_seed: int = 0
    """As given to the training, for a folder that has no test images of its own."""
    limit: int | None = None
    """Measure on so many images, evenly spread over the set."""
    seed: int = 0
    """Decides what is drawn at random for each image."""
    frost: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the published pictures of frost (frost1.png … frost5.jpg). Default: made textures."""
    imagenet_c: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of ImageNet-C as published, to measure on instead of corrupting here; --data are the clean images."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the results, and of what is finished while the command runs."""
    json: bool = False
    """Print JSON."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto: a CUDA GPU where there is one."""
    threads: int | None = None
    """CPU threads of the network. Default: all."""
    kernels: Literal["auto", "on", "off"] = "auto"
    """nextify's own kernels: where measured to be faster (auto), wherever possible (on), or plain torch (off)."""
    workers: int | None = None
    """Processes that corrupt images. Default: none beside a CPU, the cores less one beside a GPU."""


def run(options: Options) -> int:
    from nextify.data import open_images
    from nextify.evaluation.corruptions import CORRUPTIONS
    from nextify.evaluation.partial import Partial
    from nextify.evaluation.robustness import measure
    from nextify.report.robustness import write
    from nextify.training.trial import runtime

    if options.clean_only and options.corruptions is not None:
        raise ValueError("--clean-only corrupts nothing: leave --corruptions out")
    place = runtime(options.device, options.threads, options.workers)
    images = open_images(options.data, split_seed=options.split_seed)
    partial = None if options.out is None else Partial(options.out / "unfinished")
    with _Bar() as progress:
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
            threads=options.threads,
            workers=place.workers,
            kernels=options.kernels,
            progress=progress,
            partial=partial,
        )
    written = [] if options.out is None else write(found, options.out)
    if partial is not None:
        partial.remove()
    if options.json:
        print_json(found.to_dict())
        return 0
    _print(found, options.bundle)
    for path in written:
        print(f"written: {path}")
    return 0


def _print(found: Robustness, bundle: str) -> None:
    from nextify.report.robustness import table
    from nextify.report.text import percent

    for note in found.notes:
        print(f"nextify: note: {note}", file=sys.stderr)
    print(f"{found.model or bundle} on {found.images:,} images of {found.data}, {found.precision}")
    print(f"clean: error {found.clean_error:.2f} %, ECE {100 * found.clean_calibration_error:.2f} %")
    if not found.corruptions:
        return
    height, width = found.size
    if found.corrupted_here:
        strengths = f"{found.strengths_of}×{found.strengths_of}"
        print(f"corrupted at {height}×{width} with the strengths published for {strengths}")
    print()
    print_columns(*table(found))
    if found.baseline:
        mce, relative = percent(found.mean_corruption_error, 1), percent(found.relative_mean_corruption_error, 1)
        print(f"\nmCE {mce}, relative mCE {relative}; 100 is {found.baseline}")
    if found.made_frost:
        print("\nfrost: a made texture, not the published pictures; see --frost")


class _Bar:
    """A bar with the time left on stderr; nothing where stderr is no terminal."""

    def __enter__(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self.bars = Progress(
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} images"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bars.add_task("", total=1)
        self.bars.start()
        return lambda done, total: self.bars.update(self.task, completed=done, total=total)

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()
