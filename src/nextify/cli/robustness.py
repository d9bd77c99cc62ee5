"""``nextify robustness BUNDLE --data PATH``: measure how corruptions of the images hurt a bundle."""

from dataclasses import dataclass
from typing import Annotated

from nextify.cli.options import UNSET, Count, Folder, MeasurementOptions, Seed, Workers, check_weights
from nextify.evaluation.corruption_names import ALEXNET, CORRUPTIONS, checked
from nextify.paper.settings import Range


@dataclass(frozen=True, kw_only=True)
class Options(MeasurementOptions):
    """Corrupt images as ImageNet-C does (15 corruptions, 5 severities) and measure a bundle's error and calibration.

    With --out, also write robustness.json, .csv, .svg, .png and .html; if the command is stopped or killed, running it
    again continues. docs/robustness.md describes the corruptions and how they differ from the published images.
    """

    corruptions: Annotated[tuple[str, ...] | None, UNSET] = None
    """Names, such as fog zoom_blur. Default: all 15."""
    severities: tuple[Annotated[int, Range(least=1, most=5)], ...] = (1, 2, 3, 4, 5)
    """Any of 1 to 5."""
    clean_only: Annotated[bool, UNSET] = False
    """Corrupt nothing: for images that are hard as they are (ImageNet-A, -R, -Sketch)."""
    present_classes: Annotated[bool, UNSET] = False
    """Predict only classes that have images among those measured, as in the protocol of ImageNet-A and -R."""
    baseline: Annotated[str | None, UNSET] = None
    """A bundle whose errors count as 100, or alexnet for AlexNet's published errors on ImageNet-C. Default: no mCE."""
    limit: Count = None
    """Measure on this many images, spread evenly over the set."""
    seed: Seed = 0
    """Seed of the corruptions' random numbers."""
    frost: Folder = None
    """Folder of the published frost pictures (frost1.png … frost5.jpg). Default: generated textures."""
    imagenet_c: Folder = None
    """Folder of the published ImageNet-C, measured instead of corrupting images here; --data holds the clean images."""
    workers: Workers = None
    """Processes that corrupt images. Default: none on a CPU, all cores but one with a GPU."""

    def check(self) -> None:
        """Raises ``ValueError`` for names that do not exist and options that exclude each other, and as for every
        measurement."""
        of_corruptions = {
            "--corruptions": self.corruptions,
            "--baseline": self.baseline,
            "--frost": self.frost,
            "--imagenet-c": self.imagenet_c,
        }
        given = [name for name, value in of_corruptions.items() if value is not None]
        if self.clean_only and given:
            raise ValueError(f"--clean-only corrupts nothing: leave {' and '.join(given)} out")
        if self.corruptions == ():
            raise ValueError("--corruptions names none: name some, or leave it out for all 15")
        checked(self.corruptions or CORRUPTIONS, self.severities, self.baseline)
        super().check()
        if self.baseline != ALEXNET:
            check_weights(self.baseline)


run = "nextify.cli.corrupting:run_robustness"
