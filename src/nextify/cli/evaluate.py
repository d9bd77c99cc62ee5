"""``nextify evaluate BUNDLE --data PATH``: measure a bundle on your images."""

from __future__ import annotations

from dataclasses import dataclass

from nextify.cli.options import MeasurementOptions
from nextify.cli.printing import note, print_columns, print_json
from nextify.report.text import percent
from nextify.system import processes
from nextify.system.text import plural, printable
from nextify.training.trial import runtime


@dataclass(frozen=True, kw_only=True)
class Options(MeasurementOptions):
    """Measure a bundle on images: top-1, top-5, per-class accuracy, confusion matrix and calibration.

    With --out, also write evaluation.json and pictures of the confusion matrix, the reliability diagram and the worst
    mistakes. Processes started by torchrun share the images.
    """


def run(options: Options) -> int:
    from rich.console import Console

    from nextify.cli.progress import read_images
    from nextify.evaluation.evaluate import evaluate, files
    from nextify.tasks.classification import Classification
    from nextify.tasks.task import summary

    place = runtime(options.machine.device, options.machine.threads)
    with processes.joined(place.device):
        images = read_images(Console(stderr=True), options.data, options.reading, None, options.bundle, to_train=False)
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
    figures = summary(Classification.metric_specs, {"top1": found.top1, "top5": found.top5})
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
