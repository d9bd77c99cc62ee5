"""A captured step trains as an eager one; where it cannot be captured, the training goes on and says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nextify.data import Images
from nextify.training.captured import EAGER_STEPS, CapturedUpdate
from nextify.training.prepare import prepare
from nextify.training.request import Request
from nextify.training.trainer import Trainer
from nextify.training.trial import Runtime

STEPS = 8
SETTINGS: dict[str, Any] = {
    "depths": (1, 1, 1, 1),
    "widths": (8, 12, 16, 24),
    "batch_size": 32,
    "stochastic_depth": 0.3,
    "gradient_clip": 1.0,
    "precision": "fp32",
}


def trainer(images: Images, optimizer: str, runtime: Runtime | None = None) -> Trainer:
    request = Request("convnext_atto", epochs=1, settings={**SETTINGS, "optimizer": optimizer})
    return Trainer(prepare(request, images).trial, images, runtime or Runtime())


def losses(run: Trainer, steps: int = STEPS) -> list[float]:
    return [float(run.train_step(*run.batches.batch(step))) for step in range(steps)]


class Again(CapturedUpdate):
    """Executes the step on the static tensors where a device would launch its graph."""

    def __init__(self, run: Trainer) -> None:
        super().__init__(run.update, run.optimizers, self.recorded)
        self.launches = 0

    def recorded(self, function: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        filled = torch.zeros(())

        def launch() -> None:
            self.launches += 1
            with self.static():
                filled.copy_(function())

        return launch, filled


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_captured_step_trains_as_an_eager_one(digits: Images, optimizer: str) -> None:
    eager, launched = trainer(digits, optimizer), trainer(digits, optimizer)
    launched.update = update = Again(launched)
    assert losses(launched) == pytest.approx(losses(eager), rel=1e-5)  # rates are float32 there
    assert update.launches == STEPS - EAGER_STEPS
    for one, two in zip(launched.kept_weights().values(), eager.kept_weights().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    groups = [group for one in launched.optimizers for group in one.param_groups]
    assert all(isinstance(group["lr"], float) and not group.get("capturable") for group in groups)


def test_a_checkpoint_is_that_of_an_eager_training(digits: Images) -> None:
    eager, launched = trainer(digits, "adamw"), trainer(digits, "adamw")
    launched.update = Again(launched)
    losses(launched)
    eager.load_state(launched.state())
    later = [launched.batches.batch(STEPS), launched.batches.batch(STEPS + 1)]
    expected = [float(launched.train_step(*batch)) for batch in later]
    assert [float(eager.train_step(*batch)) for batch in later] == pytest.approx(expected, rel=1e-5)


def test_a_step_that_cannot_be_captured_is_eager(digits: Images) -> None:
    def refused(function: Callable[[], Tensor]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    eager, run = trainer(digits, "adamw"), trainer(digits, "adamw")
    run.update = update = CapturedUpdate(run.update, run.optimizers, refused)
    with pytest.warns(UserWarning, match="kernel by kernel: operation not permitted when stream is capturing$"):
        found = losses(run)
    assert found == losses(eager)
    assert update.launch is None


def test_capture_is_refused_where_steps_differ(digits: Images) -> None:
    with pytest.raises(ValueError, match="--capture works only for classifiers on one CUDA device, not for the cpu"):
        trainer(digits, "adamw", Runtime(capture=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_graph_trains_as_kernels_do(digits: Images, optimizer: str) -> None:
    eager = trainer(digits, optimizer, Runtime("cuda"))
    launched = trainer(digits, optimizer, Runtime("cuda", capture=True))
    assert losses(launched, 18) == pytest.approx(losses(eager, 18), rel=1e-4)
    assert isinstance(launched.update, CapturedUpdate)
    assert launched.update.failure == ""
