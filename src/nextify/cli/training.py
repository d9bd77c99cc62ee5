"""Running ``nextify train``, and telling what is trained, how long it takes, and what it gave."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.markup import escape

from nextify import cli
from nextify.cli.printing import command_line, one_voice, say
from nextify.cli.progress import Stopping, TrainingProgress, read_any, read_unlabelled
from nextify.evaluation.metrics import wilson
from nextify.networks.dense.design import DenseDesign
from nextify.networks.dense.network import build_dense
from nextify.networks.layout import cost
from nextify.networks.masked.design import MaskedDesign
from nextify.paper.design import Design
from nextify.report.text import count, duration
from nextify.system import processes
from nextify.system.text import plural
from nextify.tasks.task import MetricSpec, summary
from nextify.training.learned import AnyImages, metric_specs
from nextify.training.loop import TrainingDiverged, TrainingStopped
from nextify.training.overfit import overfit_batch
from nextify.training.prepare import Prepared
from nextify.training.probe import Estimate, measure
from nextify.training.reconstructions import RECONSTRUCTIONS
from nextify.training.result import Result, finished
from nextify.training.run import TrainingOutOfMemory
from nextify.training.train import PREDICTIONS, folder_of, prepare_in, run_prepared
from nextify.training.trial import Runtime, Trial, runtime

if TYPE_CHECKING:
    from nextify.cli import pretrain, train


def run_training(options: train.Options | pretrain.Options) -> int:
    machine, watching = options.machine, options.watching
    with one_voice(first=processes.number() == 0):
        place = replace(
            runtime(
                *(machine.device, machine.threads, machine.workers, machine.accumulation, machine.distributed),
                kernels=machine.kernels,
                compile=machine.compile,
            ),
            evaluations=watching.evaluations,
            checkpoint_seconds=machine.checkpoint_seconds,
        )
    with processes.joined(place.device):
        return _run(options, place)


def _run(options: train.Options | pretrain.Options, runtime: Runtime) -> int:
    console = Console(quiet=not processes.is_first())
    out, request, watching = options.folder, options.request(), options.watching

    def read() -> AnyImages:
        weights = options.network.weights
        if request.mask_ratio is not None:
            return read_unlabelled(console, options.data, options.reading, out / "cache", weights)
        task, ignored = getattr(options, "task", None), getattr(options, "ignore_index", None)
        return read_any(console, options.data, options.reading, out / "cache", weights, task, ignored)

    with one_voice(first=processes.is_first()):
        images = processes.first_alone(read)
        if request.minutes and not console.is_terminal:  # where no status is shown for what may take a minute
            console.print("measuring how many epochs fit …")
        try:
            with console.status("measuring how many epochs fit …" if request.minutes else "reading …"):
                prepared = prepare_in(out, request, images, runtime, started=cli.STARTED, keep=not watching.dry_run)
        except ValueError:  # a refusal comes after what was found in the data, not instead of it
            console.print(
                f"{images.name}: {plural(len(images.train), 'image')} to train on and {len(images.test):,} to test on, "
                f"{images.num_classes:,} classes",
                highlight=False,
                markup=False,
            )
            say(console, (*images.warnings, *images.notes))
            raise
        _announce(console, prepared, runtime)
        if getattr(watching, "overfit_batch", False):
            return _overfit(console, prepared, runtime)
        folder = folder_of(out, prepared.trial)
        if processes.from_first(lambda: finished(folder, prepared.trial)) is None:
            with console.status("measuring a few steps …"):
                estimate = measure(prepared, runtime)
            _announce_time(console, estimate, prepared, options.machine.accumulation or 1)
            runtime = replace(runtime, accumulation=estimate.accumulation)
            if watching.dry_run:
                return 0
            begins = "goes on from the checkpoint in" if any(folder.glob("checkpoint.pt*")) else "results go to"
            console.print(f"{begins} {folder}", highlight=False, markup=False, soft_wrap=True)
    try:
        with TrainingProgress(console, prepared, cli.STARTED) as progress, Stopping() as stopping:
            done = run_prepared(
                *(prepared, out, runtime),
                command=command_line(),
                on_progress=progress.show,
                should_stop=stopping.asked,
                track=watching.track,
                licence=options.licence,
            )
    except TrainingStopped as stopped:
        console.print(f"{stopped}; the same command goes on from there", highlight=False, markup=False)
        return 130
    except processes.FirstFailed:
        return 1
    except (TrainingDiverged, TrainingOutOfMemory) as error:
        if processes.is_first() or isinstance(error, TrainingOutOfMemory):
            print(f"nextify: {error}", file=sys.stderr)
        return 1
    _conclude(console, done, metric_specs(prepared.trial))
    return 0


def _announce(console: Console, prepared: Prepared, runtime: Runtime) -> None:
    trial, report = prepared.trial, prepared.preflight
    parameters, macs, shape = _price(trial)
    console.print(f"[bold]{prepared.request.model}[/] on {escape(prepared.images.name)}", highlight=False)
    for line in report.lines():
        console.print(f"  {line}", highlight=False)
    say(console, report.notes)
    threads = plural(runtime.threads, "thread")
    if runtime.processes > 1:
        threads += f" in each of {runtime.processes} processes ({runtime.distributed})"
    recipe = trial.recipe
    console.print(
        f"{count(parameters)} parameters, {count(macs)} multiply-adds at {shape}; {runtime.device}, "
        f"{threads}\nrecipe {prepared.recipe_name}: {plural(recipe.epochs, 'epoch')} of "
        f"{plural(prepared.steps_per_epoch, 'step')} of {plural(recipe.batch_size, 'image')}",
        highlight=False,
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
            network = build_dense(design, data.num_classes, data.canvas)
        macs = dense_cost(design, data.num_classes, height, width)
        return sum(p.numel() for p in network.parameters()), macs, f"{width}×{height}"
    if isinstance(design, MaskedDesign):
        price = cost(design.encoder, data.image_size, 0)
        return price.parameters, price.macs, f"{data.image_size}×{data.image_size}, of the whole image"
    assert isinstance(design, Design)  # this command trains networks of ours
    price = cost(design, data.image_size, data.num_classes)
    return price.parameters, price.macs, f"{data.image_size}×{data.image_size}"


def _announce_time(console: Console, estimate: Estimate, prepared: Prepared, asked: int) -> None:
    console.print(
        f"about [bold]{duration(estimate.seconds)}[/] from a measured probe "
        f"({estimate.images_per_second:,.0f} images/s, {estimate.memory_mib:,} MiB of memory)",
        highlight=False,
    )
    if estimate.accumulation > 1:
        why = "as --accumulation asks" if estimate.accumulation == asked else "as larger ones do not fit the memory"
        sees = "; batch norm normalizes each part by itself" if prepared.uses_batch_norm else ""
        if isinstance(prepared.trial.design, DenseDesign):
            sees = "; the losses are means over each part's objects or pixels"
        say(console, [f"each batch is computed in {estimate.accumulation} parts, {why}{sees}"])


def _overfit(console: Console, prepared: Prepared, runtime: Runtime) -> int:
    with console.status("learning one batch by heart …"):
        found = overfit_batch(prepared, runtime)
    console.print(
        f"one batch of {found.images} images, {found.steps} steps: loss {found.first_loss:.3f} → "
        f"{found.last_loss:.3f}, {found.metric.text(found.value)}",
        highlight=False,
    )
    if found.works:
        console.print("data, network and settings can learn")
        return 0
    print(
        "nextify: not even one batch was learned by heart: check the labels, or try --set learning_rate=… and fewer "
        "classes that look the same",
        file=sys.stderr,
    )
    return 1


def _conclude(console: Console, done: Result, metrics: Sequence[MetricSpec]) -> None:
    if not done.trained:
        console.print("this training is finished already")
    interval = ""
    if metrics[0].share_of_images:
        low, high = wilson(round(done.metrics[metrics[0].key] * done.test_images / 100), done.test_images)
        interval = f" (95 % interval of {metrics[0].title} {low:.2f} to {high:.2f} %)"
    console.print(
        f"[bold]{summary(metrics, done.metrics)}[/] of {done.test_images:,} test images{interval}; "
        f"{duration(done.seconds)}, {done.images_per_second:,.0f} images/s",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"bundle: {done.bundle}", highlight=False, markup=False, soft_wrap=True)
    for name in (PREDICTIONS, RECONSTRUCTIONS):
        if (pictures := done.bundle.with_name(name)).exists():
            console.print(f"{pictures.stem}: {pictures}", highlight=False, markup=False, soft_wrap=True)
