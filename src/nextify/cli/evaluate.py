"""``nextify evaluate BUNDLE --data PATH``: what a bundle is worth on your images."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from nextify.cli.options import ClassOrder
from nextify.cli.printing import print_columns, print_json


@dataclass(frozen=True)
class Options:
    """Measure a bundle on images: top-1, top-5, each class, confusion matrix and calibration.

    With --out also evaluation.json and the pictures: confusion matrix, reliability diagram, worst mistakes. Several
    processes share the images when torchrun starts them.
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """What nextify train left; also other weights with as many classes."""
    data: str
    """As for nextify train: digits, cifar10, hf:OWNER/NAME, or a path. The bundle has to know the classes."""
    class_order: ClassOrder = None
    part: Literal["test", "train", "all"] = "test"
    """test: val/ or test/, or what training would have set apart; all: every image, for a folder never trained on."""
    split_seed: int = 0
    """As given to the training, for a folder that has no test images of its own."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder for evaluation.json and the pictures."""
    json: bool = False
    """Print JSON."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto: a CUDA GPU where there is one."""
    threads: int | None = None
    """CPU threads. Default: all."""
    kernels: Literal["auto", "on", "off"] = "auto"
    """nextify's own kernels: where measured to be faster (auto), wherever possible (on), or plain torch (off)."""


def run(options: Options) -> int:
    from nextify.data import open_images
    from nextify.evaluation.evaluate import evaluate_with_pictures
    from nextify.report.text import percent
    from nextify.system import processes
    from nextify.training.trial import runtime

    place = runtime(options.device, options.threads)
    with processes.joined(place.device):
        images = open_images(options.data, split_seed=options.split_seed, to_train=False)
        found, written = evaluate_with_pictures(
            options.bundle,
            images,
            part=options.part,
            device=place.device,
            threads=options.threads,
            class_order=options.class_order,
            kernels=options.kernels,
            out=options.out,
        )
    if processes.number() > 0:
        return 0  # the first process speaks for all
    if options.json:
        print_json(found.to_dict())
        return 0
    for note in (*images.warnings, *images.notes, *found.notes):
        print(f"nextify: note: {note}", file=sys.stderr)
    print(f"{found.model or options.bundle} on {found.images:,} images of {found.data}, {found.precision}")
    print(f"top-1 {found.top1:.2f} %, top-5 {found.top5:.2f} %")
    print(f"expected calibration error {100 * found.expected_calibration_error:.2f} % ({len(found.bins)} bins)\n")
    rows = [(c.name, f"{c.images:,}", percent(c.top1), f"{c.predicted:,}", percent(c.precision)) for c in found.classes]
    print_columns(("class", "images", "recall, %", "predicted", "precision, %"), rows)
    for path in written:
        print(f"written: {path}")
    return 0
