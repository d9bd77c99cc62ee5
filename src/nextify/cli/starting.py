"""Running ``nextify starts``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from rich.console import Console

from nextify.cli.printing import note, print_columns, print_json, unlogged
from nextify.cli.progress import read_images
from nextify.compare.starts import advise, find_start, fold_interval, permitted, probe_starts
from nextify.data.images import check_pictures
from nextify.report.text import count, duration
from nextify.system.text import plural
from nextify.training.trial import runtime
from nextify.weights.bundle import located

if TYPE_CHECKING:
    from nextify.cli.starts import Options


def run_starts(options: Options) -> int:
    console = Console(stderr=True)
    places: dict[Path, str] = {}
    for source in options.weights:
        path = located(source).resolve()
        if path.exists() and (before := places.setdefault(path, source)) != source:
            raise ValueError(f"{before} and {source} are the same weights: give them once")
    place = runtime(options.machine.device, options.machine.threads, kernels=options.machine.kernels)
    with unlogged():
        starts, left_out = permitted([find_start(source) for source in options.weights], options.licence)
    if not starts:
        raise ValueError(f"no start is left: {'; '.join(left_out)}")
    images = read_images(console, options.data, options.reading, None)
    check_pictures(images, "nextify starts")
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
        f"{plural(options.epochs, 'epoch')} each; 95 % intervals, of the differences with all comparisons together. "
        f"A short fine-tuning favours weights that learn fast; a long one may reverse small differences"
    )
    return 0
