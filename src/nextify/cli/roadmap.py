"""``nextify roadmap``: the paper's roadmap as a study on your images."""

from __future__ import annotations

import shlex
import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from nextify.study.plan import Plan
    from nextify.study.study import Estimate, Study


@dataclass(frozen=True)
class Options:
    """Train the steps from ResNet to ConvNeXt on your images and report what each one brings.

    Writes results.json, results.csv, roadmap.svg, roadmap.png and report.html to --out. Interrupted, it goes on where
    it stopped when the same command is given again.
    """

    regime: Literal["resnet50", "resnet200"] = "resnet50"
    """resnet50 → ConvNeXt-T, or resnet200 → ConvNeXt-B."""
    data: str = "digits"
    """digits, cifar10, hf:OWNER/NAME, or images: a folder, a .csv or .parquet list, .parquet or .tar (docs/data.md)."""
    scale: Literal["tiny", "small", "half", "full"] = "tiny"
    """Size of the networks and images; full is the paper's."""
    seeds: int = 3
    """Trainings of each step. 6 are needed before a single change can be called significant."""
    epochs: int | None = None
    """Epochs of the paper's recipe; the original one gets 90/300 of them. Default: the scale's."""
    explore: bool = False
    """Also train the steps the paper tried and did not adopt: kernels 5, 9 and 11."""
    steps: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME …")] = ()
    """Only these steps (nextify models 'resnet50_*' lists them). Default: all adopted ones."""
    out: Path | None = None
    """Folder of the study. Default: runs/REGIME-DATA-SCALE."""
    image_size: int | None = None
    """Side of the images in pixels. Default: the images' own, within the scale's range."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 uses autocast; worth it on GPUs and on CPUs that have bf16 instructions."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto: a CUDA GPU where there is one."""
    side_by_side: int | None = None
    """Trials that run at the same time. Default: one a core for small scales."""
    threads: int | None = None
    """CPU threads of each trial. Default: the cores shared out over the trials."""
    checkpoint_seconds: float = 20.0
    """Longest time between two checkpoints of a running trial."""
    split_seed: int = 0
    """Seed of the split of a folder that has no test images of its own."""
    dry_run: bool = False
    """Say what would be trained, with the measured estimate, and stop."""


def run(options: Options) -> int:
    from rich.console import Console

    from nextify.data import open_images
    from nextify.data.opening import source_name
    from nextify.study.engine import EngineError, LocalEngine
    from nextify.study.store import Store
    from nextify.study.study import Study, default_side_by_side
    from nextify.training.device import usable_device
    from nextify.training.trial import Runtime

    started = datetime.now(UTC)
    console = Console()
    signal.signal(signal.SIGTERM, _as_interrupt)
    if options.seeds < 1:
        raise ValueError("--seeds must be 1 or more: each step needs at least one training")
    out = options.out or Path("runs") / f"{options.regime}-{source_name(options.data)}-{options.scale}"
    images = open_images(options.data, split_seed=options.split_seed, cache=out / "cache")
    plan = _plan(options, images)
    device = usable_device(options.device)
    side_by_side, threads = default_side_by_side(options.scale, device, options.threads)
    side_by_side = options.side_by_side or side_by_side
    runtime = Runtime(device, threads, checkpoint_seconds=options.checkpoint_seconds)
    with Store(out) as store:
        study = Study(plan, store, images, runtime, side_by_side, _command())
        study.load()
        _announce(console, study, out)
        try:
            with LocalEngine(images, study.runtime, side_by_side) as engine:
                if study.open_trials:
                    estimate = _probe(console, study, engine)
                    _announce_time(console, study, estimate)
                    if options.dry_run:
                        return 0
                    _train(console, study, engine, estimate)
        except KeyboardInterrupt:
            done = len(plan.trials) - len(study.open_trials)
            console.print(f"\nStopped with {done} of {len(plan.trials)} trainings finished; the same command goes on.")
            return 130
        except EngineError as error:
            print(f"nextify: {error}", file=sys.stderr)
            return 1
        return _conclude(console, study, out, started)


def _plan(options: Options, images: object) -> Plan:
    from nextify.data import Images
    from nextify.fitting.scale import scale
    from nextify.paper.roadmap import roadmap
    from nextify.study.plan import make_plan
    from nextify.training.trial import Data

    assert isinstance(images, Images)
    chosen = scale(options.scale)
    native = images.native_size
    size = options.image_size or chosen.image_size(min(native) if native else None)
    data = Data(images.name, images.fingerprint, images.num_classes, size)
    return make_plan(
        roadmap(options.regime),
        chosen,
        images,
        data,
        seeds=tuple(range(options.seeds)),
        epochs=options.epochs,
        explore=options.explore,
        steps=options.steps,
        precision=options.precision,
    )


def _announce(console: Console, study: Study, out: Path) -> None:
    plan, images = study.plan, study.images
    seeds = len({planned.trial.seed for planned in plan.trials})
    console.print(f"[bold]{plan.roadmap.title}[/] on {images.name}, scale {plan.scale.name}")
    console.print(
        f"{len(plan.rows)} steps × {seeds} seed{'s' if seeds > 1 else ''} = {len(plan.trials)} trainings on "
        f"{len(images.train):,} images of {plan.data.image_size}×{plan.data.image_size} "
        f"({len(images.classes)} classes), tested on {len(images.test):,}"
    )
    console.print(
        f"epochs: {plan.original.epochs} of the original recipe, {plan.modern.epochs} of the paper's; "
        f"{study.side_by_side} side by side with {study.runtime.threads} "
        f"thread{'s' if study.runtime.threads > 1 else ''} each on {study.runtime.device}"
    )
    for note in (*images.warnings, *images.notes, *plan.notes):
        console.print(f"  · {note}", highlight=False, markup=False, style="dim")
    finished = len(plan.trials) - len(study.open_trials)
    if finished:
        console.print(f"{finished} of {len(plan.trials)} trainings are finished already")
    console.print(f"results go to [bold]{out}[/]")


def _probe(console: Console, study: Study, engine: object) -> Estimate:
    from nextify.study.engine import LocalEngine

    assert isinstance(engine, LocalEngine)
    with console.status("measuring a few steps of each network …") as status:
        return study.estimate(engine, lambda step: status.update(f"measured {step} …"))


def _announce_time(console: Console, study: Study, estimate: Estimate) -> None:
    from nextify.report.text import duration

    slowest = min(estimate.images_per_second, key=lambda step: estimate.images_per_second[step])
    console.print(
        f"about [bold]{duration(estimate.seconds)}[/] for {len(study.open_trials)} trainings, from a measured probe "
        f"({slowest} is the slowest: {estimate.images_per_second[slowest]:,.0f} images/s a trial)"
    )


def _train(console: Console, study: Study, engine: object, estimate: Estimate) -> None:
    from nextify.cli.progress import StudyProgress
    from nextify.study.engine import LocalEngine

    assert isinstance(engine, LocalEngine)
    with StudyProgress(console, study, estimate) as progress:
        study.run(engine, progress.on_event)


def _conclude(console: Console, study: Study, out: Path, started: datetime) -> int:
    from nextify import report
    from nextify.report.tables import legend, table

    results = study.results(started)
    written = report.write(results, out)
    console.print()
    console.print(table(results))
    for line in legend(results):
        console.print(line, style="dim", highlight=False, markup=False)
    failed = [trial for trial in results["trials"] if trial["status"] == "failed"]
    for trial in failed:
        console.print(f"[red]failed[/] {trial['step']}, seed {trial['seed']}: {trial['error']}", highlight=False)
    console.print(f"written: {', '.join(str(path) for path in written)}", highlight=False)
    return 1 if failed else 0


def _command() -> str:
    return shlex.join(["nextify", *sys.argv[1:]])


def _as_interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
