"""``nextify predict BUNDLE IMAGE…``: classify images."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from nextify.cli.options import UNSET, Channels, ClassNames, InferenceOptions, check_weights
from nextify.cli.printing import note, print_columns, print_json
from nextify.paper.settings import Range
from nextify.system.text import printable, valid_unicode
from nextify.training.trial import runtime


@dataclass(frozen=True, kw_only=True)
class Options(InferenceOptions):
    """Classify images with a bundle and print the most probable classes.

    Unreadable images are reported on stderr; the others are still classified, and the exit code is 1.
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """A bundle left by nextify train, a folder written by nextify export, or other weights: a file, hf:owner/name or
    timm:name."""
    images: Annotated[Positional[tuple[str, ...]], arg(metavar="IMAGE …")]
    """Files, folders (searched recursively), or patterns such as 'photos/**/*.jpg'."""
    top: Annotated[int, Range(least=1, most=10**6)] = 5
    """Number of classes to print per image."""
    class_order: ClassNames = None
    channels: Channels = None
    csv: Annotated[bool, UNSET] = False
    """Print CSV: path, rank, class, index, probability."""

    def check(self) -> None:
        """Raises ``ValueError`` for options that exclude each other, ``FileNotFoundError`` for no bundle."""
        if self.json and self.csv:
            raise ValueError("--json and --csv exclude each other: give one")
        if not self.images:
            raise ValueError("no image given: name files, folders or patterns after the bundle")
        check_weights(self.bundle)


def run(options: Options) -> int:
    from nextify.deploy.runners import open_runner
    from nextify.evaluation.predict import Predictor, csv_text

    place = runtime(options.machine.device, options.machine.threads)
    runner = open_runner(
        options.bundle,
        device=place.device,
        threads=options.machine.threads,
        kernels=options.machine.kernels,
        class_order=options.class_order,
    )
    predictor = Predictor(runner, channels=options.channels)
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
        note(
            "the weights do not name their classes: #N is the index among their outputs, from 0; --class-order FILE "
            "names them, one class per line"
        )
    failed = [p for p in predictions if p.error]
    for p in failed:
        print(f"nextify: {printable(p.path)}: {printable(p.error)}", file=sys.stderr)
    return 1 if failed else 0
