"""The metrics of all tasks: how files, pages and terminals name them. No torch here, so that reports load quickly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricSpec:
    """One metric of a task: how files, pages and terminals name it."""

    key: str
    """Its key in ``Metrics.values()``, and in every file."""
    title: str
    unit: str
    higher_is_better: bool = True
    share_of_images: bool = False
    """Whether it is the share of the images that are right, whose interval is Wilson's."""

    def text(self, value: float) -> str:
        """Such as ``top-1 81.25 %``."""
        return f"{self.title} {value:.2f} {self.unit}".rstrip()

    @property
    def noun(self) -> str:
        """What one figure of it is called: an ``accuracy`` or, say, an ``AP``."""
        return "accuracy" if self.share_of_images else self.title


# Of each task, the main one first.
ACCURACY = (
    MetricSpec("top1", "top-1", "%", share_of_images=True),
    MetricSpec("top5", "top-5", "%", share_of_images=True),
)
LABELS = (
    MetricSpec("map", "mAP", "%"),
    MetricSpec("micro_f1", "micro F1", "%"),
    MetricSpec("macro_f1", "macro F1", "%"),
)
BOXES = (MetricSpec("ap", "AP", "%"), MetricSpec("ap50", "AP50", "%"), MetricSpec("ap75", "AP75", "%"))
MASKS = (MetricSpec("mask_ap", "mask AP", "%"), MetricSpec("mask_ap50", "mask AP50", "%"))
"""Beside ``BOXES`` where networks find masks."""
REGIONS = (MetricSpec("miou", "mIoU", "%"), MetricSpec("pixel_accuracy", "pixel accuracy", "%"))
MASKED_ERROR = MetricSpec("masked_error", "masked error", "", higher_is_better=False)

SPECS = {spec.key: spec for spec in (*ACCURACY, *LABELS, *BOXES, *MASKS, *REGIONS, MASKED_ERROR)}
TITLES = {key: spec.title for key, spec in SPECS.items()}


def summary(specs: Sequence[MetricSpec], values: Mapping[str, float]) -> str:
    """Such as ``top-1 81.25 %, top-5 95.10 %``, of the metrics that there are."""
    return ", ".join(spec.text(values[spec.key]) for spec in specs if spec.key in values)


def is_telling(key: str, classes: int | None) -> bool:
    """Whether a metric is worth showing of so many classes, None for unknown: top-5 of at most five is always 100 %."""
    return key != "top5" or classes is None or classes > 5
