"""``nextify compare``: networks of different families side by side on this hardware."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from rich.console import Console

    from nextify.compare.measure import Comparison


@dataclass(frozen=True)
class Options:
    """Measure what networks cost at several resolutions: multiply-adds, latency, throughput, memory, and their growth.

    Writes results.json, results.csv, figures and report.html to --out.
    """

    models: Annotated[Positional[tuple[str, ...]], arg(metavar="MODEL …")] = ()
    """Names that `nextify models` lists, timm:NAME for any timm model, or bundles. Default: resnet50,
    timm:deit_small_patch16_224 (ViT-S), timm:swin_tiny_patch4_window7_224, convnext_tiny, convnext_isotropic_small."""
    sizes: tuple[int, ...] = (224, 288, 384, 512)
    """Sides of the square images, in pixels."""
    device: str = "auto"
    """cpu, cuda, cuda:1, or auto: a CUDA GPU where there is one."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """bf16 uses autocast; tf32 exists on CUDA GPUs."""
    layout: Literal["channels_last", "contiguous"] = "channels_last"
    """Memory format of images and convolution weights."""
    batch_sizes: tuple[int, ...] | None = None
    """Of throughput in inference. Default: what --minutes allow, up to 1 8 on a CPU and 1 8 64 on a GPU."""
    training_batch_size: int | None = None
    """Of training. Default: what --minutes allow, up to 4 on a CPU and 64 on a GPU."""
    threads: int | None = None
    """CPU threads. Default: the cores of this process."""
    rounds: int | None = None
    """Times that the networks take turns at a size. Default: as many as --minutes allow, 3 to 20."""
    minutes: float = 15.0
    """Time that the rounds are planned for."""
    counts: bool = False
    """Only count parameters, multiply-adds and activations: seconds, no memory, any size of network."""
    out: Path | None = None
    """Folder of the results. Default: runs/compare."""
    json: bool = False
    """Print the results as JSON instead of the table; progress goes to stderr."""


def run(options: Options) -> int:
    from rich.console import Console

    from nextify.cli.roadmap import _as_interrupt
    from nextify.compare.measure import count, measure, probe
    from nextify.compare.output import write_data

    signal.signal(signal.SIGTERM, _as_interrupt)

    started = datetime.now(UTC)
    console = Console(stderr=options.json)
    settings = _settings(options)
    out = options.out or Path("runs/compare")
    environment = _environment(settings.conditions.device, settings.threads)
    load = environment["load_average_start"]
    if load is not None and load > 0.5 and not options.counts and settings.conditions.device == "cpu":
        console.print(f"[dim]·[/] other processes are busy (load average {load:.1f}): times will be too long")
    with console.status("counting …") as status:
        comparison = count(settings, lambda words, _: status.update(f"{words} …"))
    for cell in comparison.cells:
        for problem in cell.problems:
            console.print(f"[dim]·[/] {cell.entry.label}: {problem}", highlight=False, style="dim")

    def gather() -> dict[str, Any]:
        from nextify.compare.results import results
        from nextify.report import finite

        ended = {**environment, **_clock(settings.conditions.device, "end")}
        return finite(results(comparison, _command(), started, datetime.now(UTC), ended))  # type: ignore[no-any-return]

    if options.counts:
        comparison.complete = True
        return _conclude(console, options, gather(), out, written=options.out is not None)
    with console.status("timing one image through each network …"):
        probe(comparison, _batches(options, settings.conditions.device))
    _announce(console, comparison)
    interrupted = False
    try:
        with _Progress(console) as report:
            measure(comparison, report, lambda: write_data(gather(), out))
    except KeyboardInterrupt:
        interrupted = True
        console.print("\nStopped; what was measured until now:")
    code = _conclude(console, options, gather(), out)
    return 130 if interrupted else code


def _settings(options: Options) -> Any:
    from nextify.compare.entries import LINE_UP, find
    from nextify.compare.settings import Settings
    from nextify.environment import cores
    from nextify.evaluation.profiling import Conditions
    from nextify.training.device import usable_device

    device = usable_device(options.device)
    cuda = device.startswith("cuda")
    batch_sizes, training_batch_size = _batches(options, device)[0]
    models = tuple(dict.fromkeys(options.models or LINE_UP))
    for name in models:
        find(name)
    return Settings(
        models,
        tuple(sorted(set(options.sizes))),
        Conditions(device, options.precision, options.layout),
        options.threads if options.threads is not None else cores(),
        batch_sizes,
        training_batch_size,
        calls=20 if cuda else 5,
        rounds=options.rounds,
        minutes=options.minutes,
    )


def _batches(options: Options, device: str) -> list[tuple[tuple[int, ...], int]]:
    """(Batch sizes of inference, of training) to choose from: what is given stays."""
    from nextify.compare.settings import ON_CPU, ON_GPU

    given = tuple(sorted(set(options.batch_sizes))) if options.batch_sizes is not None else None
    training = options.training_batch_size
    choices = ON_GPU if device.startswith("cuda") else ON_CPU
    made = [(given or batch_sizes, size if training is None else training) for batch_sizes, size in choices]
    return list(dict.fromkeys(made))


def _environment(device: str, threads: int) -> dict[str, Any]:
    import torch

    from nextify.environment import describe

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    found: dict[str, Any] = {**describe(), "threads": threads, "load_average_start": load}
    found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    if device.startswith("cuda"):
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return found | _clock(device, "start")


def _clock(device: str, when: str) -> dict[str, float | None]:
    from nextify.evaluation.profiling import cpu_mhz

    clock = cpu_mhz()
    return {f"cpu_mhz_{when}": None if clock is None else round(clock)}


def _announce(console: Console, comparison: Comparison) -> None:
    from nextify.report.text import duration

    settings, made = comparison.settings, comparison.plan
    assert made is not None
    number = len({cell.entry.name for cell in comparison.cells})
    sizes = ", ".join(f"{s}²" for s in settings.sizes)
    console.print(f"{number} network{'s' if number > 1 else ''} at {sizes}, {made.rounds} rounds", highlight=False)
    console.print(
        f"about [bold]{duration(made.seconds)}[/], from one image timed through each network", highlight=False
    )
    if made.over_budget and settings.rounds is None:
        minutes = f"--minutes {settings.minutes:g}"
        console.print(
            f"[dim]·[/] longer than {minutes}: {made.rounds} rounds are the fewest that show a spread; "
            "fewer --sizes or smaller --batch-sizes take less",
            highlight=False,
        )


class _Progress:
    """A bar for the whole; where there is no terminal, a line a stage."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = console
        self.bar = Progress(
            TextColumn("{task.percentage:>3.0f} %"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=1.0)
        self.said = ""

    def __enter__(self) -> Any:
        self.bar.start()
        return self.report

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def report(self, words: str, share: float) -> None:
        self.bar.update(self.task, completed=share, description=words)
        stage = words.partition(":")[0]
        if not self.console.is_terminal and stage != self.said:
            self.said = stage
            self.console.print(f"{100 * share:3.0f} % {stage}", highlight=False)


def _conclude(console: Console, options: Options, results: dict[str, Any], out: Path, *, written: bool = True) -> int:
    from nextify.cli.printing import print_json
    from nextify.compare.output import write
    from nextify.compare.tables import notes, tables

    files = write(results, out) if written else []
    if options.json:
        print_json(results)
    else:
        console.print()
        for part in tables(results):
            console.print(part)
        for line in notes(results):
            console.print(line, style="dim", highlight=False)
        if results["findings"]:
            console.print("\n[bold]Findings[/]")
        for line in results["findings"]:
            console.print(f"· {line}", highlight=False)
    if files:
        console.print(f"written: {', '.join(str(path) for path in files)}", highlight=False)
    return 0 if any(row["macs"] for row in results["rows"]) else 1


def _command() -> str:
    return shlex.join(["nextify", *sys.argv[1:]])
