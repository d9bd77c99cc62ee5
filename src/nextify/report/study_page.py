"""``report.html``: a study as one page, from ``templates/study.html.jinja``."""

from collections.abc import Mapping
from pathlib import Path

from nextify.report import text
from nextify.report.drawing import svg
from nextify.report.figures import curves_figure, roadmap_figure
from nextify.report.step_cards import axis, cards
from nextify.report.tables import steps_table
from nextify.report.template import Line, Table, render
from nextify.study.looks import LOOKS
from nextify.study.results import StepResult, StudyResults
from nextify.study.statistics import seeds_needed
from nextify.tasks.metric_specs import is_telling


def page(results: StudyResults, roadmap_svg: str | None = None, folder: Path | None = None) -> str:
    """The report as one HTML document, with ``roadmap_svg`` where the figure has been drawn already, and links to the
    networks that are in ``folder``."""
    curves = curves_figure(results)
    judged = [step.p_crossed if text.crossed(results) else step.p_value for step in results.rows]
    comparisons = sum(p is not None for p in judged)
    return render(
        "study.html.jinja",
        title=text.study_title(results),
        metric=results.metric,
        sentence=text.sentence,
        lead=text.what_was_trained(results),
        outcome=text.outcome(results),
        steps=steps_table(results),
        notes=text.notes(results),
        roadmap=roadmap_svg or svg(roadmap_figure(results)),
        crossed=text.crossed(results),
        first_look=results.study.first_look,
        looks=LOOKS,
        cards=cards(results, folder),
        axis=axis(results),
        percent=text.percent,
        conclusions=_conclusions(results),
        comparisons=comparisons,
        seeds_needed=seeds_needed(),
        seeds_needed_by_holm=seeds_needed(comparisons=max(1, comparisons)),
        curves=curves and svg(curves),
        study=results.study,
        settings=_settings(results),
        recipes=_recipes(results.study.recipes),
        by_seed=_by_seed(results),
        trials=_trials(results),
        conditions=_conditions(results),
        paper=text.PAPER,
    )


def _line(step: StepResult, *cells: str) -> Line:
    return Line((text.marked(step), *cells), text.css(step))


def _conclusions(results: StudyResults) -> Table:
    names, new = {step.step: step.name for step in results.rows}, text.crossed(results)
    lines = [
        _line(
            step,
            names.get(step.compared_with or "", step.compared_with or text.ABSENT),
            text.change(step),
            *([_p(step.p_crossed_holm)] if new else []),
            _p(step.p_value),
            step.conclusion,
        )
        for step in results.rows
        if step.conclusion
    ]
    p = (("p of all together", ""), ("sign-flip p", "")) if new else (("p", ""),)
    head = (("step", ""), ("compared with", "text"), ("change", ""), *p, ("in words", "wrap"))
    return Table("What can be concluded about each step", head, [("", lines)])


def _p(value: float | None) -> str:
    return text.ABSENT if value is None else f"{value:.2g}" if value >= 1e-4 else "< 0.0001"


def _settings(results: StudyResults) -> list[tuple[str, str | None]]:
    study, data = results.study, results.study.data
    size = text.pixels(study)
    return [
        ("data", data.name),
        ("head", study.head),
        ("classes", text.whole(data.classes)),
        ("training images", text.whole(data.train_images)),
        ("test images", text.whole(data.test_images)),
        ("data fingerprint", data.fingerprint),
        ("scale", study.scale),
        ("image size", f"{size} pixels" if size else None),
        ("seeds", ", ".join(map(str, study.seeds))),
    ]


def _recipes(recipes: Mapping[str, Mapping[str, object]]) -> Table:
    keys = dict.fromkeys(key for recipe in recipes.values() for key in recipe)
    lines = [Line((key.replace("_", " "), *(_setting(r.get(key)) for r in recipes.values()))) for key in keys]
    return Table("Training recipes", [("setting", ""), *((name, "text") for name in recipes)], [("", lines)])


def _setting(value: object) -> str:
    match value:
        case None:
            return text.ABSENT
        case Mapping():
            return ", ".join(f"{str(k).replace('_', ' ')} {_setting(v)}" for k, v in value.items())
        case list() | tuple():
            return ", ".join(map(_setting, value))
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def _by_seed(results: StudyResults) -> Table:
    seeds = sorted({trial.seed for trial in results.trials})
    metric, found = results.metric, {(trial.step, trial.seed): results.main(trial) for trial in results.trials}
    lines = [_line(s, *(text.percent(found.get((s.step, seed))) for seed in seeds)) for s in results.rows]
    head = [(f"{metric.title}, {metric.unit}", ""), *((f"seed {seed}", "") for seed in seeds)]
    what = f"{metric.title} accuracy" if metric.share_of_images else metric.title
    return Table(f"{text.sentence(what)} of every trial", head, [("", lines)])


def _trials(results: StudyResults) -> Table:
    names = {step.step: step.name for step in results.rows}
    metrics = [m for m in results.study.metrics if is_telling(m.key, results.study.data.classes)]
    lines = [
        Line(
            (
                names.get(trial.step, trial.step),
                str(trial.seed),
                *(text.percent(trial.metrics.get(metric.key)) for metric in metrics),
                text.percent(trial.final_train_loss, 4),
                text.duration(trial.seconds),
                text.whole(trial.images_per_second),
                trial.status or text.ABSENT,
                trial.fingerprint[:12] or text.ABSENT,
            )
        )
        for trial in results.trials
    ]
    titles = (f"{metric.title}, {metric.unit}" for metric in metrics)
    numbers = ("seed", *titles, "final loss", "time", "images/s")
    head = [("step", ""), *((name, "") for name in numbers), ("status", "text"), ("fingerprint", "code")]
    return Table("All trials", head, [("", lines)])


def _conditions(results: StudyResults) -> list[tuple[str, object]]:
    study, environment = results.study, results.environment
    return [
        ("hardware", text.hardware(results)),
        ("versions", text.versions(environment)),
        ("system", environment.get("os")),
        ("git commit", environment.get("git_commit")),
        ("started", study.started),
        ("finished", study.finished),
        ("took", text.duration(study.seconds)),
    ]
