"""Running ``nextify search``, and reporting what is tried and what was found."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from nextify.cli.engines import chosen_engine
from nextify.cli.printing import command_line, plain, say
from nextify.cli.progress import StudyProgress, read_images
from nextify.cli.search import Options
from nextify.compare import search_report
from nextify.compare.search import Search
from nextify.compare.search_results import Settings
from nextify.report.text import listing
from nextify.study.engine import Event
from nextify.study.store import Store
from nextify.study.study import StudyEstimate, Trainings
from nextify.system.text import plural, printable


def run_search(options: Options) -> int:
    console, out, machine = Console(highlight=False), options.folder, options.machine
    images = read_images(console, options.data, options.reading, out / "cache")
    settings = Settings(
        *(options.budget, options.minutes, options.epochs, options.seeds, options.seed, options.scale),
        *(options.image_size, options.recipe, machine.precision, options.alone, options.latency_threads),
    )

    @contextmanager
    def watch(trainings: Trainings, estimate: StudyEstimate) -> Iterator[Callable[[Event], None]]:
        with StudyProgress(console, trainings, estimate) as progress:
            yield progress.on_event

    def note(line: str) -> None:
        console.print(line, markup=False)

    chosen = chosen_engine(machine, options.scale, out)
    with Store(out, shared=machine.engine != "local") as store:
        made = Search(
            *(settings, images, store, chosen, chosen.runtime, chosen.side_by_side, command_line(), watch, note)
        )
        _announce(console, made)
        try:
            with chosen:
                found = made.run()
        except KeyboardInterrupt:
            done = plural(made.ledger.ended, "run")
            console.print(f"\nStopped with {done} finished; the same command continues.")
            return 130
        written = search_report.write(found, out)
    console.print()
    console.print(search_report.terminal(found))
    say(console, search_report.notes(found))
    if found.bundle is not None:
        plain(console, f"the winner's network: {found.bundle} ({found.metric} {found.bundle_accuracy:.2f} %)")
    plain(console, f"written: {', '.join(map(str, written))}")
    return 0 if found.bundle is not None else 1


def _announce(console: Console, made: Search) -> None:
    images, given, runtime = made.images, made.settings, made.runtime
    console.print(f"[bold]The best design within {given.budget}[/] on ", end="")
    console.print(printable(images.name), markup=False)
    validated, rungs = made.validated, listing([str(epochs) for epochs in made.rungs])
    console.print(
        f"{rungs} {'epoch' if made.rungs == (1,) else 'epochs'} on {len(validated.train):,} images of "
        f"{made.image_size}×{made.image_size} ({len(images.classes)} classes), judged on {len(validated.test):,} "
        f"validation images held out of them; {made.side_by_side} side by side with "
        f"{plural(runtime.threads, 'thread')} each on {runtime.device}",
        soft_wrap=True,
    )
    say(console, (*images.warnings, *images.notes))
    rest = "" if given.alone else "; then random search and the families, each about as long again, and"
    console.print(
        f"about {given.minutes:g} min of search{rest or ', then'} {plural(given.seeds, 'training run')} of each winner"
    )
    if made.ledger.ended:
        console.print(f"{plural(made.ledger.ended, 'run')} finished already")
    plain(console, f"results go to {made.store.root}")
