"""``nextify predict BUNDLE IMAGE…``: classify images, or find objects or regions in them."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from nextify.cli.options import (
    UNSET,
    Channels,
    ClassNames,
    Folder,
    InferenceOptions,
    check_folder,
    check_images_named,
    check_weights,
    unset,
)
from nextify.paper.settings import Range


@dataclass(frozen=True, kw_only=True)
class Options(InferenceOptions):
    """Classify images with a bundle and print the most probable classes or, for several labels per image, the labels at
    or above their thresholds. For a detector, print the objects found; for a segmenter, the shares of the classes.

    Unreadable images are reported on stderr; the others are still processed, and the exit code is 1.
    """

    bundle: Annotated[Positional[str], arg(metavar="BUNDLE")]
    """A bundle written by nextify train, a folder written by nextify export, or other weights: a file, hf:owner/name or
    timm:name."""
    images: Annotated[Positional[tuple[str, ...]], unset(metavar="IMAGE …")]
    """Files, folders (searched recursively), or patterns such as 'photos/**/*.jpg'."""
    top: Annotated[Annotated[int, Range(least=1, most=10**6)] | None, UNSET] = None
    """For a classifier: the number of classes to print per image. Default: 5; for several labels, those given."""
    least_score: Annotated[Annotated[float, Range(least=0, most=1)] | None, UNSET] = None
    """For a detector: the lowest score of an object to print. Default: 0.3; nextify evaluate prints the best value."""
    out: Folder = None
    """For a detector or segmenter: folder for copies of the images showing what was found, and for its files (COCO
    results, YOLO texts, index masks; docs/dense.md)."""
    multi_scale: Annotated[bool, UNSET] = False
    """For a segmenter: average its probabilities over six sizes of each image and their mirror images."""
    class_order: ClassNames = None
    channels: Channels = None
    csv: Annotated[bool, UNSET] = False
    """Print CSV: path, rank, class, index, probability; for objects, the score and box; for regions, the share."""

    def check(self) -> None:
        """Raises ``ValueError`` for options that exclude each other and where an image is missing,
        ``FileNotFoundError`` for no bundle."""
        if self.json and self.csv:
            raise ValueError("--json and --csv exclude each other: give one")
        check_images_named(self.images)
        check_weights(self.bundle)
        check_folder(self.out)


run = "nextify.cli.prediction:run_prediction"
