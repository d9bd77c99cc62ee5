"""``nextify predict BUNDLE IMAGE…``: classify images."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from nextify.cli.options import Channels, ClassNames, InferenceOptions
from nextify.cli.printing import print_columns, print_json
from nextify.data.errors import printable, valid_unicode
from nextify.evaluation.predict import Predictor, csv_text
from nextify.training.trial import runtime


@dataclass(frozen=True, kw_only=True)
class Options(InferenceOptions):
    """Classify images with a bundle and print the most probable classes.

    Unreadable images are reported on stderr; the others are still classified, and the exit code is 1.
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """A bundle left by nextify train, or other weights: a file, hf:owner/name or timm:name."""
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE …")]
    """Files, folders (searched recursively), or patterns such as 'photos/**/*.jpg'."""
    top: int = 5
    """Number of classes to print per image."""
    class_order: ClassNames = None
    channels: Channels = None
    csv: bool = False
    """Print CSV: path, rank, class, index, probability."""


def run(options: Options) -> int:
    if options.json and options.csv:
        raise ValueError("--json and --csv exclude each other: give one")
    if not options.images:
        raise ValueError("no image given: name files, folders or patterns after the bundle")
    if options.top < 1:
        raise ValueError(f"--top must be 1 or more, got {options.top}")
    place = runtime(options.device, options.threads)
    predictor = Predictor(
        options.bundle,
        device=place.device,
        threads=options.threads,
        kernels=options.kernels,
        class_order=options.class_order,
        channels=options.channels,
    )
    predictions = list(predictor(options.images, options.top))
    if options.json:
        print_json([{**p.to_dict(), "path": valid_unicode(p.path)} for p in predictions])
    elif options.csv:
        print(csv_text(predictions), end="")
    else:
        rows = [
            (printable(p.path) if rank == 0 else "", printable(guess.label), f"{100 * guess.probability:.2f} %")
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
        print(f"nextify: {printable(p.path)}: {printable(p.error)}", file=sys.stderr)
    return 1 if failed else 0
