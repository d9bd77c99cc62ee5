"""Whether a network is about to be measured on images that it was trained on."""

from collections.abc import Sequence
from pathlib import Path

from nextify.data.dense.annotations import DenseSet
from nextify.data.images import ImageSet
from nextify.data.preflight import SPLIT_FILE, SplitRow, read_split
from nextify.weights.bundle import located


def trained_on(bundle: str | Path, sets: Sequence[ImageSet] | Sequence[DenseSet], part: str = "test") -> list[str]:
    """A sentence where some of the images to measure on, the ``part`` of a data set, were trained on; with a remedy
    where test images were."""
    among = seen_in_training(bundle, sets)
    if not among:
        return []
    then = "so the result is better than on new images"
    if part == "test":
        then = "so the result is too good: give the --split-seed of the training, or other images"
    split_file = located(bundle).parent / SPLIT_FILE
    return [f"{split_file} lists {among:,} of these {sum(map(len, sets)):,} images as trained on, {then}"]


def known_to_start(weights: str, tests: Sequence[ImageSet] | Sequence[DenseSet]) -> list[str]:
    """A sentence where a training that starts from ``weights`` would be tested on images that they were trained on, as
    far as their files tell: other images may have the same names."""
    if not (among := seen_in_training(weights, tests, by_names=False)):
        return []
    return [
        f"{weights} was trained on {among:,} of the {sum(map(len, tests)):,} images that are tested on, so the result "
        f"will be too good: start from weights that do not know them"
    ]


def seen_in_training(bundle: str | Path, sets: Sequence[ImageSet] | Sequence[DenseSet], by_names: bool = True) -> int:
    """How many images are among those that split.csv, beside the bundle of a training, lists as trained or calibrated
    on, and never as tested on; 0 where there is none.

    Images are the same if their files are; without digests (of earlier versions, or of embedded images) and with
    ``by_names``, if their names are."""
    place = located(bundle)
    if not place.exists():  # such as hf:owner/name
        return 0
    parts = read_split(place.parent)
    rows = [row for own in parts.values() for row in own]
    by_digest = all(row.digest for row in rows) and all(images.digests is not None for images in sets)
    if not by_digest and not by_names:
        return 0

    def known(row: SplitRow) -> str:
        return row.digest if by_digest else row.path

    tested, *others = ({*map(known, parts.get(name, []))} for name in ("test", "train", "calibration"))
    trained = set().union(*others) - tested
    own = (images.digest(i) if by_digest else images.name(i) for images in sets for i in range(len(images)))
    return sum(name in trained for name in own)
