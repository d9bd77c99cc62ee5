"""Index masks: a folder of images beside a folder of masks of the same names, each pixel of which is a class's index.

Masks are grayscale or palette images of 8 bits. 255 is ignored, and so is a class whose name says so (unlabelled, void,
ignore). Where all masks hold 0 and 255 only, 255 is class 1.
"""

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from nextify.data.decode import UnreadableImage, refusing, why_unread
from nextify.data.dense.annotations import IGNORED, MOST_CLASSES, IndexMask
from nextify.data.dense.found import Annotated, Picture, as_list, class_names, part_lists, text_list
from nextify.data.encoded import read_file
from nextify.data.errors import DataError
from nextify.data.sources.annotated import Pair, pairs
from nextify.data.sources.folder import images_below
from nextify.data.sources.parts import Splitting, as_folder, choose_parts, natural
from nextify.system.text import plural, printable, some

_SAID_IGNORED = frozenset({"unlabelled", "unlabeled", "ignore", "ignored", "void", "dontcare", "don't care"})
_SUFFIX = re.compile(r"[_-](mask|masks|gt|label|labels|labelids|seg|segmentation|annotation|l)$", re.IGNORECASE)
"""What the name of a mask's file may add to its image's."""


def list_masks(root: Path, splitting: Splitting) -> Annotated:
    """The images of a folder beside masks, or of one such pair per part. Raises ``DataError``."""
    where = printable(str(root))
    folders = pairs(root, "image")
    lists = part_lists([root / "ImageSets" / "Segmentation"]) if [*folders] == [""] else {}
    left: dict[str, list[str]] = {}
    parts = choose_parts(lists or folders, where, splitting, as_list if lists else as_folder)
    if lists:
        by_stem = {
            os.path.splitext(os.path.basename(one.path))[0]: one for one in _part(folders[""], left, partly=True)
        }
        made = {name: _listed(by_stem, lists[name]) for name in parts.used}
        left.clear()
    else:
        made = {name: _part(folders[name], left) for name in parts.used}
    known = class_names([root, *{pair.annotations for pair in folders.values()}])
    return Annotated(
        where=where,
        parts=parts,
        made=made,
        classes=None if known is None else known[0],
        notes=[] if known is None else [f"Class names come from {known[1]}."],
        left_out=left,
    )


def _part(pair: Pair, left: dict[str, list[str]], *, partly: bool = False) -> list[Picture]:
    images, masks = ({os.path.splitext(name)[0]: name for name in images_below(folder)} for folder in pair)
    if not images.keys() & masks.keys():
        masks = {_SUFFIX.sub("", stem): name for stem, name in masks.items()}
    for folder, kept in zip(pair, (images, masks), strict=True):
        if others := sorted({*images_below(folder)} - {*kept.values()}, key=natural):
            raise DataError(f"{printable(str(folder))} has {plural(len(others), 'file')} named like another but for "
                            f"the ending: {some(others)}; keep one of each name")  # fmt: skip
    shown = f"{printable(pair.images.name)}/", f"{printable(pair.annotations.name)}/"
    if (bare := sorted(images.keys() - masks.keys(), key=natural)) and not partly:
        count = plural(len(bare), "image", "images")
        raise DataError(
            f"{count} of {len(images):,} in {printable(str(pair.images))} have no mask of the same name in "
            f"{printable(str(pair.annotations))}: {some([images[stem] for stem in bare])}; add them, or leave the "
            f"images out"
        )
    if alone := sorted(masks.keys() - images.keys(), key=natural):
        left.setdefault(f"masks in {shown[1]} without an image in {shown[0]}", []).extend(masks[s] for s in alone)
    return [
        Picture(os.path.abspath(pair.images / images[stem]), mask=str(pair.annotations / masks[stem]))
        for stem in sorted(images.keys() & masks.keys(), key=natural)
    ]


def _listed(by_stem: Mapping[str, Picture], path: Path) -> list[Picture]:
    wanted = text_list(path)
    if lost := [stem for stem in wanted if stem not in by_stem]:
        count = plural(len(lost), "image")
        raise DataError(f"{printable(path.name)} lists {count} without a file or a mask: {some(lost)}; "
                        f"add them, or correct the list")  # fmt: skip
    return [by_stem[stem] for stem in wanted]


# -- what lies in the masks ----------------------------------------------------------------------------------------


def read_mask(path: str) -> IndexMask:
    """The values of a mask's pixels as they are stored: ``(H, W)``. Raises ``DataError``."""
    name = printable(os.path.basename(path))
    try:
        data = read_file(path)
        with refusing(data), Image.open(io.BytesIO(data)) as image:
            mode, lossy, values = image.mode, image.format in ("JPEG", "MPO"), np.asarray(image)
    except (OSError, UnreadableImage) as error:
        raise DataError(f"the mask {name} cannot be read ({why_unread(error)}): replace it") from None
    if mode not in ("L", "P", "1") and not mode.startswith("I"):
        raise DataError(f"the mask {name} holds colours ({mode}), not class indices: store it as an 8-bit grayscale "
                        f"or palette PNG, or give only the folder images/ to classify them")  # fmt: skip
    if lossy:
        raise DataError(f"the mask {name} is a JPEG, which changes class indices along every edge: draw the masks "
                        f"again and store them as PNG")  # fmt: skip
    if mode.startswith("I") and values.min(initial=0) < 0:
        raise DataError(f"the mask {name} holds the value {values.min()}, which is no class: store pixels to ignore as "
                        f"{IGNORED}")  # fmt: skip
    if values.max(initial=0) > IGNORED:
        raise DataError(f"the mask {name} holds the value {values.max()}, but only {MOST_CLASSES} classes are "
                        f"possible: correct it, or merge classes")  # fmt: skip
    return values.astype(np.uint8)


class StoredMasks:
    """Masks that are read each time; ``table (256,)`` gives the class of each stored value."""

    def __init__(self, paths: Sequence[str], table: IndexMask) -> None:
        self.paths, self.table = paths, table

    def __getitem__(self, index: int) -> IndexMask:
        return self.table[read_mask(self.paths[index])]


def class_table(
    values: npt.NDArray[np.bool_], trained: npt.NDArray[np.bool_], names: tuple[str, ...] | None, ignored: int | None
) -> tuple[tuple[str, ...], IndexMask, list[str]]:
    """The classes, the class of each stored value ``(256,)``, and what to say.

    Args:
        values: ``(256,)``, which occur in any mask, and ``trained`` in one to train on.
        names: of the values from 0; None names them by their numbers.
        ignored: a value that is ignored beside 255.
    """
    notes = []
    table = np.full(256, IGNORED, np.uint8)
    binary = names is None and values[0] and not values[1:IGNORED].any() and values[IGNORED] and ignored is None
    if binary:
        table[0], table[IGNORED] = 0, 1
        return ("background", "foreground"), table, ["The masks hold only 0 and 255: 255 is class 1, foreground."]
    if names is None:
        names = tuple(map(str, range(indexed(trained, ignored))))
        notes.append("There is no classes.txt: classes are named by their indices in the masks.")
    skipped = {i for i, name in enumerate(names) if name.casefold() in _SAID_IGNORED}
    skipped |= set() if ignored is None else {ignored}
    for i in sorted(skipped):
        said = "" if i >= len(names) or names[i].isdigit() else f" ({printable(names[i])})"
        notes.append(f"Pixels of index {i}{said} are ignored.")
    kept = [i for i in range(len(names)) if i not in skipped]
    table[kept] = np.arange(len(kept))
    if kept != list(range(len(kept))):
        notes.append("The indices above move down to close the gap, in the masks that nextify predict writes as well.")
    return tuple(names[i] for i in kept), table, notes


def indexed(trained: npt.NDArray[np.bool_], ignored: int | None) -> int:
    """How many classes masks have that nothing names: one for each index up to the highest ``trained (256,)``."""
    return max((value for value in np.flatnonzero(trained[:IGNORED]).tolist() if value != ignored), default=0) + 1


def unknown_values(present: npt.NDArray[np.bool_], known: int, ignored: int | None) -> Iterator[int]:
    """Values ``present (256,)`` in a mask that are neither classes, of which ``known`` are, nor ignored."""
    yield from (int(v) for v in np.flatnonzero(present[:IGNORED]) if v >= known and v != ignored)
