"""Running ``nextify predict``, and printing what was found."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from nextify.cli.options import refuse_for_dense
from nextify.cli.predict import Options
from nextify.cli.printing import note, print_columns, print_json
from nextify.data.dense.annotations import DenseTask
from nextify.deploy.dense import open_finder
from nextify.deploy.runners import device_for, open_runner
from nextify.evaluation.dense_predict import LEAST_SCORE, DenseFolder, DensePrediction, find
from nextify.evaluation.dense_predict import csv_text as dense_csv
from nextify.evaluation.predict import Prediction, Predictor, csv_text
from nextify.system import native
from nextify.system.text import printable, valid_unicode
from nextify.training.trial import runtime
from nextify.weights.bundle import DenseAbout, stated

FEW = 64
"""Below so many files, kernels are used only where they need not be compiled first, unless they are asked for."""


def run_prediction(options: Options) -> int:
    files = [Path(image) for image in options.images]
    few = len(files) < FEW and all(file.is_file() for file in files)
    with native.without_compiling() if few and options.machine.kernels != "on" else nullcontext():
        return _predict(options)


def _predict(options: Options) -> int:
    about, machine = stated(options.bundle), options.machine
    if isinstance(about, DenseAbout):
        given = {"--top": options.top, "--class-order": options.class_order, "--channels": options.channels}
        refuse_for_dense(about.task, given)
    else:
        _refuse_for_classifier(options)
    device = runtime(device_for(options.bundle, machine.device), machine.threads).device
    how: dict[str, Any] = {"device": device, "threads": machine.threads, "kernels": machine.kernels}
    return _run_dense(options, about.task, how) if isinstance(about, DenseAbout) else _run(options, how)


def _refuse_for_classifier(options: Options) -> None:
    dense = {"--least-score": options.least_score, "--out": options.out, "--multi-scale": options.multi_scale or None}
    for name, value in dense.items():
        if value is not None:
            those = "segmenters" if name == "--multi-scale" else "detectors and segmenters"
            raise ValueError(f"{name} is for {those}, and {options.bundle} is a classifier: leave it out")


def _run_dense(options: Options, task: DenseTask, how: dict[str, Any]) -> int:
    finder = open_finder(options.bundle, **how, multi_scale=options.multi_scale)
    folder = None if options.out is None else DenseFolder(options.out, finder)
    least = LEAST_SCORE if options.least_score is None else options.least_score
    predictions = []
    images = options.images if folder is None else folder.without_own(options.images)
    for found in find(finder, images, least_score=least):
        if folder is not None and not found.error:
            folder.add(found)
        predictions.append(replace(found, pixels=None, labels=None))
    if folder is not None:
        folder.finish()
    if options.json:
        print_json([{**found.to_dict(), "path": valid_unicode(found.path)} for found in predictions])
    elif options.csv:
        print(dense_csv(predictions, task), end="")
    else:
        _print_found([found for found in predictions if not found.error], task)
        if options.out is not None:
            print(f"written: {options.out}")
    return failures(predictions)


def _print_found(predictions: Sequence[DensePrediction], task: str) -> None:
    if task == "detection":
        header: tuple[str, ...] = ("image", "class", "score", "x1", "y1", "x2", "y2")
        things = [
            [(printable(one.name), f"{one.score:.3f}", *(f"{side:.1f}" for side in one.box)) for one in found.objects]
            or [("nothing", *[""] * 5)]
            for found in predictions
        ]
    else:
        header = ("image", "class", "share")
        things = [[(printable(r.name), f"{100 * r.share:.2f} %") for r in found.regions] for found in predictions]
    _print_rows(header, predictions, things)


def _print_rows(
    header: Sequence[str],
    predictions: Sequence[Prediction | DensePrediction],
    things: Sequence[Sequence[tuple[str, ...]]],
) -> None:
    """A line per thing, the first of each image with its path; nothing for no image."""
    rows = [
        (printable(found.path) if i == 0 else "", *row)
        for found, some in zip(predictions, things, strict=True)
        for i, row in enumerate(some)
    ]
    if rows:
        print_columns(header, rows)


def failures(predictions: Sequence[Prediction | DensePrediction]) -> int:
    """Report images that could not be looked at; the exit code."""
    failed = [p for p in predictions if p.error]
    for p in failed:
        print(f"nextify: {printable(p.path)}: {printable(p.error)}", file=sys.stderr)
    return 1 if failed else 0


def _run(options: Options, how: dict[str, Any]) -> int:
    runner = open_runner(options.bundle, **how, class_order=options.class_order)
    predictor = Predictor(runner, channels=options.channels)
    predictions = list(predictor(options.images, options.top))
    if options.json:
        print_json([{**p.to_dict(), "path": valid_unicode(p.path)} for p in predictions])
    elif options.csv:
        print(csv_text(predictions), end="")
    else:
        read = [p for p in predictions if not p.error]
        guesses = [
            [(printable(guess.label), f"{100 * guess.probability:.2f} %") for guess in p.guesses] or [("none", "")]
            for p in read
        ]
        _print_rows(("image", "class", "probability"), read, guesses)
    if not predictor.about.classes:
        note(
            "the weights do not name their classes: #N is the index among their outputs, from 0; --class-order FILE "
            "names them, one class per line"
        )
    return failures(predictions)
