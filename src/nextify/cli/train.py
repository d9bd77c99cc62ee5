"""``nextify train MODEL --data PATH``: a model that works on your images, from a folder of them."""

from __future__ import annotations

import shlex
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from nextify.cli.options import ClassOrder

if TYPE_CHECKING:
    from rich.console import Console

    from nextify.training.prepare import Prepared
    from nextify.training.request import Request
    from nextify.training.trial import Runtime


@dataclass(frozen=True)
class Options:
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
    """With --weights: so many stages, from the stem on, stay as they are."""
    image_size: int | None = None
    """Side of the images in pixels. Default: the weights', or the images' own between 16 and 224."""
    precision: Literal["fp32", "bf16"] | None = None
    """bf16 uses autocast; worth it on GPUs and on CPUs that have bf16 instructions. Default: the recipe's."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto: a CUDA GPU where there is one."""
    workers: int | None = None
    """Processes that prepare images. Default: none on a CPU, the cores less one beside a GPU."""
    threads: int | None = None
    """CPU threads of the network. Default: all on a CPU."""
    accumulation: int | None = None
    """Parts into which each batch is cut to save memory. Default: as few as fit, by a measurement."""
    distributed: Literal["auto", "ddp", "fsdp"] = "auto"
    """Under torchrun: ddp gives each process the whole network, fsdp a part of it, where it does not fit. auto: ddp."""
    checkpoint_seconds: float = 20.0
    """Longest time between two checkpoints."""
    track: Annotated[
        UseAppendAction[tuple[Literal["tensorboard", "wandb", "trackio"], ...]], arg(metavar="TRACKER")
    ] = ()
    """Tell tensorboard, wandb or trackio of each epoch too; can be given several times. log.jsonl is always written."""
    evaluations: int = 2
    """How often the test images are measured, evenly spaced, the end included."""
    seed: int = 0
    """Of the weights, the order and the augmentation."""
    split_seed: int = 0
    """Of the split of a folder that has no test images of its own."""
    out: Path | None = None
    """Folder of the results. Default: runs/MODEL-DATA."""
    overfit_batch: bool = False
    """Learn one batch by heart and stop: shows in a minute whether data and settings can be learned at all."""
    dry_run: bool = False
    """Check and measure, say what would be trained, and stop."""


def run(options: Options) -> int:
    from nextify.cli.printing import one_voice
    from nextify.system import processes
    from nextify.training.device import runtime as runtime_of
    from nextify.training.request import check
    from nextify.training.tracking import check_trackers

    with one_voice(first=processes.number() == 0):
        request = _request(options)
        check(request)
        check_trackers(options.track)
        if options.evaluations < 1:
            raise ValueError("--evaluations must be 1 or more: the result is measured at the end")
        if options.checkpoint_seconds < 0:
            raise ValueError("--checkpoint-seconds must be 0 or more")
        runtime = runtime_of(
            options.device, options.threads, options.workers, options.accumulation, options.distributed
        )
    runtime = replace(runtime, evaluations=options.evaluations, checkpoint_seconds=options.checkpoint_seconds)
    with processes.joined(runtime.device):
        return _run(options, request, runtime)


def _request(options: Options) -> Request:
    from nextify.cli.settings import settings
    from nextify.training.request import Request

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
        seed=options.seed,
    )


def _run(options: Options, request: Request, runtime: Runtime) -> int:
    from rich.console import Console

    from nextify.cli.printing import one_voice
    from nextify.data import Images, open_images
    from nextify.data.opening import source_name
    from nextify.system import processes
    from nextify.training.loop import TrainingDiverged, TrainingOutOfMemory, TrainingStopped
    from nextify.training.probe import measure
    from nextify.training.run import finished, prepare_in
    from nextify.training.run import run as run_prepared

    console = Console(quiet=not processes.is_first())
    out = options.out or Path("runs") / f"{options.model}-{source_name(options.data)}"

    def read() -> Images:
        return open_images(options.data, split_seed=options.split_seed, cache=out / "cache")

    with one_voice(first=processes.is_first()):
        images = processes.first_alone(read)
        if request.minutes is not None:
            with console.status("measuring how many epochs fit …"):
                prepared = prepare_in(out, request, images, runtime)
        else:
            prepared = prepare_in(out, request, images, runtime)
        _announce(console, prepared, runtime)
        if options.overfit_batch:
            return _overfit(console, prepared, runtime)
        if processes.from_first(lambda: finished(out, prepared.trial)) is None:
            with console.status("measuring a few steps …"):
                estimate = measure(prepared, runtime)
            runtime = _announce_time(console, estimate, runtime)
            if options.dry_run:
                return 0
    stopping = _Stopping()
    command = shlex.join(["nextify", *sys.argv[1:]])
    try:
        with _Progress(console, prepared.trial.recipe.batch_size) as progress, stopping:
            done = run_prepared(
                prepared,
                out,
                runtime,
                command=command,
                progress=progress.show,
                should_stop=stopping.asked,
                track=options.track,
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
    from nextify.networks.layout import cost
    from nextify.paper.design import Design
    from nextify.report.text import count

    trial, report = prepared.trial, prepared.preflight
    size = trial.data.image_size
    assert isinstance(trial.design, Design)  # this command trains networks of ours
    price = cost(trial.design, size, trial.data.num_classes)
    console.print(f"[bold]{prepared.request.model}[/] on {prepared.images.name}", highlight=False)
    for line in report.lines():
        console.print(f"  {line}", highlight=False)
    for note in report.notes:
        _say(console, note)
    threads = f"{runtime.threads} thread{'s' if runtime.threads > 1 else ''}"
    if runtime.processes > 1:
        threads += f" in each of {runtime.processes} processes ({runtime.distributed})"
    recipe = trial.recipe
    steps = len(prepared.images.train) // recipe.batch_size
    console.print(
        f"{count(price.parameters)} parameters, {count(price.macs)} multiply-adds at {size}×{size}; {runtime.device}, "
        f"{threads}",
        f"\nrecipe {prepared.recipe_name}: {recipe.epochs} epochs of {steps:,} steps of {recipe.batch_size} images",
        highlight=False,
        sep="",
        soft_wrap=True,
    )
    for text in (*prepared.notes, *map(str, prepared.changes)):
        _say(console, text)
    for warning in report.warnings if not console.quiet else ():
        print(f"nextify: warning: {warning}", file=sys.stderr)


def _say(console: Console, text: str) -> None:
    console.print(f"  · {text}", highlight=False, style="dim", markup=False, soft_wrap=True)


def _announce_time(console: Console, estimate: Any, runtime: Runtime) -> Runtime:
    from nextify.report.text import duration

    console.print(
        f"about [bold]{duration(estimate.seconds)}[/] from a measured probe "
        f"({estimate.images_per_second:,.0f} images/s, {estimate.memory_mib:,} MiB of memory)",
        highlight=False,
    )
    if estimate.accumulation > 1:
        _say(
            console,
            f"each batch is computed in {estimate.accumulation} parts, since it does not fit the memory whole; "
            f"the step is of the whole batch (batch norm sees the parts)",
        )
    return replace(runtime, accumulation=estimate.accumulation)


def _overfit(console: Console, prepared: Prepared, runtime: Runtime) -> int:
    from nextify.training.overfit import overfit_batch

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


def _conclude(console: Console, done: Any) -> None:
    from nextify.report.text import duration

    if not done.trained:
        console.print("this training is finished already")
    console.print(
        f"top-1 [bold]{done.top1:.2f} %[/], top-5 {done.top5:.2f} % of {done.test_images:,} test images; "
        f"{duration(done.seconds)}, {done.images_per_second:,.0f} images/s",
        highlight=False,
    )
    console.print(f"bundle: {done.bundle}", highlight=False, soft_wrap=True)


class _Stopping:
    """SIGTERM and the first Ctrl-C ask the training to save and stop; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def asked(self) -> bool:
        return self._asked

    def __enter__(self) -> _Stopping:
        import threading

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True


class _Progress:
    """A bar with images a second and the time left; nothing where there is no terminal."""

    def __init__(self, console: Console, batch_size: int) -> None:
        from nextify.cli.progress import bars

        self.batch_size = batch_size
        self.bars = bars(console)
        self.task = self.bars.add_task("training", total=1.0, right="")

    def __enter__(self) -> _Progress:
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def show(self, values: dict[str, Any]) -> None:
        from nextify.report.text import duration

        left = values["total_steps"] - values["step"]
        speed = values["images_per_second"]
        seconds = left * self.batch_size / speed if speed else None
        self.bars.update(
            self.task,
            completed=values["step"] / values["total_steps"],
            right=f"{speed:,.0f} images/s, {duration(seconds)} left",
        )
