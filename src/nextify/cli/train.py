"""``nextify train MODEL --data PATH``: a model that works on your images, from a folder of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import Positional, UseAppendAction, arg

from nextify.cli.options import ClassOrder
from nextify.cli.printing import one_voice
from nextify.cli.progress import TrainingProgress
from nextify.cli.running import Stopping, TrainingOptions, command_line, plural, read_images, say
from nextify.cli.settings import settings
from nextify.data.opening import source_name
from nextify.networks.layout import cost
from nextify.paper.design import Design
from nextify.report.text import count, duration
from nextify.system import processes
from nextify.training.loop import TrainingDiverged, TrainingStopped
from nextify.training.overfit import overfit_batch
from nextify.training.prepare import Prepared
from nextify.training.probe import Estimate, measure
from nextify.training.request import Request, check
from nextify.training.run import Result, TrainingOutOfMemory, finished
from nextify.training.tracking import check_trackers
from nextify.training.train import folder_of, prepare_in, run_prepared
from nextify.training.trial import Runtime
from nextify.training.trial import runtime as choose_runtime
from nextify.weights.bundle import chosen_bands


@dataclass(frozen=True, kw_only=True)
class Options(TrainingOptions):
    """Train a network on your images: the data is checked, the recipe fitted to it, and a bundle left in --out.

    Interrupted, it goes on where it stopped when the same command is given again. Several processes or machines train
    together when torchrun starts them: torchrun --nproc-per-node 8 -m nextify train …
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A name that `nextify models` lists, e.g. convnext_atto."""
    data: str
    """digits, cifar10, hf:OWNER/NAME, or images: a folder, a .csv or .parquet list, .parquet or .tar (docs/data.md)."""
    epochs: int | None = None
    """Passes over the images. Default: the recipe's, or the scale's."""
    minutes: float | None = None
    """Instead of --epochs: as many as fit this time here, by a measurement."""
    recipe: str | None = None
    """convnext_in1k, scratch_small, finetune_small, … Default: by the number of images and by --weights."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FIELD=VALUE")] = ()
    """Any field of recipe or design, above the fit, e.g. --set batch_size=64 --set mixing=off --set norm=batch."""
    scale: Literal["tiny", "small", "half", "full"] = "full"
    """A smaller network than the name says, for smaller images."""
    weights: str | None = None
    """Start from these: a bundle, another library's file, hf:owner/name or timm:name. The classifier becomes
    new unless the classes are the same."""
    class_order: ClassOrder = None
    freeze: Annotated[int, arg(metavar="STAGES")] = 0
    """With --weights: this many stages, counted from the stem, stay as they are."""
    image_size: int | None = None
    """Side of the images in pixels. Default: the weights', or the images' own between 16 and 224."""
    precision: Literal["fp32", "bf16"] | None = None
    """bf16 uses autocast; worth it on GPUs and on CPUs that have bf16 instructions. Default: the recipe's."""
    workers: int | None = None
    """Processes that prepare images. Default: none on a CPU, all cores but one beside a GPU."""
    accumulation: int | None = None
    """Parts into which each batch is cut to save memory. Default: as few as fit, by a measurement. With batch norm the
    parts change the result, and are never chosen for you."""
    distributed: Literal["auto", "ddp", "fsdp"] = "auto"
    """Under torchrun: ddp gives each process the whole network, fsdp a part of it, where it does not fit. auto: ddp."""
    track: Annotated[
        UseAppendAction[tuple[Literal["tensorboard", "wandb", "trackio"], ...]], arg(metavar="TRACKER")
    ] = ()
    """Report each epoch to tensorboard, wandb or trackio too; can be given several times."""
    evaluations: int = 2
    """How often the test images are measured, evenly spaced, the end included."""
    seed: int = 0
    """Seed of the weights, the order and the augmentation."""
    out: Path | None = None
    """Folder of the results. Default: runs/MODEL-DATA."""
    licence: Annotated[str | None, arg(metavar="SPDX")] = None
    """Licence of the result, e.g. cc-by-4.0. Default: that of --weights, else "yours"."""
    overfit_batch: bool = False
    """Learn one batch by heart and stop: shows in a minute whether data and settings can be learned at all."""
    dry_run: bool = False
    """Check and measure, report what would be trained, and stop."""


def run(options: Options) -> int:
    with one_voice(first=processes.number() == 0):
        options.check()
        request = _request(options)
        check(request)
        check_trackers(options.track)
        if options.evaluations < 1:
            raise ValueError("--evaluations must be 1 or more: the result is measured at the end")
        runtime = choose_runtime(
            *(options.device, options.threads, options.workers, options.accumulation, options.distributed),
            kernels=options.kernels,
            compile=options.compile,
        )
    runtime = replace(runtime, evaluations=options.evaluations, checkpoint_seconds=options.checkpoint_seconds)
    with processes.joined(runtime.device):
        return _run(options, request, runtime)


def _request(options: Options) -> Request:
    return Request(
        model=options.model,
        recipe=options.recipe,
        settings=settings(options.set),
        epochs=options.epochs,
        minutes=options.minutes,
        scale=options.scale,
        weights=options.weights,
        class_order=options.class_order,
        frozen_stages=options.freeze,
        image_size=options.image_size,
        precision=options.precision,
        accumulation=options.accumulation,
        seed=options.seed,
    )


def _run(options: Options, request: Request, runtime: Runtime) -> int:
    console = Console(quiet=not processes.is_first())
    out = options.out or Path("runs") / f"{options.model}-{source_name(options.data)}"
    with one_voice(first=processes.is_first()):
        channels = chosen_bands(options.weights) if options.weights else None
        images = processes.first_alone(lambda: read_images(options, out, console, channels))
        with console.status("measuring how many epochs fit …" if request.minutes else "reading …"):
            prepared = prepare_in(out, request, images, runtime)
        _announce(console, prepared, runtime)
        if options.overfit_batch:
            return _overfit(console, prepared, runtime)
        if processes.from_first(lambda: finished(folder_of(out, prepared.trial), prepared.trial)) is None:
            with console.status("measuring a few steps …"):
                estimate = measure(prepared, runtime)
            _announce_time(console, estimate, prepared, options.accumulation or 1)
            runtime = replace(runtime, accumulation=estimate.accumulation)
            if options.dry_run:
                return 0
    try:
        with TrainingProgress(console, prepared.trial.recipe.batch_size) as progress, Stopping() as stopping:
            done = run_prepared(
                *(prepared, out, runtime),
                command=command_line(),
                on_progress=progress.show,
                should_stop=stopping.asked,
                track=options.track,
                licence=options.licence,
            )
    except TrainingStopped as stopped:
        console.print(f"{stopped}; the same command goes on from there", highlight=False)
        return 130
    except TrainingDiverged as diverged:
        if processes.is_first():
            print(f"nextify: {diverged}", file=sys.stderr)
        return 1
    except TrainingOutOfMemory as short:
        print(f"nextify: {short}", file=sys.stderr)
        return 1
    except processes.FirstFailed:
        return 1
    except RuntimeError as error:
        if processes.lost(error):
            print(f"nextify: process {processes.rank()} lost the others; one of them failed", file=sys.stderr)
            return 1
        raise
    _conclude(console, done)
    return 0


def _announce(console: Console, prepared: Prepared, runtime: Runtime) -> None:
    trial, report = prepared.trial, prepared.preflight
    size = trial.data.image_size
    assert isinstance(trial.design, Design)  # this command trains networks of ours
    price = cost(trial.design, size, trial.data.num_classes)
    console.print(f"[bold]{prepared.request.model}[/] on {prepared.images.name}", highlight=False)
    for line in report.lines():
        console.print(f"  {line}", highlight=False)
    say(console, report.notes)
    threads = plural(runtime.threads, "thread")
    if runtime.processes > 1:
        threads += f" in each of {runtime.processes} processes ({runtime.distributed})"
    recipe = trial.recipe
    steps = len(prepared.images.train) // recipe.batch_size
    console.print(
        f"{count(price.parameters)} parameters, {count(price.macs)} multiply-adds at {size}×{size}; {runtime.device}, "
        f"{threads}\nrecipe {prepared.recipe_name}: {recipe.epochs} epochs of {steps:,} steps of {recipe.batch_size} "
        f"images",
        highlight=False,
        soft_wrap=True,
    )
    say(console, (*prepared.notes, *map(str, prepared.changes)))
    for warning in report.warnings if not console.quiet else ():
        print(f"nextify: warning: {warning}", file=sys.stderr)


def _announce_time(console: Console, estimate: Estimate, prepared: Prepared, asked: int) -> None:
    console.print(
        f"about [bold]{duration(estimate.seconds)}[/] from a measured probe "
        f"({estimate.images_per_second:,.0f} images/s, {estimate.memory_mib:,} MiB of memory)",
        highlight=False,
    )
    if estimate.accumulation > 1:
        why = "as --accumulation asks" if estimate.accumulation == asked else "as larger ones do not fit the memory"
        sees = "; batch norm normalizes each part by itself" if prepared.uses_batch_norm else ""
        say(console, [f"each batch is computed in {estimate.accumulation} parts, {why}{sees}"])


def _overfit(console: Console, prepared: Prepared, runtime: Runtime) -> int:
    with console.status("learning one batch by heart …"):
        found = overfit_batch(prepared, runtime)
    console.print(
        f"one batch of {found.images} images, {found.steps} steps: loss {found.first_loss:.3f} → "
        f"{found.last_loss:.3f}, {found.top1:.1f} % right",
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


def _conclude(console: Console, done: Result) -> None:
    if not done.trained:
        console.print("this training is finished already")
    console.print(
        f"top-1 [bold]{done.top1:.2f} %[/], top-5 {done.top5:.2f} % of {done.test_images:,} test images; "
        f"{duration(done.seconds)}, {done.images_per_second:,.0f} images/s",
        highlight=False,
    )
    console.print(f"bundle: {done.bundle}", highlight=False, soft_wrap=True)
