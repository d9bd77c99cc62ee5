"""Multi-label classification: metrics, thresholds, loss and targets; and a training through every command."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score

from nextify.cli import main
from nextify.data import DataError, open_images
from nextify.data.on_device import finish
from nextify.deploy.runners import predict
from nextify.deploy.verify import ExportFailed, _same_answers
from nextify.evaluation.evaluate import evaluate
from nextify.evaluation.multilabel import evaluate_multilabel, intervals
from nextify.networks.foreign import timm_network
from nextify.paper.recipe import CONVNEXT, Mixing
from nextify.tasks.multilabel import MultiLabel, Scores, positive_weights
from nextify.tasks.multilabel_metrics import (
    MultiLabelMetrics,
    average_precision,
    decided,
    fitted_thresholds,
    probabilities,
)
from nextify.training.prepare import prepare
from nextify.training.request import Request, RequestError
from nextify.training.run import run_trial
from nextify.training.trial import Data, Runtime, Trial
from nextify.weights import WeightsError, load_bundle, save_bundle
from nextify.weights.bundle import stated
from tests.helpers import Captured, tiny_bundle

CLASSES = ("blue", "green", "red")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def some_scores(ties: bool, images: int = 200) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(0)
    truth = rng.random((images, 5)) < (0.5, 0.3, 0.1, 0.02, 0.0)
    scores = (rng.normal(size=truth.shape) + truth).astype(np.float32)
    return (scores.round(0 if ties else 6).astype(np.float32)), truth


# -- metrics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_map_equals_scikit_learns(ties: bool) -> None:
    scores, truth = some_scores(ties)
    metrics = MultiLabelMetrics(scores, truth, (0.5,) * 5)
    expected = [average_precision_score(truth[:, k], scores[:, k]) for k in range(4)]
    found = metrics.average_precisions()
    assert found[:4].tolist() == pytest.approx(expected, abs=1e-14)
    assert np.isnan(found[4])  # no image of the class, which does not count
    assert metrics.values()["map"] == pytest.approx(
        100 * average_precision_score(truth[:, :4], scores[:, :4], average="macro"), abs=1e-12
    )
    assert len({*scores[:, 0].tolist()}) < 12 or not ties


@pytest.mark.parametrize("scores", [[1, 1, 1, 1], [0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 1, 0]])
def test_average_precision_of_few_images(scores: list[int]) -> None:
    truth = np.array([True, False, True, False])
    expected = average_precision_score(truth, scores)
    assert average_precision(np.array(scores, float), truth)[0] == pytest.approx(expected, abs=1e-15)


def test_average_precision_of_weighted_images_is_that_of_repeated_ones() -> None:
    scores, truth = (part[:, 0] for part in some_scores(ties=True, images=40))
    weights = np.random.default_rng(1).integers(0, 4, (6, 40))
    found = average_precision(scores, truth, weights.astype(float))
    for row, ap in zip(weights, found, strict=True):
        assert ap == pytest.approx(average_precision_score(np.repeat(truth, row), np.repeat(scores, row)), abs=1e-14)


def test_f1_is_scikit_learns() -> None:
    scores, truth = some_scores(ties=False)
    thresholds = (0.3, 0.5, 0.6, 0.7, 0.9)
    metrics = MultiLabelMetrics(scores, truth, thresholds)
    given = decided(scores, thresholds)
    values = metrics.values()
    assert values["micro_f1"] == pytest.approx(100 * f1_score(truth, given, average="micro"))
    assert values["macro_f1"] == pytest.approx(100 * f1_score(truth[:, :4], given[:, :4], average="macro"))
    rows = metrics.per_class(tuple("abcde"))
    assert rows[0].f1 == pytest.approx(100 * f1_score(truth[:, 0], given[:, 0]))
    assert (rows[4].images, rows[4].ap, rows[4].recall) == (0, None, None)
    low, high = intervals(metrics, draws=200)["map"]
    assert low < values["map"] < high
    assert intervals(MultiLabelMetrics(scores[:1], truth[:1], thresholds)) == {}


def test_a_fitted_threshold_has_the_highest_f1() -> None:
    scores, truth = some_scores(ties=False)
    truth[:, 3] = np.arange(len(truth)) < 4
    fitted = fitted_thresholds(scores, truth)
    chances = probabilities(scores)
    for k in range(3):
        best = max(f1_score(truth[:, k], chances[:, k] >= t) for t in chances[:, k])
        assert f1_score(truth[:, k], chances[:, k] >= fitted[k]) == pytest.approx(best)
    assert fitted[3:] == (0.5, 0.5)  # of fewer than five images, and of none
    apart = np.array([-3, -2, -1, -1, 4, 4, 5, 5, 6], np.float32)[:, None]
    (between,) = fitted_thresholds(apart, apart > 0)
    assert between == pytest.approx((1 / (1 + np.exp(1)) + 1 / (1 + np.exp(-4))) / 2)
    (sure,) = fitted_thresholds(np.full((9, 1), 80, np.float32), np.ones((9, 1), bool))
    assert 0 < sure <= 1


# -- loss and targets ----------------------------------------------------------------------------------------------


def task(**changes: object) -> MultiLabel:
    weights = changes.pop("weights", None)
    recipe = CONVNEXT.with_(**{"mixing": "off", "random_erasing": 0.0, "label_smoothing": 0.0, **changes})
    return MultiLabel(recipe, 3, MEAN, STD, 0, torch.device("cpu"), weights)  # type: ignore[arg-type]


LABELS = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1]])


def test_the_loss_is_binary_cross_entropy_and_parts_add_up() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    own = task()
    whole = own.loss(logits, LABELS.float(), 5)
    assert whole == pytest.approx(float(F.binary_cross_entropy(logits.sigmoid(), LABELS.float())), rel=1e-5)
    assert own.loss(logits[:2], LABELS[:2], 5) + own.loss(logits[2:], LABELS[2:], 5) == pytest.approx(float(whole))
    weights = positive_weights(LABELS.numpy())
    assert weights.tolist() == pytest.approx([3 / 2, 3 / 2, 2 / 3])
    weighted = task(weights=weights).loss(torch.zeros(5, 3), LABELS, 5)
    assert float(weighted) == pytest.approx(float(np.log(2)) * (6 / 5 + 6 / 5 + 4 / 5) / 3)
    assert positive_weights(np.eye(300, 1, dtype=np.int64)).tolist() == [100]


def test_smoothing_leaves_half_of_it_to_the_other_answer() -> None:
    pixels = torch.zeros(5, 8, 8, 3, dtype=torch.uint8)
    _, targets = task(label_smoothing=0.2).training_batch(pixels, LABELS, 0, None)
    assert torch.allclose(targets, torch.where(LABELS > 0, 0.9, 0.1))
    _, targets = task().training_batch(pixels, LABELS, 0, None)
    assert torch.equal(targets, LABELS.float())


def test_weights_multiply_the_whole_loss_of_an_image_with_a_label() -> None:
    """Also what smoothing leaves to the other answer, so that an image without a rare label is best not given it."""
    weights, pixels = torch.tensor([100.0, 1.0, 0.01]), torch.zeros(5, 8, 8, 3, dtype=torch.uint8)
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    own = task(weights=weights, label_smoothing=0.1)
    _, targets = own.training_batch(pixels, LABELS, 0, None)
    each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    expected = (torch.where(LABELS > 0, weights, 1.0) * each).mean()
    torch.testing.assert_close(own.loss(logits, targets, 5), expected)
    best = targets.logit().requires_grad_()
    (gradient,) = torch.autograd.grad(own.loss(best, targets, 5), best)
    torch.testing.assert_close(gradient, torch.zeros(5, 3), atol=1e-6, rtol=0)
    mixed = 0.3 * targets[[0]] + 0.7 * targets[[1]]  # of images with and without the labels 0 and 2
    parts = [own.loss(logits[[3]], targets[[row]], 1) for row in (0, 1)]
    torch.testing.assert_close(own.loss(logits[[3]], mixed, 1), 0.3 * parts[0] + 0.7 * parts[1])
    plain = task(weights=weights)
    by_torch = F.binary_cross_entropy_with_logits(logits, LABELS.float(), pos_weight=weights)
    assert torch.equal(plain.loss(logits, LABELS, 5), by_torch)


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.8), Mixing(mixup=0.8, cutmix=1.0)])
def test_targets_are_mixed_in_the_images_shares(mixing: Mixing) -> None:
    """Each image is one value everywhere, so that the mean of a mixed one tells its share."""
    values = torch.tensor([0, 60, 120, 180, 240])
    pixels = values[:, None, None, None].expand(5, 16, 16, 3).to(torch.uint8).contiguous()
    for step in range(6):
        x, targets = task(mixing=mixing).training_batch(pixels, LABELS, step, None)
        level = (x.mean((1, 2, 3)) * 0.25 + 0.5) * 255
        assert torch.equal(targets[4], LABELS[4].float())  # the last of an odd batch stays
        for i in range(4):
            own, other = values[i], values[3 - i]
            share = (level[i] - other) / (own - other)
            expected = share * LABELS[i] + (1 - share) * LABELS[3 - i]
            assert torch.allclose(targets[i], expected, atol=1e-4)


def test_mixing_of_one_class_per_image_is_as_it_was() -> None:
    recipe = CONVNEXT.with_(mixing=Mixing(mixup=0.8, cutmix=1.0), random_erasing=0.0, label_smoothing=0.0)
    pixels = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 2, 1, 1])
    one = finish(pixels.clone(), labels, recipe, 3, 7, 0, "cpu", MEAN, STD)
    several = finish(pixels.clone(), F.one_hot(labels, 3), recipe, 3, 7, 0, "cpu", MEAN, STD)
    assert torch.equal(one[0], several[0])
    assert torch.allclose(one[1], several[1])


def test_images_that_stand_in_for_another_process_do_not_count() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    with torch.no_grad():
        seen = task().observe(model, torch.zeros(2, 3, 2, 2), torch.tensor([[-1, -1, -1], [1, 0, 0]]))
    assert (seen.logits.shape, seen.truth.tolist()) == ((1, 3), [[True, False, False]])
    with pytest.raises(ValueError, match="no image has a label"):
        MultiLabel.metrics([Scores(np.zeros((2, 3), np.float32), np.zeros((2, 3), bool))]).values()


# -- a training, and every command on what it leaves -----------------------------------------------------------------

HERE = ("--device", "cpu", "--threads", "1")


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of images, each label being a colour channel that is bright in one half of the image."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    rows = [("path", "labels", "split")]
    for i in range(160):
        own = [k for k in range(3) if rng.random() < 0.4]
        pixels = rng.integers(0, 60, (16, 16, 3))
        for k in own:
            pixels[:, 8 * rng.integers(0, 2) :][:, :8, 2 - k] += 180
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{i:03}.png")
        rows.append((f"{i:03}.png", "|".join(CLASSES[k] for k in own), "train" if i < 128 else "val"))
    with open(root / "colours.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root / "colours.csv"


@pytest.fixture(scope="module")
def bundle(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    settings = ("--set", "calibration=0.25", "--set", "class_balance=loss")
    assert main(["train", "convnext_atto", "--data", str(colours), "--out", str(out), "--scale", "tiny", "--epochs",
                 "12", *settings, *HERE]) == 0  # fmt: skip
    (found,) = out.glob("*/bundle")
    return found


def test_a_training_learns_and_leaves_thresholds(bundle: Path, colours: Path) -> None:
    about = load_bundle(bundle).about
    assert about.classes == CLASSES
    assert len(about.thresholds) == 3
    assert about.temperature == 1
    assert [metric.name for metric in about.metrics] == ["map", "micro_f1", "macro_f1"]
    assert about.metrics[0].value > 90
    content = json.loads((bundle / "nextify.json").read_text())
    assert content["task"] == "multilabel"
    result = json.loads((bundle.parent / "result.json").read_text())
    assert result["map"] == about.metrics[0].value
    assert result["curve"][-1]["test_map"] == result["map"]
    found = evaluate_multilabel(bundle, open_images(colours))
    assert found.metrics == pytest.approx({metric.name: metric.value for metric in about.metrics})
    report = json.loads((bundle.parent / "preflight.json").read_text())
    assert report["labels_per_image"] > 1
    assert (bundle.parent / "split.csv").read_text().count("calibration") > 20
    assert (bundle.parent / "curves.png").exists()


def test_a_network_that_learns_one_class_each_is_refused_before_it_trains(colours: Path, tmp_path: Path) -> None:
    images = open_images(colours)
    data = Data(images.name, images.fingerprint, images.num_classes, 16, task="multilabel")
    trial = Trial(timm_network("test_resnet"), CONVNEXT.with_(batch_size=16), data, seed=0)
    with pytest.raises(DataError, match="test_resnet of timm learns one class each: train a network of nextify models"):
        run_trial(trial, images, Runtime(), tmp_path)
    assert not list(tmp_path.glob("*.json*"))


def test_evaluate_leaves_figures_and_pictures(bundle: Path, colours: Path, tmp_path: Path, capsys: Captured) -> None:
    arguments = ["evaluate", str(bundle), "--data", str(colours), "--part", "all", *HERE]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "mAP" in said
    assert "95 % intervals from 1,000 bootstrap draws" in said
    header = next(line for line in said.splitlines() if line.startswith("class"))
    assert header.split() == [
        "class",
        "images",
        "AP,",
        "%",
        "threshold",
        "given",
        "precision,",
        "%",
        "recall,",
        "%",
        "F1,",
        "%",
    ]
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["intervals"]["map"][0] <= content["metrics"]["map"] <= content["intervals"]["map"][1]
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"evaluation.json", "precision-recall.png"}
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["metrics"] == content["metrics"]


@pytest.mark.slow
def test_the_worst_images_are_shown(colours: Path, tmp_path: Path) -> None:
    untrained = tiny_bundle(tmp_path / "untrained", CLASSES, 16, 1.0, sharpness=20, thresholds=(0.5, 0.5, 0.5))
    found = evaluate_multilabel(untrained, open_images(colours), out=tmp_path / "out")
    assert found.worst
    losses = [one.loss for one in found.worst]
    assert losses == sorted(losses, reverse=True)
    assert all(one.true != one.given for one in found.worst)
    assert any("probability of 0.5 on" in note for note in found.notes)
    with Image.open(tmp_path / "out" / "mistakes.png") as image:
        assert min(image.size) > 400


def test_predict_gives_the_labels_at_their_thresholds(bundle: Path, colours: Path, capsys: Captured) -> None:
    folder = str(colours.parent)
    found = predict(bundle, folder)
    thresholds = dict(zip(CLASSES, load_bundle(bundle).about.thresholds, strict=True))
    assert {len(one.guesses) for one in found} >= {0, 1, 2}
    for one, all_of_it in zip(found, predict(bundle, folder, top=3), strict=True):
        chances = {guess.name: guess.probability for guess in all_of_it.guesses}
        assert {g.name for g in one.guesses} == {c for c, p in chances.items() if c and p >= thresholds[c]}
        assert sum(chances.values()) != pytest.approx(1)
    empty = next(one.path for one in found if not one.guesses)
    assert main(["predict", str(bundle), empty, *HERE]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [empty, "none"]
    assert main(["predict", str(bundle), empty, "--csv", *HERE]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert list(row.values()) == [empty, "0", "", "", ""]
    assert main(["predict", str(bundle), empty, "--json", *HERE]) == 0
    assert json.loads(capsys.readouterr().out) == [{"path": empty, "guesses": [], "error": None}]


@pytest.mark.slow
def test_export_keeps_the_labels(bundle: Path, colours: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "exported"
    assert (
        main(["export", str(bundle), "--to", "torch", "--data", str(colours), "--out", str(out), "--threads", "1"]) == 0
    )
    assert "same labels as the bundle on 100 %" in capsys.readouterr().out
    assert main(["predict", str(out), str(colours.parent / "000.png"), "--json", *HERE]) == 0
    (exported,) = json.loads(capsys.readouterr().out)
    (own,) = predict(bundle, colours.parent / "000.png")
    assert [g["name"] for g in exported["guesses"]] == [g.name for g in own.guesses]


def test_an_export_of_other_labels_fails() -> None:
    expected = np.array([[2.0, -2.0, 0.00001]], np.float32)
    near, other = expected.copy(), expected.copy()
    near[0, 2] *= -1
    other[0, 1] = 0.5
    thresholds = (0.5, 0.5, 0.5)
    assert _same_answers(near, expected, 1e-4, thresholds).tolist() == [True]
    assert _same_answers(other, expected, 1e-4, thresholds).tolist() == [False]
    assert _same_answers(near, expected, 1e-4, ()).tolist() == [True]
    assert issubclass(ExportFailed, ValueError)


def test_serve_answers_with_the_given_labels(bundle: Path, colours: Path) -> None:
    testing = pytest.importorskip("starlette.testclient")
    from nextify.deploy.runners import open_runner
    from nextify.deploy.serve.app import Settings, create_app
    from nextify.deploy.serve.workers import InProcess

    app = create_app([InProcess(partial(open_runner, bundle))], Settings(max_wait_ms=0))
    with testing.TestClient(app) as client:
        answer = client.post("/predict", content=(colours.parent / "000.png").read_bytes()).json()
        assert client.get("/model").json()["task"] == "multilabel"
    (own,) = predict(bundle, colours.parent / "000.png")
    (one,) = answer["predictions"]
    assert [label["class"] for label in one["labels"]] == [guess.name for guess in own.guesses]
    assert len(one["classes"]) == 3


def test_explain_works_for_each_class(bundle: Path, colours: Path, tmp_path: Path) -> None:
    for index in ("0", "2"):
        assert main(["explain", str(bundle), str(colours.parent / "000.png"), "--index", index, "--out",
                     str(tmp_path / index), "--threads", "1"]) == 0  # fmt: skip
        (one,) = json.loads((tmp_path / index / "explanations.json").read_text())
        assert one["label"] == CLASSES[int(index)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["robustness", "BUNDLE", "--data", "DATA"],
            "several labels per image (multi-label), but this takes one class each",
        ),
        (
            ["quantize", "BUNDLE", "--data", "DATA"],
            "several labels per image (multi-label), but this takes one class each",
        ),
        (["quantize", "BUNDLE", "--data", "digits"], "gives several labels (multi-label)"),
        (["evaluate", "BUNDLE", "--data", "digits"], "digits holds one class per image"),
        (
            ["evaluate", "ONE", "--data", "DATA"],
            "several labels per image (multi-label), but this takes one class each",
        ),
        (
            ["train", "convnext_atto", "--data", "DATA", "--set", "class_balance=sampling"],
            "class_balance=sampling needs",
        ),
    ],
)
def test_what_does_not_take_several_labels_says_so(
    arguments: list[str], message: str, bundle: Path, colours: Path, tmp_path: Path, capsys: Captured
) -> None:
    one = tiny_bundle(tmp_path / "one", CLASSES, 16, 1.0)
    places = {"BUNDLE": str(bundle), "DATA": str(colours), "ONE": str(one)}
    extra = [] if arguments[0] == "evaluate" else ["--out", str(tmp_path / "out")]
    assert main([places.get(word, word) for word in arguments] + extra) == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if not re.search("warning: |note: |licence", line)]
    assert message in line


def test_python_functions_for_one_class_say_so_too(bundle: Path, colours: Path, tmp_path: Path) -> None:
    images = open_images(colours)
    with pytest.raises(ValueError, match="several labels per image"):
        evaluate(bundle, images)
    with pytest.raises(WeightsError, match="gives several labels"):
        evaluate(bundle, open_images("digits"))
    with pytest.raises(WeightsError, match="gives one class per image"):
        evaluate_multilabel(tiny_bundle(tmp_path / "one", CLASSES, 16, 1.0), images)
    with pytest.raises(RequestError, match="several labels: choose class_balance=loss"):
        prepare(Request("convnext_atto", scale="tiny", settings={"class_balance": "sampling"}), images)


def test_a_classifier_is_kept_only_for_the_same_task(bundle: Path, colours: Path, tmp_path: Path) -> None:
    images = open_images(colours)
    kept = prepare(Request("convnext_atto", weights=str(bundle), epochs=1), images)
    assert any("their classifier is kept" in note for note in kept.notes)
    about = load_bundle(bundle).about
    single = save_bundle(tmp_path / "single", load_bundle(bundle).state, replace(about, thresholds=()))
    new = prepare(Request("convnext_atto", weights=str(single), epochs=1), images)
    assert any(
        "the classifier is new: 3 classes, while the weights have one class per image" in note for note in new.notes
    )


def test_a_bundle_says_its_task_and_is_checked(bundle: Path, tmp_path: Path) -> None:
    about = stated(bundle)
    content = json.loads((bundle / "nextify.json").read_text())
    for change in ({"thresholds": [0.1, 0.2, 0.3]}, {"task": "tagging"}, {"thresholds": []}):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "nextify.json").write_text(json.dumps(content | change))
        with pytest.raises(WeightsError, match=r"damaged or was edited|holds a network for"):
            stated(folder)
    with pytest.raises(WeightsError, match="2 thresholds for 3 classes"):
        replace(about, thresholds=(0.5, 0.5))  # type: ignore[type-var]
    with pytest.raises(WeightsError, match="thresholds must be probabilities"):
        replace(about, thresholds=(0.5, 0.5, 2))  # type: ignore[type-var]
    single = tiny_bundle(tmp_path / "single", CLASSES, 16, 1.0)
    plain = json.loads((single / "nextify.json").read_text())
    assert not {"task", "thresholds"} & plain.keys()
