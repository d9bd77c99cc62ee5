"""WebDataset shards: tar files in which ``KEY.jpg`` and ``KEY.cls`` (or ``KEY.json`` with a ``label``) are a sample.

Format: https://github.com/webdataset/webdataset, where a member's key ends at the first dot of its file name. Here a
dot may also stand in a key, as long as image and label share all of it. The headers are gone through once; from then on
an image is read at its offset, in any order. Labels are numbers or names; ``classes.txt`` beside the shards, one name a
line, names the numbers.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nextify.data.decode import EXTENSIONS, UnreadableImage
from nextify.data.encoded import Stamp, stamp_of
from nextify.data.errors import DataError, printable, some
from nextify.data.sources.listing import Listing, Splitting, arrange, no_label, number_labels
from nextify.data.sources.shards import CLASSES_FILE, Shards

_BLOCK = 512


class TarMembers:
    """Images that lie in tar files."""

    def __init__(
        self,
        root: Path,
        shards: Sequence[str],
        names: Sequence[str],
        shard: npt.NDArray[np.int64],
        offset: npt.NDArray[np.int64],
        size: npt.NDArray[np.int64],
    ) -> None:
        """
        Args:
            shards: the tar files below ``root``.
            names, shard, offset, size: of each image; ``offset`` and ``size`` in bytes.
        """
        self.root, self.shards, self.names = root, shards, names
        self.shard, self.offset, self.size = shard, offset, size
        self.stamps: list[Stamp] = [stamp_of(root / name) for name in shards]

    @property
    def place(self) -> str:
        return str(self.root.resolve())

    def stamp(self, index: int) -> Stamp:
        return self.stamps[int(self.shard[index])]

    def read(self, index: int) -> bytes:
        size = int(self.size[index])
        with open(self.root / self.shards[self.shard[index]], "rb") as file:
            file.seek(int(self.offset[index]))
            data = file.read(size)
        if len(data) < size:
            raise UnreadableImage("its shard is cut off")
        return data


@dataclass(slots=True)
class _Sample:
    key: str
    image: tarfile.TarInfo
    label: str | int | None = None


def list_tar(shards: Shards, splitting: Splitting) -> Listing:
    """The images of tar shards. Reads headers and labels. Raises ``DataError``."""
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    labels: list[str | int] = []
    train_count = 0
    left: dict[str, list[str]] = {reason: list(files) for reason, files in shards.left_out.items()}
    for number, (shard, path) in enumerate(zip(shards.files, shards.paths, strict=True)):
        samples, imageless = _samples(path)
        for reason, members in imageless.items():
            left.setdefault(reason, []).extend(f"{shard}/{member}" for member in members)
        unlabelled = [s.key for s in samples if s.label is None]
        if unlabelled and (len(unlabelled) < len(samples) or number < shards.train_files):
            raise DataError(
                f"{len(unlabelled):,} images of {printable(shard)} have no label: {some(unlabelled)}; "
                f'add KEY.cls, or KEY.json with "label", beside each (such as 1.jpg and 1.cls)'
            )
        for sample in samples:
            names.append(f"{shard}/{sample.image.name}")
            places.append((number, sample.image.offset_data, sample.image.size))
            labels.append("" if sample.label is None else sample.label)
        if number < shards.train_files:
            train_count = len(names)
    classes, numbers = number_labels(labels, _class_names(shards), CLASSES_FILE)
    index = np.array(places, np.int64).reshape(-1, 3)
    images = TarMembers(shards.root, shards.files, tuple(names), index[:, 0], index[:, 1], index[:, 2])
    return arrange(shards.where, classes, images, numbers, shards.parts, train_count, splitting, left_out=left)


def _samples(path: Path) -> tuple[list[_Sample], dict[str, list[str]]]:
    """The samples of a shard in its order, and the names of its other members by reason. Raises ``DataError``."""
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, str | int | None] = {}
    left: dict[str, list[str]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in _members(archive):
                if not member.isfile():
                    continue
                key, _, extension = member.name.removeprefix("./").rpartition(".")
                extension = extension.lower()
                if f".{extension}" in EXTENSIONS and key:
                    if key in images:
                        raise DataError(f"{path.name} has two images of the key {printable(key)}: leave one")
                    images[key] = member
                elif extension in ("cls", "json") and key:
                    held = archive.extractfile(member)
                    assert held is not None
                    label = _label(held.read(), extension, f"{path.name}/{member.name}")
                    labels[key] = label if extension == "cls" or labels.get(key) is None else labels[key]
                else:
                    left.setdefault("members that are neither image nor label", []).append(member.name)
    except tarfile.TarError as error:
        raise DataError(_no_tar(path, str(error))) from None
    except OSError as error:
        raise DataError(f"{printable(str(path))} cannot be read ({error.strerror}): check the file") from None
    return _paired(images, labels, left), left


def _paired(
    images: dict[str, tarfile.TarInfo], labels: dict[str, str | int | None], left: dict[str, list[str]]
) -> list[_Sample]:
    """Each image with the label of its key, else with the only one that has its key up to the first dot."""
    by_first: dict[str, list[str]] = {}
    for key in labels:
        if key not in images:
            by_first.setdefault(_first(key), []).append(key)
    alone = Counter(_first(key) for key in images if key not in labels)
    samples = []
    for key, member in images.items():
        first = _first(key)
        if key not in labels and first in images and first in labels:
            left.setdefault("further images of a sample", []).append(member.name)
        elif key not in labels and alone[first] == 1 and len(by_first.get(first, ())) == 1:
            (other,) = by_first.pop(first)
            samples.append(_Sample(key, member, labels[other]))
        else:
            samples.append(_Sample(key, member, labels.get(key)))
    if imageless := [key for keys in by_first.values() for key in keys]:
        left["labels without an image"] = imageless
    return samples


def _first(key: str) -> str:
    folder, slash, file = key.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        yield member
        archive.members.clear()  # type: ignore[attr-defined]  # else all headers of a shard are held
    # At a header that it cannot read, Python's reader stops as if the archive ended there.
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(_BLOCK).strip(b"\0"):
        raise tarfile.ReadError("damaged header")


def _no_tar(path: Path, reason: str) -> str:
    with open(path, "rb") as file:
        start = file.read(6)
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return f"{printable(path.name)} is compressed, so its images cannot be reached singly: decompress it to a .tar"
    return f"{printable(path.name)} is no whole tar file ({reason.splitlines()[0]}): copy it again"


def _label(data: bytes, extension: str, where: str) -> str | int | None:
    try:
        text = data.decode("utf-8")
        value = json.loads(text) if extension == "json" else text.strip()
    except ValueError:
        raise DataError(
            f"{printable(where)} is no UTF-8 {'JSON' if extension == 'json' else 'text'}: correct it"
        ) from None
    if extension == "json":
        value = value.get("label") if isinstance(value, dict) else None
    elif value.isdecimal():
        value = int(value)
    if no_label(value):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{printable(where)} has the label {value!r}: write a number or a name")
    return value


def _class_names(shards: Shards) -> tuple[str, ...] | None:
    """The lines of ``classes.txt``; None where there is none. Raises ``DataError``."""
    path = shards.root / CLASSES_FILE
    if not path.is_file():
        return None
    classes = tuple(line.strip() for line in path.read_text("utf-8-sig", "replace").splitlines() if line.strip())
    if len(set(classes)) < len(classes):
        raise DataError(f"{CLASSES_FILE} names a class twice: write each once")
    return classes
