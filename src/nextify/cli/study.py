"""Running ``nextify roadmap``, and reporting what is trained, how long it takes, and the results."""

from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from nextify import report
from nextify.cli.engines import chosen_engine
from nextify.cli.printing import command_line, plain, say, unlogged
from nextify.cli.progress import StudyProgress, read_any
from nextify.cli.roadmap import Options
from nextify.data.dense.annotations import DenseImages
from nextify.data.images import check_images, check_pictures
from nextify.fitting.scale import scale
from nextify.paper.roadmap import roadmap
from nextify.report.tables import terminal
from nextify.report.text import duration, notes, rate, verdicts
from nextify.study.engine import Engine
from nextify.study.plan import Plan, make_plan
from nextify.study.results import CLASSIFICATION
from nextify.study.runs import RunError, object_in
from nextify.study.store import Store
from nextify.study.study import Study, StudyEstimate
from nextify.system.files import UnusableFolder
from nextify.system.text import plural, printable
from nextify.training.learned import AnyImages
from nextify.training.prepare_dense import checked_canvas, checked_head, dense_preflight
from nextify.training.request import RequestError
from nextify.training.trial import Data

SEEDS, DENSE_SEEDS = 6, 3
"""Training runs of each step unless the user gives a number."""


def run_study(options: Options) -> int:
    started = datetime.now(UTC)
    console = Console(highlight=False)
    out, machine = options.folder, options.machine
    images = read_any(console, options.data, options.reading, out / "cache", options.task, options.ignore_index)
    if not isinstance(images, DenseImages):
        check_images(images)
        check_pictures(images, "nextify roadmap")
    seeds = options.seeds or (DENSE_SEEDS if isinstance(images, DenseImages) else SEEDS)
    plan = _plan(options, images, seeds)
    chosen = chosen_engine(machine, options.scale, out)
    with Store(out, shared=machine.engine != "local") as store:
        check_other_results(out, plan)
        first_look = seeds if options.until_decided else None
        study = Study(
            *(plan, store, images, chosen.runtime, chosen.side_by_side, command_line()), first_look=first_look
        )
        study.load()
        _announce(console, study, out)
        try:
            with chosen as engine:
                if study.open_trials:
                    with console.status("measuring a few steps of each network …") as status:
                        estimate = study.estimate(engine, lambda step: status.update(f"measured {step} …"))
                    _announce_time(console, study, estimate)
                if options.dry_run:
                    return 0
                if study.open_trials:
                    with StudyProgress(console, study, estimate) as progress:
                        study.run(engine, progress.on_event)
                _evaluate_again(console, study)
                if options.until_decided:
                    _add_seeds(console, study, engine, options.max_hours, started)
        except KeyboardInterrupt:
            planned = len(study.plan.trials)
            done = planned - len(study.open_trials)
            console.print(f"\nStopped with {done} of {planned} runs finished; the same command continues.")
            return 130
        return _conclude(console, study, out, started)


def check_other_results(out: Path, plan: Plan) -> None:
    """Raise ``UnusableFolder`` where ``out`` holds the results of another study, or of something else."""
    try:
        content = object_in(out / "results.json")
    except RunError:
        return  # damaged: written anew
    theirs = content.get("study")
    if not content:
        return
    if not isinstance(theirs, dict) or not isinstance(data := theirs.get("data"), dict):
        raise UnusableFolder(f"{out / 'results.json'} is not of a study and would be replaced: choose another --out")
    same_images = plan.data.name == data.get("name") or plan.data.fingerprint == data.get("fingerprint")
    told = (theirs.get("regime"), theirs.get("scale"), theirs.get("task", CLASSIFICATION))
    if not same_images or told != (plan.roadmap.name, plan.scale.name, plan.data.task):
        words = ", ".join(map(str, (data.get("name"), *told)))
        raise UnusableFolder(f"{out} holds another study ({words}), whose results would be lost: choose another --out")


def _evaluate_again(console: Console, study: Study) -> None:
    """Of networks that were trained before trials kept which test images they get right."""
    with console.status("evaluating earlier networks …") as status, unlogged():
        study.evaluate_again(lambda step: status.update(f"evaluating {step} again, for the verdicts …"))


def _add_seeds(console: Console, study: Study, engine: Engine, hours: float | None, started: datetime) -> None:
    """Look again with more seeds until every step is decided, had its last look, or time is up."""
    while True:
        before = study.plan
        if not study.look_again():
            return
        estimate = study.expected()
        spent = (datetime.now(UTC) - started).total_seconds()
        if study.open_trials and hours is not None and spent + estimate.seconds > 3600 * hours:
            console.print(
                f"the next {plural(len(study.open_trials), 'run')} would take about {duration(estimate.seconds)}, "
                f"past --max-hours {hours:g}: run the same command with more hours to continue"
            )
            study.plan = before
            return
        if study.open_trials:
            more = ", ".join(f"{step} to {n}" for step, n in study.plan.seeds.items() if n > before.seeds[step])
            number = plural(len(study.open_trials), "run")
            console.print(f"more seeds: {more} ({number}, about {duration(estimate.seconds)})")
            with StudyProgress(console, study, estimate) as progress:
                study.run(engine, progress.on_event)
        _evaluate_again(console, study)


def _plan(options: Options, images: AnyImages, seeds: int) -> Plan:
    chosen, task, head, canvas = scale(options.scale), CLASSIFICATION, None, None
    if isinstance(images, DenseImages):
        head, canvas = checked_head(options.head, images), checked_canvas(images, options.image_size)
        task, size = images.task, max(canvas)
    elif options.head is not None:
        raise RequestError(f"--head is for boxes and masks, but {images.name} has labels: leave it out")
    else:
        size = options.image_size or chosen.image_size(images.native_side)
    plan = make_plan(
        *(roadmap(options.regime), chosen, images),
        Data(images.name, images.fingerprint, images.num_classes, size, task=task, canvas=canvas),
        seeds=tuple(range(seeds)),
        epochs=options.epochs,
        explore=options.explore,
        steps=options.steps,
        precision=options.machine.precision,
        head=head,
    )
    if isinstance(images, DenseImages):
        dense_preflight(images, plan.modern)  # refuses images that no detector or segmenter can be trained on
    return plan


def _announce(console: Console, study: Study, out: Path) -> None:
    plan, images, runtime = study.plan, study.images, study.runtime
    seeds = plural(len({planned.trial.seed for planned in plan.trials}), "seed")
    console.print(f"[bold]{plan.roadmap.title}[/] on {escape(printable(images.name))}, scale {plan.scale.name}")
    height, width = plan.data.canvas or (plan.data.image_size, plan.data.image_size)
    heads = f" of {plan.head} {plan.data.task} heads" if plan.head else ""
    console.print(
        f"{plural(len(plan.rows), 'step')} × {seeds} = {plural(len(plan.trials), 'run')}{heads} on "
        f"{len(images.train):,} images of "
        f"{width}×{height} ({len(images.classes)} classes), tested on {len(images.test):,}"
    )
    console.print(
        f"epochs: {plan.original.epochs} of the original recipe, {plan.modern.epochs} of the paper's; "
        f"{study.side_by_side} side by side with {plural(runtime.threads, 'thread')} each on {runtime.device}"
    )
    say(console, (*images.warnings, *images.notes, *plan.notes, *study.notes))
    if finished := len(plan.trials) - len(study.open_trials):
        console.print(f"{finished} of {plural(len(plan.trials), 'run is', 'runs are')} finished already")
    console.print(f"results go to [bold]{escape(printable(str(out)))}[/]", soft_wrap=True)


def _announce_time(console: Console, study: Study, estimate: StudyEstimate) -> None:
    number = plural(len(study.open_trials), "run")
    slowest = min(estimate.images_per_second, key=lambda step: estimate.images_per_second[step])
    console.print(
        f"about [bold]{duration(estimate.seconds)}[/] for {number}, from a measured probe "
        f"({slowest} is the slowest: {rate(estimate.images_per_second[slowest])} images/s per trial)"
    )


def _conclude(console: Console, study: Study, out: Path, started: datetime) -> int:
    results = study.results(started)
    written = report.write(results, out)
    console.print()
    console.print(terminal(results))
    for line in (*verdicts(results), *notes(results)):
        console.print(line, style="dim", markup=False)
    failed = [trial for trial in results.trials if trial.status == "failed"]
    for trial in failed:
        console.print(f"[red]failed[/] {trial.step}, seed {trial.seed}: {escape(str(trial.error))}")
    plain(console, f"written: {', '.join(str(path) for path in written)}")
    return 1 if failed else 0
