"""A study of detectors and segmenters: every row is the backbone of one head, and images have scores in it."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from nextify import report
from nextify.cli import main
from nextify.data.dense import open_dense
from nextify.fitting.scale import scale
from nextify.networks.dense.cost import dense_cost
from nextify.networks.dense.design import DenseDesign
from nextify.paper.roadmap import STEP_NAMES, roadmap
from nextify.study.engine import run_job
from nextify.study.plan import make_plan
from nextify.study.results import StudyResults
from nextify.study.store import Store
from nextify.study.study import Study
from nextify.training.trial import Data, Runtime


class Facts:
    train_images = 1500
    num_classes = 10
    mirror_keeps_class = False


class FewFacts(Facts):
    train_images = 300


def dense_plan(task="detection", facts=Facts, **options):
    data = Data("scenes", "test", 10, 128, task=task, canvas=(96, 128))
    return make_plan(roadmap("resnet50"), scale("tiny"), facts, data, **{"seeds": 1} | options)


@pytest.mark.parametrize(("task", "head"), [("detection", "fcos"), ("segmentation", "fpn")])
def test_every_row_is_the_backbone_of_the_same_head(task, head):
    made = dense_plan(task, explore=True)
    assert [row.row.name for row in made.rows] == list(STEP_NAMES)
    designs = [row.design for row in made.rows]
    assert all(isinstance(design, DenseDesign) and design.task == task for design in designs)
    assert {replace(design, backbone=designs[0].backbone) for design in designs} == {designs[0]}
    assert (made.head, designs[0].head) == (head, head)
    assert len({(design, row.recipe) for design, row in zip(designs, made.rows, strict=True)}) == 17
    assert {design.backbone.stem for design in designs} == {"conv7_pool", "patchify4"}


def test_recipes_are_the_tasks_and_the_first_row_has_the_original_one():
    made = dense_plan()
    assert [row.recipe for row in made.rows] == [made.original] + 13 * [made.modern]
    assert (made.original.optimizer.kind, made.modern.optimizer.kind) == ("sgd", "adamw")
    assert (made.original.epochs, made.modern.epochs) == (2, scale("tiny").dense_epochs)
    assert made.original.ema == made.modern.ema == "off"
    assert made.modern.horizontal_flip == 0, "a mirrored digit is none"
    assert made.notes[0] == "scale tiny: widths ÷ 4, depths ÷ 3"
    assert dense_plan(epochs=20).modern.epochs == 20
    assert dense_plan(facts=FewFacts).modern.epochs == 30, "five times fewer images, five times as often"


class HereEngine:
    """Runs jobs in this process."""

    def run(self, jobs, on_event):
        for job in jobs:
            run_job(job, Runtime(evaluations=1), on_event)


@pytest.fixture(scope="module", params=["detection", pytest.param("segmentation", marks=pytest.mark.slow)])
def study(request, tmp_path_factory):
    """Two rows of two seeds on a few scenes, and their folder."""
    images = open_dense("scenes", task=request.param)
    train, test = (part.selected(np.arange(n)) for part, n in ((images.train, 16), (images.test, 4)))
    images = replace(images, train=train, test=test)
    data = Data(images.name, images.fingerprint, images.num_classes, 64, task=request.param, canvas=(64, 64))
    plan = make_plan(
        *(roadmap("resnet50"), scale("tiny"), images, data),
        seeds=(0, 1),
        epochs=1,
        steps=("patchify", "separate_downsampling"),
    )
    out = tmp_path_factory.mktemp("study")
    with Store(out) as store:
        made = Study(plan, store, images, Runtime(evaluations=1), 1, "nextify roadmap")
        made.run(HereEngine(), lambda event: None)
    return made, out


def test_a_study_is_of_the_tasks_metric_and_of_the_whole_network(study):
    made, out = study
    results = made.results(datetime.now(UTC))
    key = {"detection": "ap", "segmentation": "miou"}[results.study.task]
    assert [trial.status for trial in results.trials] == ["finished"] * 4, results.trials
    assert results.metric.key == key
    for planned, row in zip(made.plan.rows, results.rows, strict=True):
        assert row.macs == dense_cost(planned.design, made.images.num_classes, 64, 64)
        own = [results.main(trial) for trial in results.trials if trial.step == row.step]
        assert row.mean == pytest.approx(np.mean(own))
        assert row.design["head"] == results.study.head
    last = results.rows[-1]
    assert last.p_crossed is not None, "images have scores"
    assert last.verdict in ("higher", "lower", "no conclusion")
    assert f"{results.metric.title}" in last.conclusion
    assert all((out / "trials" / trial.folder / "bundle" / "nextify.json").exists() for trial in results.trials)


def test_scores_of_images_have_the_metric_as_their_mean_and_survive_the_file(study):
    made, _ = study
    for planned in made.plan.trials:
        kept = made.store.result(planned)
        scores = kept.image_scores
        assert scores.shape == (4,)
        assert scores.mean() == pytest.approx(next(iter(kept.metrics.values())), abs=1e-3)
        assert np.array_equal(scores, made.outcomes[planned.folder].image_scores)
        assert replace(kept, scores=kept.scores[:-8]).image_scores is None
        assert replace(kept, metrics={"other": scores.mean() + 1}).image_scores is None


def test_a_report_names_the_tasks_metric_and_is_made_again(study, tmp_path):
    made, _ = study
    report.write(made.results(datetime.now(UTC)), tmp_path)
    found = json.loads((tmp_path / "results.json").read_text("utf-8"))
    key, title = {"detection": ("ap", "AP"), "segmentation": ("miou", "mIoU")}[found["study"]["task"]]
    assert f"{key}_mean" in found["rows"][0]
    assert key in found["trials"][0]
    assert f"test_{key}" in found["trials"][0]["curve"][0]
    page = (tmp_path / "report.html").read_text("utf-8")
    assert f"{title} after each step" in page
    assert "64×64 pixels" in page
    assert "Top-1" not in page
    again = StudyResults.read(tmp_path / "results.json").to_dict()
    assert {**again, "rows": [found["rows"][i] | row for i, row in enumerate(again["rows"])]} == found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "digits", "--task", "detection"], "digits has labels but no boxes or masks"),
        (["--data", "digits", "--head", "fcos"], "--head is for boxes and masks, but digits has labels"),
        (["--data", "scenes", "--head", "upernet"], "--head upernet is for another task than detection: choose fcos"),
        (["--data", "scenes", "--image-size", "100"], "--image-size must be a multiple of 32 for detection, got 100"),
        (["--data", "scenes", "--ignore-index", "3"], "--ignore-index is for masks, but scenes is used for its boxes"),
    ],
)
def test_bad_options_are_one_clear_line(options, words, tmp_path, capsys):
    assert main(["roadmap", "--out", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
