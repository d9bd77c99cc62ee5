"""Running ``nextify quantize``, and what ``nextify export`` shares with it."""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

from rich.console import Console

from nextify.cli import export, quantize
from nextify.cli.printing import note, print_json
from nextify.cli.progress import read_images
from nextify.data import Images
from nextify.deploy.quantize import Candidate, Quantized
from nextify.deploy.quantize import quantize as quantized
from nextify.report.columns import TABLES, Column, shown
from nextify.report.tables import terminal_of
from nextify.report.text import interval, percent, signed, whole
from nextify.weights.bundle import DenseAbout, stated

COLUMNS: list[Column[Candidate]] = [
    Column("name", "candidate", shown=TABLES, css="text"),
    Column("top1", "top-1", "%", lambda c: percent(c.top1), TABLES, narrow="top-1\n%"),
    Column(
        "change", "change [95 % interval]", "points",
        lambda c: f"{signed(c.change.value)}\n{interval(c.change.low, c.change.high)}", TABLES,
        getter=lambda c: c.change.value, narrow="change, points\n[95 %]",
    ),
    Column("ece", "ECE", "%", lambda c: percent(c.ece), TABLES, narrow="ECE\n%"),
    Column("bytes", "size", "MB", lambda c: f"{c.bytes / 1e6:.2f}", TABLES, narrow="size\nMB"),
    Column("milliseconds", "one image", "ms", lambda c: f"{c.milliseconds:.2f}", TABLES, narrow="one\nimage\nms"),
    Column(
        "images_per_second", "batches", "images/s", lambda c: whole(c.images_per_second), TABLES,
        narrow="batches\nimages\nper s",
    ),
    Column("verdict", "verdict", shown=TABLES, css="text"),
]  # fmt: skip


def run_quantize(options: quantize.Options) -> int:
    if isinstance(about := stated(options.bundle), DenseAbout):
        raise no_search(options.bundle, about)
    images = read_images(Console(stderr=True), options.data, options.reading, None, options.bundle)
    note(*images.warnings)
    return search(partial(quantized, to=options.to, seed=options.seed), images, options)


def no_search(bundle: str, about: DenseAbout) -> ValueError:
    """What to say where a detector or segmenter is to be quantized."""
    return ValueError(
        f"int8 and --fastest are for classifiers so far, and {bundle} is for {about.task}: nextify export "
        f"writes segmenters and one-stage detectors in fp32"
    )


def search(made: Callable[..., Quantized], images: Images, options: quantize.Options | export.Options) -> int:
    """Call ``quantize`` or ``fastest``, and print the candidates and what was written."""
    with Console(stderr=True).status("loading the bundle …") as status:
        found = made(
            options.bundle,
            images,
            options.folder,
            max_drop=options.max_drop,
            threads=options.threads,
            on_progress=status.update,
        )
    if options.json:
        print_json(asdict(replace(found, export=None)) | {"path": str(found.path)})
        return 0
    note(*found.notes)
    counts, final = found.images, found.final
    title = f"Candidates on {counts['gate']:,} gate images, calibrated on {counts['calibration']:,}"
    Console().print(terminal_of(title, shown(COLUMNS, "terminal"), [("", found.candidates)]))
    chosen = next(c for c in found.candidates if c.verdict == "chosen")
    if chosen is found.candidates[0]:
        print(f"{chosen.name}: no other candidate is faster and was shown to keep its accuracy")
    else:
        print(
            f"{chosen.name}, on {final.images:,} unseen images against fp32: top-1 {signed(final.value)} "
            f"{interval(final.low, final.high)} points (allowed: −{found.max_drop:g}), {final.lost} lost and "
            f"{final.won} won, calibration error {signed(found.ece_change)} points"
        )
    print(f"written: {chosen.name}, {found.path}")
    return 0
