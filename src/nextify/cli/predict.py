"""``nextify predict BUNDLE IMAGE…``: what is in these images."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from nextify.cli.options import ClassNames
from nextify.cli.printing import print_columns, print_json


@dataclass(frozen=True)
class Options:
    """Say what is in images: the classes of a bundle with their probabilities.

    An image that cannot be read is said on stderr, the others are predicted, and the exit code is 1.
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """What nextify train left; also other weights, hf:owner/name or timm:name."""
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE …")]
    """Files, folders (searched in depth), or patterns such as 'photos/**/*.jpg'."""
    top: int = 5
    """Classes for each image."""
    class_order: ClassNames = None
    json: bool = False
    """Print JSON."""
    csv: bool = False
    """Print CSV: path, rank, class, index, probability."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto: a CUDA GPU where there is one."""
    threads: int | None = None
    """CPU threads. Default: all."""
    kernels: Literal["auto", "on", "off"] = "auto"
    """nextify's own kernels: where measured to be faster (auto), wherever possible (on), or plain torch (off)."""


def run(options: Options) -> int:
    from nextify.data.errors import printable
    from nextify.evaluation.predict import Predictor, csv_text
    from nextify.training.trial import runtime

    if options.json and options.csv:
        raise ValueError("--json and --csv are two forms of the same output: give one")
    if not options.images:
        raise ValueError("no image given: name files, folders or patterns behind the bundle")
    if options.top < 1:
        raise ValueError(f"--top must be 1 or more, got {options.top}")
    place = runtime(options.device, options.threads)
    predictor = Predictor(
        options.bundle,
        device=place.device,
        threads=options.threads,
        kernels=options.kernels,
        class_order=options.class_order,
    )
    predictions = list(predictor(options.images, options.top))
    if options.json:
        print_json([{**p.to_dict(), "path": printable(p.path)} for p in predictions])
    elif options.csv:
        print(csv_text(predictions), end="")
    else:
        rows = [
            (printable(p.path) if rank == 0 else "", guess.label, f"{100 * guess.probability:.2f} %")
            for p in predictions
            for rank, guess in enumerate(p.guesses)
        ]
        if rows:
            print_columns(("image", "class", "probability"), rows)
    if not predictor.about.classes:
        print(
            "nextify: note: the weights do not name their classes: #N is the index among their outputs, from 0; "
            "--class-order FILE names them, one class per line",
            file=sys.stderr,
        )
    failed = [p for p in predictions if p.error]
    for p in failed:
        print(f"nextify: {printable(p.path)}: {p.error}", file=sys.stderr)
    return 1 if failed else 0
