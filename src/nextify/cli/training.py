"""Running ``nextify train``, and reporting what is trained, how long it takes, and the result."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.markup import escape

from nextify import cli
from nextify.cli import pretrain, train
from nextify.cli.cross_validation import run_cross_validation
from nextify.cli.printing import command_line, one_voice, plain, say
from nextify.cli.progress import Stopping, TrainingProgress, read_source
from nextify.evaluation.metrics import wilson
from nextify.evaluation.pictures import ramp_picture
from nextify.networks.dense.design import DenseDesign
from nextify.networks.dense.network import DenseNetwork
from nextify.networks.layout import cost
from nextify.networks.masked.design import MaskedDesign
from nextify.paper.design import Design
from nextify.report.text import count, duration, rate
from nextify.system import processes
from nextify.system.files import write_bytes_atomic
from nextify.system.text import plural, printable
from nextify.tasks.metric_specs import MASKED_ERROR, MetricSpec, is_telling, summary
from nextify.training.continued import Finished
from nextify.training.learned import AnyImages, metric_specs
from nextify.training.loop import TrainingDiverged, TrainingStopped
from nextify.training.overfit import overfit_batch
from nextify.training.prepare import Prepared
from nextify.training.probe import Estimate, measure
from nextify.training.rate import find_rate
from nextify.training.reconstructions import RECONSTRUCTIONS
from nextify.training.request import Request, RequestError
from nextify.training.result import Result, finished
from nextify.training.run import TrainingOutOfMemory
from nextify.training.train import PREDICTIONS, Source, folder_of, prepare_in, run_prepared, with_fewer_epochs
from nextify.training.trial import Runtime, Trial, runtime

BUSY = 0.2
"""Share of a measurement's CPU time that other programs used, from which it is reported."""


def run_training(options: train.Options | pretrain.Options) -> int:
    if isinstance(options, train.Options) and options.folds is not None:
        return run_cross_validation(options, options.folds)
    machine, watching = options.machine, options.watching
    with one_voice(first=processes.number() == 0):
        place = replace(
            runtime(
                *(machine.device, machine.threads, machine.workers, machine.accumulation, machine.distributed),
                kernels=machine.kernels,
                compile=machine.compile,
                capture=machine.capture,
            ),
            evaluations=watching.evaluations,
            checkpoint_seconds=machine.checkpoint_seconds,
        )
    with processes.joined(place.device):
        return _run(options, place)


def _run(options: train.Options | pretrain.Options, runtime: Runtime) -> int:
    console = Console(quiet=not processes.is_first(), highlight=False)
    request, watching = options.request(), options.watching

    with one_voice(first=processes.is_first()):
        continued = getattr(options, "continue_", None)
        before = None if continued is None else Finished.of(continued)
        out = options.folder if before is None else options.out or before.folder.parent
        source = _source(options) if before is None else before.source_at(options.data)

        read = partial(read_source, console, source, out / "cache", options.network.weights)
        images = processes.first_alone(read)
        prepared = _prepared(console, options, request, images, before, out, runtime)
        _announce(console, prepared, runtime)
        if getattr(watching, "overfit_batch", False):
            return _overfit(console, prepared, runtime)
        if getattr(watching, "find_rate", False):
            return _find_rate(console, prepared, runtime, out)
        folder = folder_of(out, prepared.trial)
        if processes.from_first(lambda: finished(folder, prepared.trial)) is None:
            with console.status("measuring a few steps …"):
                estimate = measure(prepared, runtime)
            _announce_time(console, estimate, prepared, options.machine.accumulation or 1)
            runtime = replace(runtime, accumulation=estimate.accumulation)
            if watching.dry_run:
                return 0
            begins = "resumes from the checkpoint in" if any(folder.glob("checkpoint.pt*")) else "results go to"
            plain(console, f"{begins} {folder}")
    licence = options.licence if before is None else before.licence(options.licence)
    try:
        timed = request.minutes is not None
        prepared, done = _trained(console, prepared, out, runtime, watching.track, licence, source, timed)
    except TrainingStopped as stopped:
        console.print(f"{stopped}; the same command goes on from there", markup=False)
        return 130
    except processes.FirstFailed:
        return 1
    except (TrainingDiverged, TrainingOutOfMemory) as error:
        if processes.is_first() or isinstance(error, TrainingOutOfMemory):
            print(f"nextify: {error}", file=sys.stderr)
        return 1
    metrics = [m for m in metric_specs(prepared.trial) if is_telling(m.key, prepared.trial.data.num_classes)]
    _conclude(console, done, metrics, prepared.request.model)
    return 0


def _prepared(
    console: Console,
    options: train.Options | pretrain.Options,
    request: Request,
    images: AnyImages,
    before: Finished | None,
    out: Path,
    runtime: Runtime,
) -> Prepared:
    """The training that is asked for, or the one that goes on after ``before``."""
    if request.minutes and not console.is_terminal:  # where no status is shown for what may take a minute
        console.print("measuring how many epochs fit …")
    try:
        with console.status("measuring how many epochs fit …" if request.minutes else "reading …"):
            if before is not None:
                found = before.prepared(images, options.epochs or 1, request.above)
                if found.parts_matter and options.machine.accumulation not in (None, found.trial.accumulation):
                    parts = found.trial.accumulation
                    kept = f"{parts} micro-batches" if parts > 1 else "whole batches"
                    raise RequestError(f"{before.folder} was trained on {kept}, which change its result and are kept: "
                                       f"leave --accumulation out")  # fmt: skip
                return found
            keep = not options.watching.dry_run
            return prepare_in(out, request, images, runtime, started=cli.STARTED, keep=keep)
    except ValueError:  # a refusal comes after what was found in the data, not instead of it
        console.print(
            f"{printable(images.name)}: {plural(len(images.train), 'image')} to train on and "
            f"{len(images.test):,} to test on, {images.num_classes:,} classes",
            markup=False,
        )
        say(console, (*images.warnings, *images.notes))
        raise


def _trained(
    console: Console,
    prepared: Prepared,
    out: Path,
    runtime: Runtime,
    track: Sequence[str],
    licence: str | None,
    source: Source,
    timed: bool,
) -> tuple[Prepared, Result]:
    """The training that was run and its result; one that is ``timed`` starts again once if there is time for fewer
    epochs only."""
    # Several processes would have to agree on it, and what an earlier command trained is not thrown away.
    resumes = any(folder_of(out, prepared.trial).glob("checkpoint.pt*"))
    may_shorten = timed and processes.count() == 1 and not resumes
    while True:
        with TrainingProgress(console, prepared, cli.STARTED, may_shorten) as progress, Stopping() as stopping:
            try:
                done = run_prepared(
                    *(prepared, out, runtime),
                    command=command_line(),
                    on_progress=progress.show,
                    should_stop=lambda: stopping.asked() or progress.epochs is not None,
                    track=track,
                    licence=licence,
                    source=source,
                )
                return prepared, done
            except TrainingStopped:
                if progress.epochs is None or stopping.asked():
                    raise
        fewer = plural(progress.epochs, "epoch")
        say(console, [f"the machine is slower than measured: starts again with {fewer}, for the rest of the time"])
        prepared, may_shorten = with_fewer_epochs(prepared, out, progress.epochs, runtime), False


def _source(options: train.Options | pretrain.Options) -> Source:
    reading = options.reading
    given = options.data, reading.split_seed, reading.channels, reading.skip_unreadable
    if isinstance(options, pretrain.Options):
        return Source(*given, labelled=False)
    without = None if options.without is None else str(options.without)
    return Source(*given, task=cast("Any", options.task), ignore_index=options.ignore_index, without=without)


def _announce(console: Console, prepared: Prepared, runtime: Runtime) -> None:
    trial, report = prepared.trial, prepared.preflight
    parameters, macs, shape = _price(trial)
    console.print(f"[bold]{prepared.request.model}[/] on {escape(printable(prepared.images.name))}")
    for line in report.lines():
        plain(console, f"  {line}")
    say(console, report.notes)
    threads = plural(runtime.threads, "thread")
    if runtime.processes > 1:
        threads += f" in each of {runtime.processes} processes ({runtime.distributed})"
    recipe = trial.recipe
    console.print(
        f"{count(parameters)} parameters, {count(macs)} multiply-adds at {shape}; {runtime.device}, "
        f"{threads}\nrecipe {prepared.recipe_name}: {plural(recipe.epochs, 'epoch')} of "
        f"{plural(prepared.steps_per_epoch, 'step')} of {plural(recipe.batch_size, 'image')}",
        soft_wrap=True,
    )
    say(console, (*prepared.notes, *map(str, prepared.changes)))
    for warning in report.warnings if not console.quiet else ():
        print(f"nextify: warning: {warning}", file=sys.stderr)


def _price(trial: Trial) -> tuple[int, int, str]:
    """Parameters and multiply-adds of a trial's network, and the size in words at which it computes them."""
    data, design = trial.data, trial.design
    if isinstance(design, DenseDesign):
        from nextify.networks.dense.cost import dense_cost

        assert data.canvas is not None
        height, width = data.canvas
        with torch.device("meta"):
            network = DenseNetwork(design, data.num_classes, data.canvas)
        macs = dense_cost(design, data.num_classes, height, width)
        return sum(p.numel() for p in network.parameters()), macs, f"{width}×{height}"
    if isinstance(design, MaskedDesign):
        price = cost(design.encoder, data.image_size, 0)
        return price.parameters, price.macs, f"{data.image_size}×{data.image_size}, of the whole image"
    assert isinstance(design, Design)  # this command trains networks of ours
    price = cost(design, data.image_size, data.num_classes, len(data.mean))
    return price.parameters, price.macs, f"{data.image_size}×{data.image_size}"


def _announce_time(console: Console, estimate: Estimate, prepared: Prepared, asked: int) -> None:
    console.print(
        f"about [bold]{duration(estimate.seconds)}[/] from a measured probe "
        f"({rate(estimate.images_per_second)} images/s, {estimate.memory_mib:,} MiB of memory)"
    )
    if estimate.waited >= BUSY:
        say(console, [f"other programs used the CPU for {estimate.waited:.0%} of that time: the training is faster "
                      f"once they end, and slower if more start"])  # fmt: skip
    if estimate.accumulation > 1:
        why = "as --accumulation asks" if estimate.accumulation == asked else "as larger ones do not fit in memory"
        sees = "; batch norm normalizes each by itself" if prepared.uses_batch_norm else ""
        if isinstance(prepared.trial.design, DenseDesign):
            sees = "; the losses are means over the objects or pixels of each"
        say(console, [f"each batch is split into {estimate.accumulation} micro-batches, {why}{sees}"])


def _overfit(console: Console, prepared: Prepared, runtime: Runtime) -> int:
    with console.status("memorizing one batch …"):
        found = overfit_batch(prepared, runtime)
    console.print(
        f"one batch of {found.images} images, {found.steps} steps: loss {found.first_loss:.3f} → "
        f"{found.last_loss:.3f}, {found.metric.text(found.value)}"
    )
    if found.works:
        console.print("the network can learn this data with these settings")
        return 0
    print(
        "nextify: the network could not memorize even one batch: check the labels, or try --set learning_rate=… or "
        "fewer classes that look the same",
        file=sys.stderr,
    )
    return 1


def _find_rate(console: Console, prepared: Prepared, runtime: Runtime, out: Path) -> int:
    with console.status("raising the learning rate …"):
        found = find_rate(prepared, runtime)
    path = out / f"find-rate-{prepared.trial.fingerprint}.png"
    title = f"{prepared.request.model} on {prepared.images.name}"
    write_bytes_atomic(path, ramp_picture(found.rates, found.losses, found.smoothed, found.rate, found.good, title))
    first, last = found.rates[0], found.rates[-1]
    console.print(f"{len(found.rates)} steps from {first:.2g} to {last:.2g}: {found.verdict}")
    plain(console, f"written: {path}")
    return 0


def _conclude(console: Console, done: Result, metrics: Sequence[MetricSpec], model: str) -> None:
    if not done.trained:
        console.print("this run is finished already")
    interval = ""
    if metrics[0].share_of_images:
        low, high = wilson(round(done.metrics[metrics[0].key] * done.test_images / 100), done.test_images)
        interval = f" (95 % interval of {metrics[0].title} {low:.2f} to {high:.2f} %)"
    if metrics[0] == MASKED_ERROR:
        interval = " (predicting each patch's mean gives 1; lower is better)"
    console.print(
        f"[bold]{summary(metrics, done.metrics)}[/] of {done.test_images:,} test images{interval}; "
        f"{duration(done.seconds)}, {rate(done.images_per_second)} images/s",
        soft_wrap=True,
    )
    plain(console, f"bundle: {done.bundle}")
    if metrics[0] == MASKED_ERROR:
        plain(console, f"to fine-tune it: nextify train {model} --data PATH --weights {shlex.quote(str(done.bundle))}")
    for name in (PREDICTIONS, RECONSTRUCTIONS):
        if (pictures := done.bundle.with_name(name)).exists():
            plain(console, f"{pictures.stem}: {pictures}")
