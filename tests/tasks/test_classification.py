"""The task seam: classification's loss and metrics, and a second task that the trainer takes as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextify.data import Images, open_images
from nextify.data.share import Share
from nextify.paper.recipe import CONVNEXT, Mixing, Recipe
from nextify.tasks.classification import Accuracy, Classification, Hits, Inference, class_weights, fitted_temperature
from nextify.tasks.metric_specs import MetricSpec, summary
from nextify.training.trainer import Trainer
from nextify.training.trial import Runtime
from tests.training.helpers import small_trial

PLAIN = Recipe(
    epochs=1,
    warmup_epochs=0.0,
    batch_size=100,
    mixing="off",
    random_erasing=0.0,
    label_smoothing=0.0,
    crop="none",
    horizontal_flip=0.0,
)


def classification(recipe: Recipe = PLAIN, weights: Tensor | None = None) -> Classification:
    return Classification(recipe, 4, (0.5,) * 3, (0.5,) * 3, 0, torch.device("cpu"), weights)


@pytest.fixture
def answers() -> tuple[Tensor, Tensor]:
    """Logits (10, 4) and labels of classes 0, 1 and 3."""
    return torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0] * 6 + [1] * 3 + [3])


def test_the_loss_on_plain_labels_is_torchs(answers: tuple[Tensor, Tensor]) -> None:
    logits, labels = answers
    assert torch.equal(classification().loss(logits, labels, 10), F.cross_entropy(logits, labels))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_parts_of_a_batch_sum_to_its_loss(answers: tuple[Tensor, Tensor], weighted: bool) -> None:
    logits, labels = answers
    task = classification(weights=class_weights(labels.numpy(), 4) if weighted else None)
    parts = sum(task.loss(logits[rows], labels[rows], 10) for rows in (slice(0, 7), slice(7, 10)))
    torch.testing.assert_close(parts, task.loss(logits, labels, 10))


def test_class_weights_by_hand(answers: tuple[Tensor, Tensor]) -> None:
    logits, labels = answers
    weights = class_weights(labels.numpy(), 4)
    assert weights[[0, 1, 3]].tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    by_hand = sum(-float(weights[y] * logits[i].log_softmax(-1)[y]) for i, y in enumerate(labels.tolist())) / 10
    assert float(classification(weights=weights).loss(logits, labels, 10)) == pytest.approx(by_hand, rel=1e-5)


def test_smoothing_is_in_the_targets_once(answers: tuple[Tensor, Tensor]) -> None:
    logits, labels = answers
    task = classification(PLAIN.with_(label_smoothing=0.1))
    _, targets = task.training_batch(torch.zeros(10, 8, 8, 3, dtype=torch.uint8), labels, 0, None)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(task.loss(logits, targets, 10), expected)


def test_class_weights_multiply_the_whole_loss_of_an_image(answers: tuple[Tensor, Tensor]) -> None:
    """Also what smoothing gives to the other classes, so that each image is best given its own class."""
    logits, labels = answers
    weights = torch.tensor([0.01, 1.0, 7.0, 50.0])
    task = classification(PLAIN.with_(label_smoothing=0.1), weights)
    pixels = torch.zeros(10, 8, 8, 3, dtype=torch.uint8)
    _, targets = task.training_batch(pixels, labels, 0, None)
    each = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(task.loss(logits, targets, 10), (weights[labels] * each).sum() / 10)
    best = targets.log().requires_grad_()
    (gradient,) = torch.autograd.grad(task.loss(best, targets, 10), best)
    torch.testing.assert_close(gradient, torch.zeros(10, 4), atol=1e-6, rtol=0)


def test_class_weights_of_mixed_images_are_in_their_shares(answers: tuple[Tensor, Tensor]) -> None:
    logits, labels = answers
    weights = torch.tensor([0.01, 1.0, 7.0, 50.0])
    for smoothing in (0.0, 0.1):
        task = classification(PLAIN.with_(label_smoothing=smoothing, mixing=Mixing(mixup=0.8)), weights)
        pixels = torch.zeros(10, 8, 8, 3, dtype=torch.uint8)
        _, targets = task.training_batch(pixels, labels, 0, None)
        whole = PLAIN.with_(mixing=Mixing(mixup=0.8))
        _, shares = classification(whole).training_batch(pixels, labels, 0, None)  # of the same draws
        assert len(shares.unique()) > 2
        of_class = [F.cross_entropy(logits, torch.full((10,), k), label_smoothing=smoothing, reduction="none")
                    for k in range(4)]  # fmt: skip
        expected = (shares * weights * torch.stack(of_class, 1)).sum() / 10
        torch.testing.assert_close(task.loss(logits, targets, 10), expected)


def test_metrics_of_counts() -> None:
    task = classification()
    found = task.metrics([Hits(1, 3, 4), Hits(2, 4, 4)])
    assert found == Accuracy(37.5, 87.5, 8)
    assert list(found.values()) == [spec.key for spec in task.metric_specs] == ["top1", "top5"]
    assert summary(task.metric_specs, found.values()) == "top-1 37.50 %, top-5 87.50 %"
    for nothing in ([], [Hits(0, 0, 0)]):
        with pytest.raises(ValueError, match="no images"):
            task.metrics(nothing)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_a_temperature_is_found_again(temperature: float) -> None:
    rng = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 7, generator=rng)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=rng)[:, 0]
    assert fitted_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.03)


def test_images_that_are_all_right_are_not_believed_without_doubt() -> None:
    labels = torch.arange(50) % 5
    logits = F.one_hot(labels, 5).float()
    confidence = (logits / fitted_temperature(logits, labels)).softmax(-1).amax(-1)
    assert 0.9 < float(confidence.mean()) < 1 - 1 / 100


def test_a_temperature_changes_probabilities_and_no_order() -> None:
    model, images = torch.nn.Flatten(), torch.randn(6, 1, 2, 2)
    plain, sharp = (Inference.of(None, temperature).logits(model, images) for temperature in (1.0, 0.5))
    assert torch.equal(sharp, plain / 0.5)
    assert Inference.of(CONVNEXT, 0.5).temperature == 0.5


def test_mirrored_inference_counts_the_mean_of_both() -> None:
    class Left(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0, 0, :]  # the first row's pixels are the logits

    x = torch.zeros(1, 3, 4, 4)
    x[0, 0, 0] = torch.tensor([3.0, 2.0, 2.0, 0.0])  # with its mirror image: 1.5, 2, 2, 1.5
    label = torch.tensor([0])
    assert classification().observe(Left(), x, label).top1 == 1
    assert classification(PLAIN.with_(test_mirror="on")).observe(Left(), x, label).top1 == 0


# -- a second task -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distance:
    mean_absolute_error: float
    images: int

    def values(self) -> dict[str, float]:
        return {"mean_absolute_error": self.mean_absolute_error}


class MeanColour:
    """Regress an image's mean colour, whatever its label; targets are a list, as those of detection are."""

    metric_specs = (MetricSpec("mean_absolute_error", "error", "", higher_is_better=False),)

    def training_batch(
        self, pixels: Tensor, targets: Tensor, step: int, share: Share | None
    ) -> tuple[Tensor, list[Tensor]]:
        return self.test_batch(pixels, targets)

    def test_batch(self, pixels: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = pixels.permute(0, 3, 1, 2) / 255
        return x, list(x.mean((2, 3)))

    def loss(self, outputs: Tensor, targets: list[Tensor], batch: int) -> Tensor:
        return F.mse_loss(outputs, torch.stack(targets), reduction="sum") / batch

    def observe(self, model: nn.Module, inputs: Tensor, targets: list[Tensor]) -> tuple[float, int]:
        return float((model(inputs) - torch.stack(targets)).abs().mean(1).sum()), len(targets)

    def metrics(self, observations: Sequence[Any]) -> Distance:
        errors, images = map(sum, zip(*observations, strict=True))
        return Distance(errors / images, images)


@pytest.fixture(scope="module")
def digits() -> Images:
    return open_images("digits")


@pytest.mark.parametrize("parts", [1, 3])
def test_another_task_trains_without_the_trainer_knowing(digits: Images, parts: int) -> None:
    trial = small_trial("separate_downsampling", PLAIN.with_(learning_rate=2e-3, stochastic_depth=0.0, ema="off"))
    trial = replace(trial, data=replace(trial.data, num_classes=3))
    task = MeanColour()
    trainer = Trainer(trial, digits, Runtime(accumulation=parts), task=task)
    before = trainer.evaluate()
    batch = trainer.batches.batch(0)
    x, targets = task.test_batch(*batch)
    with torch.no_grad():
        expected = float(task.loss(trainer.model.train()(x), targets, 100))
    losses = [float(trainer.train_step(*batch)) for _ in range(2)]
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[1] < losses[0]
    after = trainer.evaluate()
    assert before.images == after.images == len(digits.test)
    (spec,) = task.metric_specs
    assert (after.values()[spec.key] > before.values()[spec.key]) == spec.higher_is_better
    assert np.isfinite(list(after.values().values())).all()
