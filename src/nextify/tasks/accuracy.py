"""Top-1 and top-5 accuracy, the metrics of classification. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass

from nextify.tasks.task import MetricSpec

SPECS = (
    MetricSpec("top1", "top-1", "%", share_of_images=True),
    MetricSpec("top5", "top-5", "%", share_of_images=True),
)


def telling(specs: Sequence[MetricSpec], classes: int | None) -> list[MetricSpec]:
    """The metrics worth showing of so many classes, None for unknown: top-5 of at most five is always 100 %."""
    return [spec for spec in specs if spec.key != "top5" or classes is None or classes > 5]


@dataclass(frozen=True)
class Accuracy:
    top1: float
    """Percent of the images whose class has the highest logit."""
    top5: float
    """Percent of the images whose class is among the five highest logits (all classes where there are fewer)."""
    images: int
    right: bytes = b""
    """Of each image in the order of the test batches, 1 if its class has the highest logit; empty if unknown."""

    def values(self) -> dict[str, float]:
        return {"top1": self.top1, "top5": self.top5}
