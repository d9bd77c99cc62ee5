"""``nextify starts WEIGHTS… --data PATH``: which weights suit these images, by a probe of minutes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from nextify.cli import options as common
from nextify.cli.printing import note, print_columns, print_json
from nextify.data.source import check_source
from nextify.networks.zoo import find_design
from nextify.paper.settings import Range


@dataclass(frozen=True, kw_only=True)
class Options:
    """Rank weights to start from on a part of your training images, before hours of fine-tuning.

    Each is measured in folds of these images (the test images stay out of it): a linear classifier on its frozen
    features, and a short fine-tuning, by which it is ranked. Where chance could explain a difference, that is said.
    """

    weights: Annotated[Positional[tuple[str, ...]], arg(metavar="WEIGHTS")]
    """Bundles, other libraries' files, hf:owner/name, timm:name, or fresh:MODEL for new weights."""
    data: common.Images
    licence: Literal["permissive", "any"] = "any"
    """permissive: leave weights out that may not be used commercially, or pass their terms on."""
    images: Annotated[int, Range(least=32, most=10**6)] = 1000
    """Training images that are used."""
    folds: Annotated[int, Range(least=2, most=20)] = 5
    """Parts of these, each of which is measured on once."""
    epochs: Annotated[int, Range(least=1, most=1000)] = 3
    """Of each short fine-tuning."""
    json: common.Json = False
    reading: OmitArgPrefixes[common.Reading] = common.Reading()
    machine: OmitArgPrefixes[common.Machine] = common.Machine()

    def check(self) -> None:
        """Raises a ``ValueError`` or an ``OSError`` for what can be refused without torch and without an image."""
        if not self.weights:
            raise ValueError("there is nothing to choose from: give weights, such as timm:convnextv2_atto or a bundle")
        for source in self.weights:
            if source.startswith("fresh:"):
                find_design(source.removeprefix("fresh:"))
            else:
                common.check_weights(source)
        if len({*self.weights}) < len(self.weights):
            raise ValueError("some weights are given twice: give each once")
        check_source(self.data)


def run(options: Options) -> int:
    from rich.console import Console

    from nextify.cli.printing import unlogged
    from nextify.cli.progress import read_images
    from nextify.compare.starts import advise, find_start, fold_interval, permitted, probe_starts
    from nextify.report.text import count, duration
    from nextify.training.trial import runtime

    console = Console(stderr=True)
    place = runtime(options.machine.device, options.machine.threads, kernels=options.machine.kernels)
    with unlogged():
        starts, left_out = permitted([find_start(source) for source in options.weights], options.licence)
    if not starts:
        raise ValueError(f"no start is left: {'; '.join(left_out)}")
    images = read_images(console, options.data, options.reading, None)
    with console.status("probing …") as status, unlogged():
        found = probe_starts(
            *(starts, images, place),
            used=options.images,
            folds=options.folds,
            epochs=options.epochs,
            on_start=lambda start: status.update(f"probing {start.source} …"),
        )
    advice = advise({probed.source: probed.tuned for probed in found})
    if options.json:
        content = {"data": images.name, "starts": [asdict(probed) for probed in found], "best": advice.best,
                   "differences": dict(advice.differences), "advice": advice.text(), "left_out": left_out}  # fmt: skip
        print_json(content)
        return 0
    rows = []
    for probed in sorted(found, key=lambda probed: -fmean(probed.tuned)):
        cells = []
        for values in (probed.tuned, probed.linear):
            low, high = fold_interval(values)
            cells.append(f"{fmean(values):.1f} [{max(low, 0):.1f}, {min(high, 100):.1f}]")
        ahead = advice.differences.get(probed.source)
        behind = "" if ahead is None else f"{ahead[0]:.1f} [{ahead[1]:.1f}, {ahead[2]:.1f}]"
        price = f"{count(probed.macs)} at {probed.image_size}"
        rows.append((probed.source, cells[0], behind, cells[1], price, duration(probed.seconds), probed.licence))
    header = ("start", "fine-tuned, %", "behind the best", "linear, %", "multiply-adds", "took", "licence")
    print_columns(header, rows)
    for licence, meaning in {probed.licence: probed.consequence for probed in found}.items():
        print(f"{licence}: {meaning}")
    note(*left_out)
    print(
        f"{advice.text()}\n{options.folds} folds of {min(options.images, len(images.train)):,} training images, "
        f"{options.epochs} epochs each; 95 % intervals, of the differences with all comparisons together. A short "
        f"fine-tuning favours weights that learn fast; a long one may reverse small differences"
    )
    return 0
