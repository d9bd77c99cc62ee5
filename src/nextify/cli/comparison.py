"""Running ``nextify compare``: counting, training, measuring, and what is printed of it."""

import os
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

from nextify.cli.compare import Options
from nextify.cli.compare_accuracy import Stopped, accuracies
from nextify.cli.printing import command_line, plain, print_json
from nextify.cli.progress import Bars, read_images
from nextify.compare import why
from nextify.compare.accuracy import read_weights_options
from nextify.compare.budget import read
from nextify.compare.entries import at_scale, find, line_up, own_side
from nextify.compare.folder import check_other_results, request
from nextify.compare.measure import Comparison, count, measure, probe
from nextify.compare.page import to_json, write, write_data
from nextify.compare.records import Accuracy, Why
from nextify.compare.results import Results, collect
from nextify.compare.settings import ON_CPU, ON_GPU, Settings
from nextify.compare.tables import accuracy_notes, cost_notes, terminal
from nextify.data import Images
from nextify.data.images import check_pictures
from nextify.evaluation.profiling import Conditions, cpu_mhz, gpu_mhz
from nextify.networks.dense.design import chosen_head
from nextify.report.text import duration, listing
from nextify.system.device import usable_device
from nextify.system.environment import cores, describe
from nextify.system.text import plural
from nextify.training.prepare_classifier import default_side


def run_comparison(options: Options) -> int:
    """Compare the networks, and write what was found."""
    measuring, training = options.measuring, options.training
    limits = [limit.said for limit in read(options.budget)] if options.budget else []
    started = datetime.now(UTC)
    console = Console(stderr=options.json, highlight=False)
    out = options.folder
    names = at_scale(options.models, training.scale) if options.models else line_up(training.scale)
    images = None
    if options.data is not None:
        images = read_images(console, options.data, options.reading, out / "cache")
        check_pictures(images, "nextify compare")
    settings = _settings(options, names, images)
    asked = request(
        *(settings, images, options.machine.threads, measuring.counts),
        *(training.recipe, read_weights_options(training.weights)),
    )
    written_to = options.out if measuring.counts else out
    if written_to is not None:
        check_other_results(written_to, asked)
    environment = _environment(settings)
    load = environment["load_average_start"]
    if isinstance(load, float) and load > 0.5 and not measuring.counts and not settings.conditions.on_gpu:
        console.print(f"[dim]·[/] other processes are busy (load average {load:.1f}): times will be too long")
    with console.status("counting …") as status:
        comparison = count(settings, lambda words, _: status.update(f"{words} …"))
    for cell in comparison.cells:
        for problem in cell.problems:
            console.print(f"[dim]·[/] {escape(cell.entry.model)}: {escape(problem)}", style="dim")
    accuracy: Accuracy | None = None
    reasons: list[Why] = []

    def gather() -> Results:
        ended = {**environment, **_clock(settings.conditions, "end")}
        given = comparison, command_line(), started, datetime.now(UTC), ended
        return collect(*given, accuracy=accuracy, why=reasons, limits=limits, asked=asked)

    if measuring.counts:
        comparison.complete = True
        return _conclude(console, options, gather(), written_to)
    if images is not None:

        def begin() -> None:
            if not (out / "results.json").exists():
                write_data(gather(), out)

        try:
            accuracy = accuracies(console, options, settings, images, out, begin)
        except Stopped as stopped:
            console.print(f"\n{stopped}", markup=False)
            return 130
    with console.status("timing one image through each network …"):
        probe(comparison, _batches(options, settings.conditions))
    _announce(console, comparison)
    interrupted = False
    try:
        with _Progress(console) as progress:
            measure(comparison, progress.report, lambda: write_data(gather(), out))
        if measuring.why:
            with console.status("why …") as status:
                reasons = why.measure(comparison, lambda words: status.update(f"{words} …"))
    except KeyboardInterrupt:
        interrupted = True
        console.print("\nStopped; measured so far:")
    code = _conclude(console, options, gather(), out)
    return 130 if interrupted else code


def _settings(options: Options, names: tuple[str, ...], images: Images | None) -> Settings:
    machine, measuring = options.machine, options.measuring
    device = usable_device(machine.device)
    conditions = Conditions(device, measuring.precision, measuring.layout, machine.kernels, machine.compile)
    batch_sizes, training_batch_size = _batches(options, conditions)[0]
    for name in names:
        find(name)
    side = None if images is None else options.training.image_size or default_side(images.native_side)
    head = None if options.task is None else chosen_head(options.task, options.head)
    default = (224, 288, 384, 512) if head is None else (256, 512, 768, 1024)
    # A bundle is evaluated at its own size, so costs are measured there.
    sizes = options.sizes or (default if side is None else [own_side(name) or side for name in names])
    return Settings(
        names,
        tuple(sorted(set(sizes))),
        conditions,
        machine.threads if machine.threads is not None else cores(),
        batch_sizes,
        training_batch_size,
        calls=20 if conditions.on_gpu else 1,
        rounds=measuring.rounds,
        minutes=measuring.minutes,
        num_classes=None if images is None else images.num_classes,
        fitted_to=side,
        head=head,
    )


def _batches(options: Options, conditions: Conditions) -> list[tuple[tuple[int, ...], int]]:
    """(Batch sizes of inference, of training) to choose from: what is given stays."""
    given = tuple(sorted(set(options.measuring.batch_sizes))) if options.measuring.batch_sizes is not None else None
    training = options.measuring.training_batch_size
    choices = ON_GPU if conditions.on_gpu else ON_CPU
    made = [(given or batch_sizes, size if training is None else training) for batch_sizes, size in choices]
    return list(dict.fromkeys(made))


def _environment(settings: Settings) -> dict[str, str | float | None]:
    device = settings.conditions.device
    found: dict[str, str | float | None] = {**describe(), "threads": settings.threads}
    found["load_average_start"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    found["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    if settings.conditions.on_gpu:
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
        found |= {
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "gpu_memory_gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1),
        }
    return found | _clock(settings.conditions, "start")


def _clock(conditions: Conditions, when: str) -> dict[str, float | None]:
    clocks = {"cpu": cpu_mhz()} | ({"gpu": gpu_mhz(conditions.device)} if conditions.on_gpu else {})
    return {f"{what}_mhz_{when}": None if clock is None else round(clock) for what, clock in clocks.items()}


def _announce(console: Console, comparison: Comparison) -> None:
    settings, made = comparison.settings, comparison.plan
    assert made is not None
    fewest = min(made.rounds.values())
    number = len({cell.entry.name for cell in comparison.cells})
    sizes = ", ".join(f"{s}²" for s in settings.sizes)
    rounds = listing([str(n) for n in made.rounds.values()]) if len(set(made.rounds.values())) > 1 else fewest
    console.print(f"{plural(number, 'network')} at {sizes}, {rounds} rounds")
    compiling = " and the time to compile" if settings.conditions.compile else ""
    console.print(f"about [bold]{duration(made.seconds)}[/]{compiling}, from one image timed through each network")
    if made.over_budget and settings.rounds is None:
        console.print(
            f"[dim]·[/] longer than --minutes {settings.minutes:g}: {fewest} rounds are the minimum to show a spread; "
            "fewer --sizes or smaller --batch-sizes take less"
        )


class _Progress(Bars):
    """A bar for the whole; where there is no terminal, one line per stage."""

    def __init__(self, console: Console) -> None:
        percentage = TextColumn("{task.percentage:>3.0f} %")
        description = TextColumn("{task.description}")
        super().__init__(console, percentage, BarColumn(bar_width=30), TimeElapsedColumn(), description)
        self.stage, self.whole = "", self.add_task("", total=1.0)

    def report(self, words: str, share: float) -> None:
        """Show what is being done, and the share of the whole that is finished."""
        self.update(self.whole, completed=share, description=words)
        stage = words.partition(":")[0]
        if not self.console.is_terminal and stage != self.stage:
            self.stage = stage
            self.console.print(f"{100 * share:3.0f} % {stage}")


def _conclude(console: Console, options: Options, results: Results, out: Path | None) -> int:
    """Write the results to ``out``, if given, and print them; the exit code is 1 where no network could be built."""
    files, found = write(results, out) if out else [], to_json(results)
    if options.json:
        print_json(found)
    else:
        console.print()
        for table in terminal(results):
            console.print(table)
        for line in (*cost_notes(results), *(accuracy_notes(results.accuracy) if results.accuracy else ())):
            console.print(line, style="dim", markup=False)
        console.print("\n[bold]Findings[/]" if found["findings"] else "")
        for line in found["findings"]:
            console.print(f"· {line}", markup=False)
        if found["budget"]:
            console.print(f"\n{found['budget']['recommendation']}", markup=False)
    if files:
        plain(console, f"written: {', '.join(str(path) for path in files)}")
    return 0 if any(row.macs for row in results.rows) else 1
