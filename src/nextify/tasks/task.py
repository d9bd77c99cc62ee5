"""What every task gives the trainer: inputs and targets of a batch, a loss, and metrics with names and direction."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from nextify.data.share import Share
from nextify.tasks.metric_specs import MetricSpec


class Metrics(Protocol):
    """The result of an evaluation."""

    @property
    def images(self) -> int: ...

    def values(self) -> dict[str, float]:
        """The figure of each of the task's ``metric_specs``, by key, as logs and bundles record them."""


M_co = TypeVar("M_co", bound=Metrics, covariant=True)


class Task(Protocol[M_co]):
    """A task. Targets are a tensor or a list with one element per image, so that a batch can be cut in parts."""

    @property
    def metric_specs(self) -> Sequence[MetricSpec]:
        """The metrics, the main one first."""

    def training_batch(self, pixels: Tensor, targets: Any, step: int, share: Share | None) -> tuple[Tensor, Any]:
        """Augmented float32 ``(B, 3, H, W)`` inputs and their targets, on the device, from uint8 ``(B, H, W, 3)``.
        ``share``: the rows of a larger batch that these are; None for a whole one."""

    def test_batch(self, pixels: Tensor, targets: Any) -> tuple[Tensor, Any]:
        """Inputs and targets on the device, without augmentation."""

    def loss(self, outputs: Any, targets: Any, batch: int) -> Tensor:
        """The part that these images contribute to the mean loss of a batch of ``batch`` images."""

    def observe(self, model: nn.Module, inputs: Tensor, targets: Any) -> Any:
        """What the metrics need of one test batch; it must be picklable, as processes exchange it."""

    def metrics(self, observations: Sequence[Any]) -> M_co:
        """The metrics over the observations of all test batches."""
