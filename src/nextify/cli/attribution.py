"""Running ``nextify attribute``: pairs of orders until the time is up, then what follows from them."""

import sys
import time
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape

from nextify.cli.attribute import Options
from nextify.cli.engines import chosen_engine
from nextify.cli.printing import command_line, plain, say
from nextify.cli.progress import StudyProgress, read_images
from nextify.data import Images
from nextify.fitting.scale import scale
from nextify.paper.roadmap import roadmap
from nextify.report import attribution as report
from nextify.report.text import duration
from nextify.study.attribution import Attributed
from nextify.study.conclusions import study_data
from nextify.study.engine import EngineError
from nextify.study.every_subset import EverySubset
from nextify.study.ledger import Attributing
from nextify.study.plan import make_plan
from nextify.study.store import Store
from nextify.system.text import plural, printable
from nextify.training.trial import Data

TOGETHER = 4
"""Pairs that are queued at a time: with more, fewer workers idle at the end."""


def run_attribution(options: Options) -> int:
    began, started = time.monotonic(), datetime.now(UTC)
    console = Console(highlight=False)
    out, machine = options.folder, options.machine
    images = read_images(console, options.data, options.reading, out / "cache")
    chosen = chosen_engine(machine, options.scale, out)
    with Store(out, shared=machine.engine != "local") as store:
        plan = _plan(options, images)
        found = Attributing(plan, store, images, chosen.runtime, chosen.side_by_side, command_line())
        found.load()
        most = min(options.pairs or sys.maxsize, plan.most)
        _pass_over_finished(found, most)
        finished, code = plan.pairs - bool(found.open_trials), 0
        _announce(console, options, found, finished)
        try:
            with chosen as engine:
                estimate = found.estimate_from_known()
                if found.open_trials and not estimate.seconds:
                    with console.status("measuring a few steps of the first and the last network …"):
                        estimate = found.probe(engine)
                each = duration(estimate.seconds * plan.trainings_of_a_pair / max(1, len(found.open_trials)))
                if found.open_trials:
                    console.print(f"about [bold]{each}[/] for {plan.counted(1)}")
                if options.dry_run:
                    return 0
                fit = 1
                while found.open_trials and fit > 0:
                    with StudyProgress(console, found, estimate) as progress:
                        found.run(engine, progress.on_event)
                    left = 3600 * options.hours - (time.monotonic() - began)
                    each_takes = found.seconds_of_a_pair()  # 0 where every run has failed
                    fit = min(TOGETHER, int(left / each_takes)) if each_takes else 0
                    _pass_over_finished(found, most)
                    plan.extend(min(plan.pairs + max(0, fit - 1), most))
                    estimate = found.estimate_from_known()
        except KeyboardInterrupt:
            console.print("\nStopped; the same command continues.")
            code = 130
        except EngineError as error:
            print(f"nextify: {error}", file=sys.stderr)
            code = 1
        if options.every_subset:  # what earlier starts finished counts, whatever is missing before it
            plan.extend(plan.most)
        return _conclude(console, found, options, started) or code


def _pass_over_finished(found: Attributing, most: int) -> None:
    """Plan pairs of orders up to the first with a run that is still to be trained."""
    while not found.open_trials and found.plan.pairs < most:
        found.plan.extend(found.plan.pairs + 1)


def _plan(options: Options, images: Images) -> Attributed:
    chosen = scale(options.scale)
    size = options.image_size or chosen.image_size(images.native_side)
    study = make_plan(
        *(roadmap(options.regime), chosen, images),
        Data(images.name, images.fingerprint, images.num_classes, size),
        seeds=0,
        epochs=options.epochs,
        precision=options.machine.precision,
    )
    return (EverySubset if options.every_subset else Attributed)(study, images, options.ends)


def _announce(console: Console, options: Options, found: Attributing, finished: int) -> None:
    attributed, images, runtime = found.plan, found.images, found.runtime
    plan, name = attributed.plan, escape(printable(images.name))
    console.print(f"[bold]{plan.roadmap.title}[/] on {name}, scale {plan.scale.name}: in any order")
    console.print(
        f"{len(attributed.names)} decisions, {attributed.described}, on "
        f"{len(images.train):,} images of {plan.data.image_size}×{plan.data.image_size} ({len(images.classes)} "
        f"classes), tested on {len(images.test):,}"
    )
    console.print(
        f"epochs: {plan.original.epochs} of the original recipe, {plan.modern.epochs} of the paper's; "
        f"{found.side_by_side} side by side with {plural(runtime.threads, 'thread')} each on {runtime.device}"
    )
    say(console, (*images.warnings, *images.notes, *found.notes))
    if finished:
        console.print(f"{attributed.counted(finished)} finished already")
    limit = f", {attributed.counted(options.pairs)} in all" if options.pairs else ""
    console.print(f"for {options.hours:g} h{limit}")
    console.print(f"results go to [bold]{escape(printable(str(options.folder)))}[/]", soft_wrap=True)


def _conclude(console: Console, found: Attributing, options: Options, started: datetime) -> int:
    attribution = found.attribution()
    if not attribution.worths or not attribution.whole.n:
        missing = f"{plural(attribution.missing, 'subset')} still to be trained" if attribution.missing else ""
        console.print(f"{missing or 'no pair of orders is complete yet'}: the same command continues")
        return 1 if attribution.left_out else 0
    results = report.Results(
        attribution,
        regime=options.regime,
        data=study_data(found.images),
        scale=options.scale,
        image_size=found.plan.plan.data.image_size,
        metric=found.metric.title,
        unit=found.metric.unit,
        trainings=len(found.known),
        training_seconds=round(sum(took for _, took in found.known.values()), 1),
        command=found.command,
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=found.environment
        | {"threads_per_trial": found.runtime.threads, "trials_side_by_side": found.side_by_side},
    )
    written = report.write(results, options.folder)
    console.print()
    console.print(report.terminal(results))
    for line in report.notes(results):
        console.print(line, style="dim", markup=False)
    plain(console, f"written: {', '.join(str(path) for path in written)}")
    return 1 if attribution.left_out else 0
