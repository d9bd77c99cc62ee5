"""Metrics on small tables, against hand-made figures and scikit-learn; matching of classes; the pictures."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_score, recall_score, top_k_accuracy_score

from nextify.data import DataError, Images, ImageSet
from nextify.data.images import UniformStore
from nextify.data.kept import Kept
from nextify.evaluation import pictures
from nextify.evaluation.evaluate import Evaluation, Mistake, match_classes, write
from nextify.evaluation.metrics import calibration, confidence_gap, confusion, per_class, wilson
from nextify.evaluation.pictures import confusion_picture, curves_picture, mistakes_picture, reliability_picture
from nextify.paper.design import CONVNEXT_TINY
from nextify.paper.recipe import CONVNEXT
from nextify.tasks.classification import Accuracy, Classification, Hits
from nextify.weights import About


@pytest.fixture(scope="module")
def table() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (200, 7) and labels that they know something of."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 200)
    logits = rng.normal(size=(200, 7)) + 1.5 * np.eye(7)[labels]
    exponents = np.exp(logits)
    return exponents / exponents.sum(1, keepdims=True), labels


def accuracy(scores: np.ndarray, labels: np.ndarray) -> Accuracy:
    return Classification.metrics([Hits.of(torch.from_numpy(scores), torch.from_numpy(labels))])


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_is_scikit_learns(table: tuple[np.ndarray, np.ndarray], k: int) -> None:
    probabilities, labels = table
    found = accuracy(probabilities, labels).values()[f"top{k}"]
    assert found == pytest.approx(100 * top_k_accuracy_score(labels, probabilities, k=k))


def test_top_five_of_three_classes_is_all() -> None:
    assert accuracy(np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]), np.array([0, 2])).top5 == 100


def test_scores_that_are_nan_are_right_for_no_class() -> None:
    found = accuracy(np.array([[np.nan, 0.5], [np.nan, np.nan], [0.1, 0.9], [0.9, 0.1]]), np.array([0, 0, 1, 0]))
    assert (found.top1, found.top5) == (50, 50)


def test_metrics_refuse_tables_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="no images"):
        accuracy(np.zeros((0, 3)), np.zeros(0, int))
    with pytest.raises(ValueError, match=r"\(2, 3\) and 1 labels"):
        accuracy(np.zeros((2, 3)), np.zeros(1, int))


def test_confusion_and_classes_are_scikit_learns(table: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = table
    predicted = probabilities.argmax(1)
    counts = confusion(predicted, labels, 7)
    assert (counts == confusion_matrix(labels, predicted)).all()
    found = per_class(counts, list("abcdefg"))
    assert [c.top1 for c in found] == pytest.approx(100 * recall_score(labels, predicted, average=None))
    assert [c.precision for c in found] == pytest.approx(100 * precision_score(labels, predicted, average=None))
    assert sum(c.images for c in found) == sum(c.predicted for c in found) == 200


def test_equal_logits_count_the_same_in_a_training_and_in_an_evaluation() -> None:
    logits = torch.randint(4, (500, 7), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.randint(7, (500,), generator=torch.Generator().manual_seed(1))
    model = torch.nn.Linear(7, 7, bias=False)
    torch.nn.init.eye_(model.weight)
    recipe = CONVNEXT.with_(precision="fp32")
    task = Classification(recipe, 7, (0.5,) * 3, (0.5,) * 3, 0, torch.device("cpu"))
    found = task.metrics([task.observe(model, logits[part], labels[part]) for part in (slice(300), slice(300, None))])
    order = np.argsort(-logits.numpy(), axis=1, kind="stable")
    for k, percent in ((1, found.top1), (5, found.top5)):
        assert percent == 100 * int((order[:, :k] == labels.numpy()[:, None]).any(1).sum()) / 500
    assert found == accuracy(logits.softmax(-1).numpy(), labels.numpy())


def test_a_class_without_images_has_no_accuracy() -> None:
    found = per_class(confusion(np.array([0, 0]), np.array([0, 2]), 3), ["a", "b", "c"])
    assert [(c.images, c.top1, c.predicted, c.precision) for c in found] == [
        (1, 100.0, 2, 50.0),
        (0, None, 0, None),
        (1, 0.0, 0, None),
    ]


def test_calibration_by_hand() -> None:
    # Two images in (0.5, 0.6] of which one is right, two in (0.9, 1.0] of which both are.
    error, bins = calibration(np.array([0.55, 0.6, 0.95, 1.0]), np.array([True, False, True, True]), bins=10)
    assert error == pytest.approx(0.5 * abs(0.575 - 0.5) + 0.5 * abs(0.975 - 1.0))
    assert [b.images for b in bins] == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert bins[5].accuracy == 0.5
    assert bins[0].confidence is None


def test_the_bins_hold_every_image(table: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = table
    confidence = np.concatenate([probabilities.max(1), [0.0, 1.0]])
    right = np.concatenate([probabilities.argmax(1) == labels, [False, True]])
    error, bins = calibration(confidence, right)
    assert sum(b.images for b in bins) == 202
    assert 0 <= error <= 1


def test_what_is_as_sure_as_it_is_right_has_no_calibration_error() -> None:
    confidence = np.repeat([0.25, 0.75], 400)
    right = np.concatenate([np.arange(400) % 4 == 0, np.arange(400) % 4 != 0])
    assert calibration(confidence, right)[0] == pytest.approx(0)


@pytest.mark.parametrize(("right", "images"), [(0, 10), (10, 10), (17, 25), (812, 1000)])
def test_the_interval_is_wilsons(right: int, images: int) -> None:
    share, z = right / images, 1.959963984540054
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * (share * (1 - share) / images + z**2 / (4 * images**2)) ** 0.5
    assert wilson(right, images) == pytest.approx((100 * (middle - half), 100 * (middle + half)), abs=1e-9)


def test_the_gap_between_confidence_and_accuracy_has_a_sign() -> None:
    confidence, right = np.array([0.55, 0.6, 0.95, 1.0]), np.array([True, False, True, True])
    assert confidence_gap(calibration(confidence, right)[1]) == pytest.approx(100 * (3.1 - 3) / 4)
    assert confidence_gap(calibration(confidence - 0.2, right)[1]) == pytest.approx(100 * (2.3 - 3) / 4)


def test_a_gap_is_said_in_words(table: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = table
    found = evaluation(3)
    assert found.confidence.startswith("confidences are too ")
    right = probabilities.argmax(1) == labels
    bins = tuple(tuple(calibration(confidence, right)[1]) for confidence in (np.full(200, 0.2), probabilities.max(1)))
    found = replace(found, bins=bins[1], uncalibrated_bins=bins[0], temperature=0.421)
    gap = 100 * (right.mean() - 0.2)
    assert found.confidence.startswith(f"confidences were too low by {gap:.1f} points on average, and are too ")
    assert found.confidence.endswith("points with the temperature 0.421")
    content = found.to_dict()
    assert content["uncalibrated_confidence_gap"] == pytest.approx(-gap)
    assert content["top1_interval"] == wilson(round(found.top1 * 3), 300)


def images_of(*classes: str) -> Images:
    pixels = np.zeros((len(classes), 4, 4, 3), np.uint8)
    part = ImageSet(np.arange(len(classes)), UniformStore(Kept(pixels)))
    return Images("mine", classes, part, part, True, "f", (), (4, 4))


def about(*classes: str, count: int | None = None) -> About:
    return About(CONVNEXT_TINY, count if count is not None else len(classes), classes=classes)


def test_classes_are_matched_by_name_in_any_order() -> None:
    notes: list[str] = []
    assert match_classes(about("cat", "cow", "dog"), images_of("dog", "cat"), notes).tolist() == [2, 0]
    assert notes == ["mine has no images of cow: accuracy is over the other classes"]


def test_classes_are_matched_in_any_unicode_form() -> None:
    assert match_classes(about("caf\u00e9", "dog"), images_of("cafe\u0301", "dog"), []).tolist() == [0, 1]
    assert match_classes(about("dog", "cafe\u0301"), images_of("caf\u00e9", "dog"), []).tolist() == [1, 0]
    with pytest.raises(DataError, match="several classes called"):
        match_classes(about("caf\u00e9", "cafe\u0301"), images_of("caf\u00e9"), [])


def test_an_unknown_class_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="1 of 2 classes that the bundle does not know: cats; it knows cat, dog"):
        match_classes(about("cat", "dog"), images_of("cats", "dog"), [])


def test_weights_without_names_are_matched_by_order_or_refused() -> None:
    notes: list[str] = []
    assert match_classes(about(count=2), images_of("a", "b"), notes).tolist() == [0, 1]
    assert "matched by order" in notes[0]
    with pytest.raises(DataError, match="the weights have 3 classes without names, the images 2"):
        match_classes(about(count=3), images_of("a", "b"), [])


def evaluation(classes: int, images: int = 300, spread: int = 1) -> Evaluation:
    """Predictions of which about half are wrong, by up to ``spread`` classes."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, classes, images)
    confidence = rng.uniform(1 / classes, 1, images)
    wrong = (labels + rng.integers(1, spread + 1, images)) % classes
    predicted = np.where(rng.uniform(size=images) < confidence, labels, wrong)
    names = [f"$klasse {i} 猫" for i in range(classes)]
    counts = confusion(predicted, labels, classes)
    error, bins = calibration(confidence, predicted == labels)
    mistakes = (Mistake("x/1.png", names[0], names[1], 0.9),)
    top1 = 100 * float((predicted == labels).mean())
    parts = (tuple(bins), tuple(per_class(counts, names)), tuple(map(tuple, counts.tolist())), mistakes)
    head = {"model": "m", "data": "d", "images": images, "precision": "fp32", "notes": (), "environment": {}}
    head["fingerprint"] = ""
    return Evaluation(top1, 100.0, error, *parts, **head)


@pytest.mark.parametrize("classes", [2, pytest.param(12, marks=pytest.mark.slow), 70])
def test_pictures_of_few_and_many_classes(classes: int) -> None:
    for data in (confusion_picture(evaluation(classes)), reliability_picture(evaluation(classes))):
        picture = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
        assert min(picture.shape) > 300
        assert picture.std() > 5


def test_curves_of_one_and_of_many_epochs() -> None:
    entry = {"epoch": 1, "train_loss": 2.0, "learning_rate": 0.1, "test_top1": None}
    many = [{**entry, "epoch": i, "train_loss": 2 / i, "test_top1": 50.0 if i % 5 == 0 else None} for i in range(1, 11)]
    for curve in ([entry], many):
        assert Image.open(io.BytesIO(curves_picture(curve, "a $ title"))).size[0] > 300


def test_one_epochs_loss_is_seen_behind_its_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(pictures, "png", lambda figure: drawn.append(figure) or b"")
    curves_picture([{"epoch": 1, "train_loss": 2.0, "learning_rate": 0.1, "test_top1": 50.0}], "title")
    loss, accuracy = drawn[0].axes
    assert loss.lines[0].get_markersize() > accuracy.lines[0].get_markersize()
    assert loss.get_xticks().tolist() == [1]


def test_mistakes_name_their_files(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(pictures, "png", lambda figure: drawn.append(figure) or b"")
    long = "a folder of photographs/of one day/0815.jpg"
    mistakes = tuple(Mistake(name, "cat", "dog", 0.9) for name in ("x/1.png", long))
    mistakes_picture(replace(evaluation(3), mistakes=mistakes), [np.zeros((8, 8, 3), np.uint8)] * 2)
    titles = [axes.get_title().splitlines()[0] for axes in drawn[0].axes]
    assert titles == ["x/1.png", f"…{long[-23:]}"]


def test_what_is_written(tmp_path: Path) -> None:
    found = evaluation(3)
    write(found, tmp_path / "deep" / "er", [np.zeros((8, 8, 3), np.uint8)])
    written = [tmp_path / "deep" / "er" / name for name in found.files]
    assert [path.name for path in written] == ["evaluation.json", "confusion.png", "reliability.png", "mistakes.png"]
    assert len(list(written[0].parent.iterdir())) == 4
    assert all(path.stat().st_size > 100 for path in written)
    content = json.loads(written[0].read_text("utf-8"))
    assert content["top1"] == found.top1
    assert content["confusion"] == {
        str(i): {str(j): n for j, n in enumerate(row) if n} for i, row in enumerate(found.confusion)
    }


def test_thousands_of_classes_take_little_space_and_lose_nothing() -> None:
    classes, images = 3000, 60_000
    found = evaluation(classes, images, spread=classes // 2)
    content = json.loads(json.dumps(found.to_dict(), indent=1))
    assert len(json.dumps(content, indent=1)) <= 2_000_000
    back = np.zeros((classes, classes), int)
    for row, counts in content["confusion"].items():
        for column, count in counts.items():
            back[int(row), int(column)] = count
    assert np.array_equal(back, np.array(found.confusion))
    assert back.sum() == images
    assert [c["name"] for c in content["classes"]] == [c.name for c in found.classes]
