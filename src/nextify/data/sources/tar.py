"""WebDataset shards: tar files in which ``KEY.jpg`` and ``KEY.cls`` (or ``KEY.json`` with a ``label``) are a sample.

Format: https://github.com/webdataset/webdataset (a member's key ends at the first dot of its file name). The headers
are gone through once; from then on an image is read at its offset, in any order. Labels are numbers or names;
``classes.txt`` beside the shards, one name a line, names the numbers.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nextify.data.decode import EXTENSIONS, UnreadableImage
from nextify.data.encoded import Stamp, stamp_of
from nextify.data.errors import DataError, printable, some
from nextify.data.sources.listing import Listing, Splitting, arrange, number_classes
from nextify.data.sources.shards import Shards

CLASSES_FILE = "classes.txt"
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
    image: tarfile.TarInfo | None = None
    label: str | int | None = None


def list_tar(shards: Shards, splitting: Splitting) -> Listing:
    """The images of tar shards. Reads headers and labels. Raises ``DataError``."""
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    labels: list[str | int] = []
    train_count = imageless = 0
    for number, (shard, path) in enumerate(zip(shards.files, shards.paths, strict=True)):
        samples = _samples(path)
        unlabelled = [s.key for s in samples if s.image is not None and s.label is None]
        if unlabelled:
            raise DataError(
                f"{len(unlabelled):,} images of {printable(shard)} have no label: {some(unlabelled)}; "
                f'add KEY.cls, or KEY.json with "label", beside each'
            )
        for sample in samples:
            if sample.image is None or sample.label is None:
                imageless += 1
                continue
            names.append(f"{shard}/{sample.image.name}")
            places.append((number, sample.image.offset_data, sample.image.size))
            labels.append(sample.label)
        if number < shards.train_files:
            train_count = len(names)
    classes, numbers = _classes(shards, labels)
    index = np.array(places, np.int64).reshape(-1, 3)
    images = TarMembers(shards.root, shards.files, tuple(names), index[:, 0], index[:, 1], index[:, 2])
    notes = [f"{imageless:,} samples have no image and are left out."] if imageless else []
    return arrange(shards.where, classes, images, numbers, shards.parts, train_count, splitting, notes=notes)


def _samples(path: Path) -> list[_Sample]:
    """The samples of a shard in its order. Raises ``DataError``."""
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in _members(archive):
                folder, slash, file = member.name.removeprefix("./").rpartition("/")
                stem, _, extension = file.partition(".")
                extension = extension.lower()
                if not stem or not member.isfile():
                    continue
                key = f"{folder}{slash}{stem}"
                if f".{extension}" in EXTENSIONS:
                    sample = samples.setdefault(key, _Sample(key))
                    if sample.image is not None:
                        raise DataError(f"{path.name} has two images of the key {printable(key)}: leave one")
                    sample.image = member
                elif extension in ("cls", "json"):
                    sample = samples.setdefault(key, _Sample(key))
                    held = archive.extractfile(member)
                    assert held is not None
                    label = _label(held.read(), extension, f"{path.name}/{member.name}")
                    sample.label = label if extension == "cls" or sample.label is None else sample.label
    except tarfile.TarError as error:
        raise DataError(_no_tar(path, str(error))) from None
    except OSError as error:
        raise DataError(f"{printable(str(path))} cannot be read ({error.strerror}): check the file") from None
    return list(samples.values())


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
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{printable(where)} has the label {value!r}: write a number or a name")
    return value


def _classes(shards: Shards, labels: Sequence[str | int]) -> tuple[tuple[str, ...], list[int]]:
    """Class names and each label's number. Raises ``DataError``."""
    path = shards.root / CLASSES_FILE
    if not path.is_file():
        return number_classes([str(label) for label in labels])
    classes = tuple(line.strip() for line in path.read_text("utf-8-sig", "replace").splitlines() if line.strip())
    if len(set(classes)) < len(classes):
        raise DataError(f"{CLASSES_FILE} names a class twice: write each once")
    by_name = {name: i for i, name in enumerate(classes)}
    numbers = [label if isinstance(label, int) else by_name.get(label, -1) for label in labels]
    unknown = {str(label) for label, n in zip(labels, numbers, strict=True) if not 0 <= n < len(classes)}
    if unknown:
        raise DataError(
            f"{CLASSES_FILE} has {len(classes):,} classes and not the label {some(sorted(unknown))} "
            f"(the first line is label 0): add the missing names"
        )
    return classes, numbers
