"""Running ``nextify train --folds``, and reporting the folds' results."""

import sys

from rich.console import Console

from nextify.cli.printing import command_line, plain, print_columns, say, unlogged
from nextify.cli.progress import StudyProgress, read_images
from nextify.cli.train import Options
from nextify.data import DataError
from nextify.data.dense.opening import recognize
from nextify.report.text import duration, percent
from nextify.study.engine import LocalEngine
from nextify.study.folds import CrossTrainings, CrossValidation, FoldsPlan, run_folds
from nextify.study.store import Store
from nextify.study.study import default_side_by_side
from nextify.system.device import usable_device
from nextify.system.text import plural, printable
from nextify.training.trial import Runtime


def run_cross_validation(options: Options, folds: int) -> int:
    unfit = (
        f"--folds so far supports only classification, not the boxes, masks or several labels of "
        f"{printable(options.data)}: leave --folds out"
    )
    if options.task not in (None, "classification") or (options.task is None and recognize(options.data) is not None):
        raise DataError(unfit)
    console, machine = Console(highlight=False), options.machine
    images = read_images(
        *(console, options.data, options.reading, options.folder / "cache", options.network.weights),
        task="classification" if options.task else None,
        without=options.without,
        several=True,  # refused below, with the remedy
    )
    if images.multilabel:
        raise DataError(unfit)
    plan = FoldsPlan.of(options.request(), images, folds, options.reading.split_seed)
    device = usable_device(machine.device)
    together, threads = default_side_by_side(plan.prepared.image_size, device, machine.threads)
    runtime = Runtime(
        *(device, threads),
        kernels=machine.kernels,
        compile=machine.compile,
        capture=machine.capture,
        accumulation=machine.accumulation or 1,
        checkpoint_seconds=machine.checkpoint_seconds,
        evaluations=options.watching.evaluations,
    )
    with Store(options.folder / plan.folder) as store:
        trainings = CrossTrainings(plan, store, images, runtime, together, command_line(), ensemble=options.ensemble)
        found = train_folds(console, trainings, options.watching.dry_run)
        return _conclude(found) if isinstance(found, CrossValidation) else found


def train_folds(console: Console, trainings: CrossTrainings, dry_run: bool = False) -> int | CrossValidation:
    """Train what is missing, and say so; the exit code where it does not come to an end, else what was found."""
    trainings.load()
    _announce(console, trainings)
    try:
        with LocalEngine(trainings.runtime, trainings.side_by_side) as engine:
            if not trainings.open_trials:
                with unlogged():
                    return run_folds(trainings, engine, lambda event: None)
            with console.status("measuring a few steps …"):
                estimate = trainings.estimate(engine)
            console.print(f"about [bold]{duration(estimate.seconds)}[/] from a measured probe")
            if dry_run:
                return 0
            out = trainings.store.root
            plain(console, f"results go to {out}")
            with StudyProgress(console, trainings, estimate) as progress, unlogged():
                return run_folds(trainings, engine, progress.on_event)
    except KeyboardInterrupt:
        folds = len(trainings.plan.folds)
        done = folds - len(trainings.open_trials)
        console.print(f"\nStopped with {done} of {folds} folds finished; the same command continues.")
        return 130


def _announce(console: Console, trainings: CrossTrainings) -> None:
    plan, images = trainings.plan, trainings.images
    prepared = plan.prepared
    recipe = prepared.trial.recipe
    use = "are the ensemble's" if trainings.ensemble else "stay unused"
    groups = "" if images.train.groups is None else ", no group in two of them"
    console.print(f"[bold]{prepared.request.model}[/] on {len(plan.folds)} folds of ", end="")
    console.print(printable(images.name), markup=False)
    console.print(
        f"  {plural(len(images.train), 'training image')} in folds of {len(plan.folds[-1].images.test):,} to "
        f"{len(plan.folds[0].images.test):,}{groups}; the {plural(len(images.test), 'test image')} {use}\n"
        f"recipe {prepared.recipe_name}: {plural(recipe.epochs, 'epoch')} of "
        f"{plural(prepared.steps_per_epoch, 'step')} of {plural(recipe.batch_size, 'image')}; {trainings.side_by_side} "
        f"side by side with {plural(trainings.runtime.threads, 'thread')} each on {trainings.runtime.device}",
        soft_wrap=True,
    )
    say(console, (*images.notes, *prepared.notes, *map(str, prepared.changes)))
    for warning in prepared.preflight.warnings:
        print(f"nextify: warning: {warning}", file=sys.stderr)


def _conclude(found: CrossValidation) -> int:
    print_columns(
        ("fold", "trained on", "tested on", "top-1, %", "time"),
        [
            (str(one.fold), f"{one.train_images:,}", f"{one.test_images:,}", percent(one.top1), duration(one.seconds))
            for one in found.folds
        ],
    )
    failed = [one for one in found.folds if one.error]
    for one in failed:
        print(f"nextify: fold {one.fold} failed: {one.error}", file=sys.stderr)
    if failed:
        return 1
    print(
        f"top-1 {percent(found.top1_mean)} % on average, standard deviation {percent(found.top1_std)}; 95 % interval "
        f"of the mean {percent(found.top1_low)} to {percent(found.top1_high)} %,\n"
        f"wider than over independent runs, as folds share training images (Nadeau and Bengio 2003)"
    )
    if (joined := found.ensemble) is not None:
        print(
            f"ensemble: top-1 {percent(joined.top1)} % of {plural(joined.images, 'test image')} (95 % interval "
            f"{percent(joined.top1_low)} to {percent(joined.top1_high)} %), its members "
            f"{percent(min(joined.members_top1))} to {percent(max(joined.members_top1))} %"
        )
        print(f"bundle: {joined.bundle}")
    print(f"out-of-fold probabilities: {found.predictions}\nnetworks: {found.folder / 'trials'}")
    return 0
