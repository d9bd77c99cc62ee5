"""What follows from a study's trainings: its :class:`StudyResults`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, assert_never

from nextify.networks.layout import cost
from nextify.study.engine import Failed
from nextify.study.plan import PlannedRow, PlannedTrial
from nextify.study.results import SCHEMA, Epoch, StepResult, StudyData, StudyResults, StudySettings, TrialResult
from nextify.study.statistics import StepStatistics, conclude
from nextify.system.device import gpu_name
from nextify.training.run import Result

if TYPE_CHECKING:
    from nextify.study.study import Study


def study_results(study: Study, started: datetime) -> StudyResults:
    """What ``study`` has found so far; ``started`` is when this run began."""
    plan, images = study.plan, study.images
    trials = tuple(trial_result(planned, study.outcomes.get(planned.folder)) for planned in plan.trials)
    settings = StudySettings(
        regime=plan.roadmap.name,
        data=StudyData(
            name=plan.data.name,
            classes=len(images.classes),
            class_names=tuple(images.classes),
            train_images=len(images.train),
            test_images=len(images.test),
            fingerprint=plan.data.fingerprint,
            notes=tuple(images.notes),
        ),
        scale=plan.scale.name,
        image_size=plan.data.image_size,
        seeds=tuple(sorted({planned.trial.seed for planned in plan.trials})),
        command=study.command,
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(sum(trial.seconds or 0.0 for trial in trials) / study.side_by_side, 1),
        notes=plan.notes,
        recipes={"original": plan.original.to_dict(), "modern": plan.modern.to_dict()},
    )
    environment = study.environment | {
        "gpu": gpu_name(study.runtime.device),
        "device": study.runtime.device,
        "threads_per_trial": study.runtime.threads,
        "trials_side_by_side": study.side_by_side,
    }
    return StudyResults(SCHEMA, settings, _steps(study, trials), trials, environment)


def trial_result(planned: PlannedTrial, outcome: Result | Failed | None) -> TrialResult:
    """What became of a trial; its ``outcome`` is None until it has been trained."""
    step, seed, fingerprint = planned.step, planned.trial.seed, planned.trial.fingerprint
    match outcome:
        case None:
            return TrialResult(step, seed, "missing", fingerprint=fingerprint)
        case Failed():
            return TrialResult(step, seed, "failed", error=outcome.error, fingerprint=fingerprint)
        case Result():
            return TrialResult(
                *(step, seed, "finished", outcome.top1, outcome.top5, outcome.final_train_loss, outcome.seconds),
                *(outcome.images_per_second, outcome.peak_memory_mib),
                curve=tuple(Epoch.from_dict(entry) for entry in outcome.curve),
                fingerprint=fingerprint,
            )
        case unknown:
            assert_never(unknown)


def _steps(study: Study, trials: Sequence[TrialResult]) -> tuple[StepResult, ...]:
    accuracies: dict[str, dict[int, float | None]] = {}
    speeds: dict[str, list[float]] = {}
    for trial in trials:
        accuracies.setdefault(trial.step, {})[trial.seed] = trial.top1
        if trial.images_per_second is not None:
            speeds.setdefault(trial.step, []).append(trial.images_per_second)
    references = {row.row.name: row.compared_with for row in study.plan.rows}
    concluded = conclude(accuracies, references, test_images=len(study.images.test))
    return tuple(_step(study, row, concluded[row.row.name], speeds.get(row.row.name)) for row in study.plan.rows)


def _step(study: Study, planned: PlannedRow, found: StepStatistics, speeds: list[float] | None) -> StepResult:
    plan, row, published = study.plan, planned.row, planned.row.published
    summary, c = found.summary, found.comparison
    costs = cost(planned.design, plan.data.image_size, plan.data.num_classes)
    change = None
    if planned.compared_with is not None:
        change = round(published.top1 - plan.roadmap[planned.compared_with].published.top1, 2)
    return StepResult(
        step=row.name,
        title=row.title,
        group=row.group,
        adopted=row.adopted,
        n=summary.n,
        top1_mean=summary.mean,
        top1_std=summary.std,
        binomial_standard_error=summary.binomial_standard_error,
        compared_with=planned.compared_with,
        change=c.change if c else None,
        change_low=c.low if c else None,
        change_high=c.high if c else None,
        p_value=c.p_value if c else None,
        p_value_holm=c.p_holm if c else None,
        seeds_needed=c.seeds_needed if c else None,
        verdict=c.verdict if c else None,
        conclusion=c.conclusion if c else None,
        parameters=costs.parameters,
        macs=costs.macs,
        images_per_second=round(sum(speeds) / len(speeds), 1) if speeds else None,
        published_top1=published.top1,
        published_std=published.std,
        published_change=change,
        published_gflops=published.gflops,
        design=planned.design.to_dict(),
    )
