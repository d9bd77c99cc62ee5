"""What follows from a study's trainings: its :class:`StudyResults`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, assert_never

import numpy as np
import numpy.typing as npt

from nextify.networks.dense.design import DenseDesign
from nextify.networks.layout import cost
from nextify.paper.design import Design
from nextify.study.engine import Failed
from nextify.study.looks import share
from nextify.study.plan import PlannedTrial
from nextify.study.results import (
    SCHEMA,
    Epoch,
    StepResult,
    StudyData,
    StudyResults,
    StudySettings,
    TrialResult,
    read,
    unnamed,
)
from nextify.study.statistics import StepStatistics, conclude
from nextify.system.device import gpu_name
from nextify.tasks.metric_specs import MetricSpec
from nextify.training.learned import AnyImages, metric_specs
from nextify.training.result import Result
from nextify.training.trial import Data

if TYPE_CHECKING:
    from nextify.study.study import Study


def study_results(study: Study, started: datetime) -> StudyResults:
    """What ``study`` has found so far; ``started`` is when this run began."""
    plan = study.plan
    trials = tuple(trial_result(planned, study.outcomes.get(planned.folder)) for planned in plan.trials)
    settings = StudySettings(
        regime=plan.roadmap.name,
        data=study_data(study.images),
        scale=plan.scale.name,
        image_size=plan.data.image_size,
        seeds=tuple(sorted({planned.trial.seed for planned in plan.trials})),
        command=study.command,
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(sum(trial.seconds or 0.0 for trial in trials) / study.side_by_side, 1),
        notes=plan.notes,
        first_look=study.first_look,
        recipes={"original": plan.original.to_dict(), "modern": plan.modern.to_dict()},
        task=plan.data.task,
        metrics=study.metrics,
        head=plan.head,
        canvas=plan.data.canvas,
    )
    environment = study.environment | {
        "gpu": gpu_name(study.runtime.device),
        "device": study.runtime.device,
        "threads_per_trial": study.runtime.threads,
        "trials_side_by_side": study.side_by_side,
    }
    return StudyResults(SCHEMA, settings, tuple(_steps(study, trials)), trials, environment)


def study_conclusions(study: Study) -> dict[str, StepStatistics]:
    """What follows from the trials that have ended."""
    plan, first, seeds = study.plan, study.first_look, study.plan.seeds
    metric = study.metrics[0]
    found, scores = values_and_scores(plan.trials, study.outcomes, metric)
    references = {row.row.name: row.compared_with for row in plan.rows}
    shares = {}
    if first is not None:
        shares = {step: share(first, min(seeds[step], seeds[of])) for step, of in references.items() if of is not None}
    names = {row.row.name: row.row.title for row in plan.rows}
    tests = len(study.images.test) if metric.share_of_images else None
    return conclude(found, references, test_images=tests, scores=scores, shares=shares, names=names, metric=metric)


def values_and_scores(
    trials: Sequence[PlannedTrial], outcomes: Mapping[str, Result | Failed], metric: MetricSpec
) -> tuple[dict[str, dict[int, float | None]], dict[str, dict[int, npt.NDArray[np.bool_] | npt.NDArray[np.float64]]]]:
    """What ``conclude`` takes of the trials that have ended, by step and seed: the metric, and the images' scores."""
    found: dict[str, dict[int, float | None]] = {}
    scores: dict[str, dict[int, npt.NDArray[np.bool_] | npt.NDArray[np.float64]]] = {}
    for planned in trials:
        outcome = outcomes.get(planned.folder)
        if isinstance(outcome, Result):
            found.setdefault(planned.step, {})[planned.trial.seed] = outcome.metrics[metric.key]
            if (images := outcome.image_scores) is not None:
                scores.setdefault(planned.step, {})[planned.trial.seed] = images
    return found, scores


def study_data(images: AnyImages) -> StudyData:
    return StudyData(
        name=images.name,
        classes=len(images.classes),
        class_names=tuple(images.classes),
        train_images=len(images.train),
        test_images=len(images.test),
        fingerprint=images.fingerprint,
        notes=tuple(images.notes),
    )


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
                *(step, seed, "finished", outcome.metrics, outcome.final_train_loss, outcome.seconds),
                *(outcome.images_per_second, outcome.peak_memory_mib),
                curve=tuple(read(Epoch, unnamed(entry, metric_specs(planned.trial))) for entry in outcome.curve),
                fingerprint=fingerprint,
            )
        case unknown:
            assert_never(unknown)


def _steps(study: Study, trials: Sequence[TrialResult]) -> Iterator[StepResult]:
    plan, seeds, concluded = study.plan, study.plan.seeds, study_conclusions(study)
    speeds: dict[str, list[float]] = {}
    for trial in trials:
        if trial.images_per_second is not None:
            speeds.setdefault(trial.step, []).append(trial.images_per_second)
    for planned in plan.rows:
        row, published, own = planned.row, planned.row.published, speeds.get(planned.row.name)
        parameters, macs = _cost(planned.design, plan.data)
        change = None
        if planned.compared_with is not None:
            change = round(published.top1 - plan.roadmap[planned.compared_with].published.top1, 2)
        yield StepResult(
            step=row.name,
            title=row.title,
            group=row.group,
            adopted=row.adopted,
            seeds=seeds[row.name],
            **concluded[row.name].figures(),
            parameters=parameters,
            macs=macs,
            images_per_second=round(sum(own) / len(own), 1) if own else None,
            published_top1=published.top1,
            published_std=published.std,
            published_change=change,
            published_gflops=published.gflops,
            design=planned.design.to_dict(),
        )


def _cost(design: Design | DenseDesign, data: Data) -> tuple[int, int]:
    """Parameters, and multiply-adds of one image; a detector's or segmenter's include its head."""
    if isinstance(design, Design):
        costs = cost(design, data.image_size, data.num_classes)
        return costs.parameters, costs.macs
    from nextify.networks.dense.cost import dense_cost, dense_parameters  # with the detectors' code

    assert data.canvas is not None
    return dense_parameters(design, data.num_classes, data.canvas), dense_cost(design, data.num_classes, *data.canvas)
