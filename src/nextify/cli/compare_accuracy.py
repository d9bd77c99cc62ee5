"""The training runs and evaluations of ``nextify compare --data``, shown as they go."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from nextify.cli.compare import Options
from nextify.cli.printing import say
from nextify.cli.progress import StudyProgress
from nextify.compare import accuracy
from nextify.compare.accuracy import AccuracyPlan, accuracy_results, evaluate, make_plan, read_weights_options
from nextify.compare.entries import find_all
from nextify.compare.records import Accuracy
from nextify.compare.settings import Settings
from nextify.data import Images
from nextify.report.text import duration
from nextify.study.engine import LocalEngine
from nextify.study.store import Store
from nextify.study.study import Trainings, default_side_by_side
from nextify.system.text import plural, printable
from nextify.training.trial import Runtime


class Stopped(Exception):
    """The user stopped the training runs; the message says what is kept."""


def accuracies(
    console: Console, options: Options, settings: Settings, images: Images, out: Path, begin: Callable[[], None]
) -> Accuracy:
    """Train what is not trained yet, and evaluate what has weights. ``begin`` marks the folder before hours of
    training, so that no other comparison takes it; a plan or weights that are refused leave none.

    Raises ``Stopped`` where it is interrupted, with finished trainings kept, and ``EngineError`` where they cannot go
    on.
    """
    assert settings.fitted_to is not None
    device = settings.conditions.device
    together, threads = default_side_by_side(settings.fitted_to, device, None)
    together = options.training.side_by_side or together
    conditions = settings.conditions
    runtime = Runtime(device, threads, kernels=conditions.kernels, compile=conditions.compile)
    with Store(out) as store, LocalEngine(runtime, together) as engine:
        trainings = None
        try:
            plan = _plan(console, options, settings, images, store, engine)
            trainings = _trainings(plan, store, images, engine)
            _announce(console, plan, trainings, images)
            evaluated = {}
            for entry in plan.entries:
                if entry.model in plan.weights:
                    given = plan.weights[entry.model], images, device, settings.threads, settings.fitted_to
                    with console.status(f"evaluating {entry.model} …"):
                        evaluated[entry.model] = evaluate(entry, *given)
            begin()
            if trainings.open_trials:
                _train(console, trainings, engine)
        except KeyboardInterrupt:
            done = 0 if trainings is None else len(trainings.plan.trials) - len(trainings.open_trials)
            raise Stopped(f"Stopped with {done} runs finished; the same command continues.") from None
    for failed in (t for t in map(trainings.trial, plan.trials) if t.error):
        console.print(f"[red]failed[/] {failed.step}, seed {failed.seed}: {escape(str(failed.error))}")
    return accuracy_results(plan, trainings, evaluated, images, settings.sizes)


def _plan(
    console: Console, options: Options, settings: Settings, images: Images, store: Store, engine: LocalEngine
) -> AccuracyPlan:
    """The training runs, with the epochs that were requested, that an earlier command chose, or that a probe allows."""
    entries, weights = find_all(settings.models), read_weights_options(options.training.weights)

    def planned(epochs: int) -> AccuracyPlan:
        assert settings.fitted_to is not None
        return make_plan(
            entries,
            images,
            image_size=settings.fitted_to,
            seeds=options.training.seeds,
            epochs=epochs,
            recipe=options.training.recipe,
            precision="bf16" if options.measuring.precision == "bf16" else "fp32",
            weights=weights,
        )

    if options.training.epochs is not None:
        return planned(options.training.epochs)
    plan = planned(accuracy.GUESSED_EPOCHS)
    if not plan.trials:
        return plan

    def choose() -> int:
        guess = _trainings(plan, store, images, engine)
        with console.status("measuring a few steps of each network, to choose the epochs …"):
            estimate = guess.estimate(engine)
        minutes, side_by_side = options.training.training_minutes, engine.side_by_side
        return accuracy.epochs_within(plan, estimate, len(images.train), minutes, side_by_side)

    return planned(accuracy.kept_epochs(store.root, plan, options.training.training_minutes, choose))


def _trainings(plan: AccuracyPlan, store: Store, images: Images, engine: LocalEngine) -> Trainings:
    made = Trainings(plan, store, images, engine.runtime, engine.side_by_side)
    made.load()
    return made


def _announce(console: Console, plan: AccuracyPlan, trainings: Trainings, images: Images) -> None:
    side, seeds = plan.data.image_size, len(plan.seeds)
    if plan.trials:
        console.print(
            f"{plural(len(plan.trials) // seeds, 'network')} × {plural(seeds, 'seed')}, "
            f"{plural(plan.recipe.epochs, 'epoch')} of the {plan.recipe_name} recipe on {len(images.train):,} "
            f"images of {side}×{side} of {escape(printable(images.name))}, tested on {len(images.test):,}; "
            f"{trainings.side_by_side} side by side"
        )
    say(console, (*images.warnings, *images.notes, *plan.notes, *trainings.notes))
    if finished := len(plan.trials) - len(trainings.open_trials):
        console.print(f"{finished} of {len(plan.trials)} runs are finished already")


def _train(console: Console, trainings: Trainings, engine: LocalEngine) -> None:
    with console.status("measuring a few steps of each network …"):
        estimate = trainings.estimate(engine)
    number = len(trainings.open_trials)
    console.print(f"about [bold]{duration(estimate.seconds)}[/] for {number} runs, from a measured probe")
    with StudyProgress(console, trainings, estimate) as progress:
        trainings.run(engine, progress.on_event)
