"""Running ``nextify starts``."""

from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from rich.console import Console

from nextify.cli.printing import note, print_columns, print_json, unlogged
from nextify.cli.progress import read_images
from nextify.cli.starts import Options
from nextify.compare.starts import Probed, advise, find_start, permitted, probe_starts
from nextify.data.images import Images, check_pictures
from nextify.evaluation.seen import seen_in_training
from nextify.report.text import count, duration
from nextify.study.statistics import corrected_interval
from nextify.system.text import plural
from nextify.training.trial import runtime
from nextify.weights.bundle import located


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
            on_fold=lambda start, fold: status.update(f"probing {start.source}, fold {fold} of {options.folds} …"),
        )
    used = min(options.images, len(images.train))
    one_image = 100 * options.folds / used  # in percent of a fold
    advice = advise({probed.source: probed.tuned for probed in found}, one_image)
    seen = [said for probed in found if (said := _seen(probed, images))]
    if options.json:
        differences = {source: dict(zip(("mean", "low", "high"), found, strict=True))
                  for source, found in advice.differences.items()}  # fmt: skip
        content = {"data": images.name, "images": used, "folds": options.folds, "epochs": options.epochs,
                   "starts": [asdict(probed) for probed in found], "best": advice.best, "differences": differences,
                   "advice": advice.text(), "left_out": left_out, "notes": seen}  # fmt: skip
        print_json(content)
        return 0
    rows = []
    for probed in sorted(found, key=lambda probed: -fmean(probed.tuned)):
        cells = []
        for values in (probed.tuned, probed.linear):
            low, high = corrected_interval(values, least_error=one_image) or (0, 100)
            cells.append(f"{fmean(values):.1f} [{max(low, 0):.1f}, {min(high, 100):.1f}]")
        ahead = advice.differences.get(probed.source)
        behind = "" if ahead is None else f"{ahead[0]:.1f} [{ahead[1]:.1f}, {ahead[2]:.1f}]"
        price = f"{count(probed.macs)} at {probed.image_size} px"
        rows.append(
            (probed.source, cells[0], behind, cells[1], probed.recipe, price, duration(probed.seconds), probed.licence)
        )
    header = ("start", "fine-tuned, %", "behind, points", "linear, %", "recipe", "multiply-adds", "took", "licence")
    print_columns(header, rows)
    for licence, meaning in {probed.licence: probed.consequence for probed in found}.items():
        print(f"{licence}: {meaning}")
    note(*left_out, *seen)
    together = ", those of the differences for all pairs together" if len(found) > 1 else ""
    more = f"; --images {min(4 * used, len(images.train))} would tell more" if used < len(images.train) else ""
    print(
        f"{advice.text()}{more if advice.equals else ''}\n{options.folds} folds of {used:,} training images in all, "
        f"{plural(options.epochs, 'epoch')} each; 95 % intervals{together}. A short fine-tuning favours weights that "
        f"learn fast; a long one may reverse the order"
    )
    return 0


def _seen(probed: Probed, images: Images) -> str:
    """What to say of a start that has seen the images, or may have; else nothing."""
    if among := seen_in_training(probed.source, [images.train]):
        there = plural(len(images.train), "image")
        return f"{probed.source} was trained on {among:,} of these {there}, so it looks better here than it is"
    if probed.data.removesuffix(" (train)") == images.name:
        called = f"{probed.source} learned data called {images.name}"
        return f"{called}: if it saw these images, it looks better here than it is"
    return ""
