"""``nextify evaluate BUNDLE --data PATH``: measure a bundle on your images."""

from dataclasses import dataclass
from typing import Annotated

from nextify.cli.options import UNSET, MeasurementOptions
from nextify.paper.settings import Range


@dataclass(frozen=True, kw_only=True)
class Options(MeasurementOptions):
    """Measure a bundle on images: top-1, top-5, per-class accuracy, confusion matrix and calibration; for several
    labels per image, mAP and F1; for a detector, average precision; for a segmenter, mean IoU.

    With --out, also write evaluation.json and figures, such as the confusion matrix and the worst mistakes. Processes
    started by torchrun share the images.
    """

    ignore_index: Annotated[Annotated[int, Range(least=0, most=255)] | None, UNSET] = None
    """For index masks: pixels with this index do not count, nor do those with 255. Default: as given to nextify
    train, which the bundle stores; 255 counts it."""
    multi_scale: Annotated[bool, UNSET] = False
    """For a segmenter: average its probabilities over six sizes of each image, from half to 1.75 times, and their
    mirror images, as the paper's Table 4 does; it takes about 17 times as long."""


run = "nextify.cli.evaluation:run_evaluation"
