"""``nextify quantize BUNDLE --data PATH``: int8 that keeps its accuracy, or the best that does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from nextify.cli.options import Folder, Json, Reading, Seed, Threads, check_replaced, check_weights
from nextify.cli.printing import note, print_json
from nextify.data.source import check_source
from nextify.paper.settings import Range
from nextify.report.columns import TABLES, Column, shown
from nextify.report.tables import terminal_of
from nextify.report.text import interval, percent, signed, whole

if TYPE_CHECKING:
    from nextify.data import Images
    from nextify.deploy.quantize import Candidate, Quantized


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a bundle in int8 if that is faster and shown to keep its accuracy, otherwise in bf16 or fp32.

    Training images are used to calibrate. Some of the held-out images are used to choose between candidates; the
    others, unseen until then, test the chosen one.
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """A bundle left by nextify train, or other weights."""
    data: str
    """digits, cifar10, hf:OWNER/NAME, or a path, with training and held-out images."""
    max_drop: Annotated[float, Range(least=0, most=100)] = 0.5
    """Largest loss of top-1 that is accepted, in points, with 95 % confidence."""
    to: Literal["openvino", "onnx"] = "openvino"
    seed: Seed = 0
    """Seed of the choice of images."""
    out: Folder = None
    """Folder to write. Default: next to the bundle, named BUNDLE-FORMAT-quantized."""
    threads: Threads = None
    """CPU threads. Default: all."""
    json: Json = False
    reading: OmitArgPrefixes[Reading] = Reading()

    def check(self) -> None:
        """Raises ``FileNotFoundError``, ``SourceError`` or ``UnusableFolder`` for what is not there, and ``ValueError``
        where something else would be overwritten."""
        check_weights(self.bundle)
        check_source(self.data)
        check_replaced(self.folder, self.bundle)

    @property
    def folder(self) -> Path:
        """The one to write."""
        return self.out or default_folder(self.bundle, f"{self.to}-quantized")


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


def run(options: Options) -> int:
    from rich.console import Console

    from nextify.cli.progress import read_images
    from nextify.deploy.quantize import quantize

    images = read_images(Console(stderr=True), options.data, options.reading, None, options.bundle)
    note(*images.warnings)
    return search(partial(quantize, to=options.to, seed=options.seed), images, options)


def search(made: Callable[..., Quantized], images: Images, options: Any) -> int:
    """Call ``quantize`` or ``fastest``, and print the candidates and what was written."""
    from rich.console import Console

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


def default_folder(bundle: str, ending: str) -> Path:
    """Beside a bundle on disk; in the current folder for weights from elsewhere."""
    path = Path(bundle).expanduser()
    if not path.exists():
        return Path(f"{path.name.replace(':', '-')}-{ending}")
    return path.resolve().with_name(f"{path.resolve().stem}-{ending}")
