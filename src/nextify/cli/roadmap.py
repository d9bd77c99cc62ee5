"""``nextify roadmap``: the paper's roadmap as a study on your images."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import arg

from nextify import report
from nextify.cli.progress import StudyProgress
from nextify.cli.running import TrainingOptions, command_line, interrupt_on_sigterm, plural, read_images, say
from nextify.data import Images
from nextify.data.opening import source_name
from nextify.fitting.scale import scale
from nextify.paper.roadmap import roadmap
from nextify.report.tables import terminal
from nextify.report.text import duration, notes
from nextify.study.engine import EngineError, LocalEngine
from nextify.study.plan import Plan, make_plan
from nextify.study.store import Store
from nextify.study.study import Study, StudyEstimate, default_side_by_side
from nextify.system.device import usable_device
from nextify.training.trial import Data, Runtime


@dataclass(frozen=True, kw_only=True)
class Options(TrainingOptions):
    """Train the steps from ResNet to ConvNeXt on your images and report what each one brings.

    Writes results.json, results.csv, roadmap.svg, roadmap.png and report.html to --out, and keeps every network in
    --out/trials. Interrupted, it goes on where it stopped when the same command is given again.
    """

    regime: Literal["resnet50", "resnet200"] = "resnet50"
    """resnet50 → ConvNeXt-T, or resnet200 → ConvNeXt-B."""
    scale: Literal["tiny", "small", "half", "full"] = "tiny"
    """Size of the networks and images; full is the paper's."""
    seeds: int = 3
    """Trainings of each step. 6 are needed before a single change can be called significant."""
    epochs: int | None = None
    """Epochs of the paper's recipe; the original one gets 90/300 of them. Default: the scale's."""
    explore: bool = False
    """Also train the steps the paper tried and did not adopt: kernels 5, 9 and 11."""
    steps: Annotated[tuple[str, ...], arg(metavar="NAME …")] = ()
    """Only these steps (nextify models 'resnet50_*' lists them). Default: all adopted ones."""
    out: Path | None = None
    """Folder of the study. Default: runs/REGIME-DATA-SCALE."""
    image_size: int | None = None
    """Side of the images in pixels. Default: the images' own, within the scale's range."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 uses autocast; worth it on GPUs and on CPUs that have bf16 instructions."""
    side_by_side: int | None = None
    """Trials that run at the same time. Default: one per core for small scales."""
    dry_run: bool = False
    """Report what would be trained, with the measured estimate, and stop."""


def run(options: Options) -> int:
    started = datetime.now(UTC)
    console = Console()
    interrupt_on_sigterm()
    options.check()
    if options.seeds < 1:
        raise ValueError("--seeds must be 1 or more: each step needs at least one training")
    out = options.out or Path("runs") / f"{options.regime}-{source_name(options.data)}-{options.scale}"
    images = read_images(options, out, console)
    plan = _plan(options, images)
    device = usable_device(options.device)
    side_by_side, threads = default_side_by_side(options.scale, device, options.threads)
    side_by_side = options.side_by_side or side_by_side
    runtime = Runtime(
        *(device, threads),
        kernels=options.kernels,
        compile=options.compile,
        checkpoint_seconds=options.checkpoint_seconds,
    )
    with Store(out) as store:
        study = Study(plan, store, images, runtime, side_by_side, command_line())
        study.load()
        _announce(console, study, out)
        try:
            with LocalEngine(runtime, side_by_side) as engine:
                if study.open_trials:
                    with console.status("measuring a few steps of each network …") as status:
                        estimate = study.estimate(engine, lambda step: status.update(f"measured {step} …"))
                    _announce_time(console, study, estimate)
                    if options.dry_run:
                        return 0
                    with StudyProgress(console, study, estimate) as progress:
                        study.run(engine, progress.on_event)
        except KeyboardInterrupt:
            done = len(plan.trials) - len(study.open_trials)
            console.print(f"\nStopped with {done} of {len(plan.trials)} trainings finished; the same command goes on.")
            return 130
        except EngineError as error:
            print(f"nextify: {error}", file=sys.stderr)
            return 1
        return _conclude(console, study, out, started)


def _plan(options: Options, images: Images) -> Plan:
    chosen = scale(options.scale)
    native = images.native_size
    size = options.image_size or chosen.image_size(min(native) if native else None)
    return make_plan(
        *(roadmap(options.regime), chosen, images),
        Data(images.name, images.fingerprint, images.num_classes, size),
        seeds=tuple(range(options.seeds)),
        epochs=options.epochs,
        explore=options.explore,
        steps=options.steps,
        precision=options.precision,
    )


def _announce(console: Console, study: Study, out: Path) -> None:
    plan, images, runtime = study.plan, study.images, study.runtime
    seeds = plural(len({planned.trial.seed for planned in plan.trials}), "seed")
    console.print(f"[bold]{plan.roadmap.title}[/] on {images.name}, scale {plan.scale.name}")
    console.print(
        f"{len(plan.rows)} steps × {seeds} = {len(plan.trials)} trainings on {len(images.train):,} images of "
        f"{plan.data.image_size}×{plan.data.image_size} ({len(images.classes)} classes), tested on {len(images.test):,}"
    )
    console.print(
        f"epochs: {plan.original.epochs} of the original recipe, {plan.modern.epochs} of the paper's; "
        f"{study.side_by_side} side by side with {plural(runtime.threads, 'thread')} each on {runtime.device}"
    )
    say(console, (*images.warnings, *images.notes, *plan.notes, *study.notes))
    finished = len(plan.trials) - len(study.open_trials)
    if finished:
        console.print(f"{finished} of {len(plan.trials)} trainings are finished already")
    console.print(f"results go to [bold]{out}[/]")


def _announce_time(console: Console, study: Study, estimate: StudyEstimate) -> None:
    slowest = min(estimate.images_per_second, key=lambda step: estimate.images_per_second[step])
    console.print(
        f"about [bold]{duration(estimate.seconds)}[/] for {len(study.open_trials)} trainings, from a measured probe "
        f"({slowest} is the slowest: {estimate.images_per_second[slowest]:,.0f} images/s per trial)"
    )


def _conclude(console: Console, study: Study, out: Path, started: datetime) -> int:
    results = study.results(started)
    written = report.write(results, out)
    console.print()
    console.print(terminal(results))
    for line in notes(results):
        console.print(line, style="dim", highlight=False, markup=False)
    failed = [trial for trial in results.trials if trial.status == "failed"]
    for trial in failed:
        console.print(f"[red]failed[/] {trial.step}, seed {trial.seed}: {trial.error}", highlight=False)
    console.print(f"written: {', '.join(str(path) for path in written)}", highlight=False)
    return 1 if failed else 0
