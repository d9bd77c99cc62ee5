"""WebDataset shards: tar files in which ``KEY.jpg`` and ``KEY.cls`` (or ``KEY.json`` with a ``label``) are a sample.

Format: https://github.com/webdataset/webdataset, where a member's key ends at the first dot of its file name; here a
dot may also stand in a key. The headers are gone through once, and images then read at their offsets.
"""

import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nextify.data.decode import EXTENSIONS, UnreadableImage
from nextify.data.encoded import Below, Stamp, stamp_of
from nextify.data.errors import DataError, reading_of
from nextify.data.sources.columns import DIVIDING, GROUP, by_columns, groups_in, ungrouped
from nextify.data.sources.listing import Found, no_label, whole
from nextify.data.sources.parts import Splitting
from nextify.data.sources.shards import CLASSES_FILE, Shards
from nextify.system.files import parse_json
from nextify.system.text import printable

_BLOCK = 512
_Label = str | int | None


@dataclass(frozen=True, slots=True)
class Said:
    """What a ``.cls`` or ``.json`` says of its image."""

    label: _Label = None
    columns: tuple[tuple[str, str], ...] = ()
    """The fields of JSON that say its split or group, by name."""
    others: frozenset[str] = frozenset()
    """Names of its other fields."""


class TarMembers(Below):
    """Images that lie in tar files."""

    def __init__(self, root: Path, shards: Sequence[str], names: Sequence[str], places: npt.NDArray[np.int64]) -> None:
        """In the tar files ``shards`` below ``root``; ``places (N, 3)``: number of the shard, offset and size in bytes
        of each."""
        super().__init__(root, names)
        self.shards, self.places = shards, places
        self.stamps: list[Stamp] = [stamp_of(root / name) for name in shards]

    def stamp(self, index: int) -> Stamp:
        return self.stamps[int(self.places[index, 0])]

    def read(self, index: int) -> bytes:
        shard, offset, size = self.places[index].tolist()
        with open(self.root / self.shards[shard], "rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise UnreadableImage("its shard is truncated")
        return data


def list_tar(shards: Shards, splitting: Splitting) -> Found:
    """The images of tar shards. Reads headers, labels, and the splits and groups that JSON states, of which the splits
    count where the files' names say none to test on. Raises ``DataError``."""
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    told: list[Said] = []
    different: dict[Said, Said] = {}  # a large data set says the same of many images
    train_count = 0
    left = {reason: list(files) for reason, files in shards.left_out.items()}
    for number, (shard, path) in enumerate(zip(shards.files, shards.paths, strict=True)):
        for member, said in _samples(path, shard, left):
            names.append(f"{shard}/{member.name}")
            places.append((number, member.offset_data, member.size))
            told.append(different.setdefault(said, said))
        if number < shards.train_files:
            train_count = len(names)
    stated = {name for said in different for name, _ in said.columns}
    columns = {name: [dict(said.columns).get(name, "") for said in told] for name in stated}
    groups, others = groups_in(columns), {name for said in different for name in said.others}
    found = Found(
        where=shards.where,
        images=TarMembers(shards.root, shards.files, tuple(names), np.array(places, np.int64).reshape(-1, 3)),
        labels=[said.label for said in told],
        classes=_class_names(shards),
        classes_in=CLASSES_FILE,
        parts=shards.parts,
        train_count=train_count,
        groups=groups,
        notes=[] if groups else ungrouped(sorted(others), lambda name: False),
        remedy=_remedy(names, told),
        left_out=left,
    )
    return by_columns(found, columns, splitting)


def _remedy(names: Sequence[str], told: Sequence[Said]) -> str:
    """What to do about images without a label."""
    if all(said.label is None for said in told) and len({name.rpartition("/")[0] for name in names}) > 1:
        return "if the folders in it are the classes, unpack it (tar xf) and give the folder; else add KEY.cls to each"
    return 'add KEY.cls, or KEY.json with "label", next to each image (such as 1.jpg and 1.cls)'


def _samples(path: Path, shard: str, left: dict[str, list[str]]) -> list[tuple[tarfile.TarInfo, Said]]:
    """The images of a shard in its order, with what is said of each; other members go to ``left``. Raises
    ``DataError``."""
    images: dict[str, tarfile.TarInfo] = {}
    told: dict[str, Said] = {}
    try:
        with reading_of(path), tarfile.open(path, "r:") as archive:
            for member in _members(archive):
                if not member.isfile():
                    if not member.isdir():
                        left.setdefault("links within tar files", []).append(f"{shard}/{member.name}")
                    continue
                key, _, extension = member.name.removeprefix("./").rpartition(".")
                extension = extension.lower()
                if f".{extension}" in EXTENSIONS and key:
                    if key in images:
                        raise DataError(f"{path.name} has two images with the key {printable(key)}: keep one")
                    images[key] = member
                elif extension in ("cls", "json") and key:
                    held = archive.extractfile(member)
                    assert held is not None
                    own = _said(held.read(), extension, f"{path.name}/{member.name}")
                    if (before := told.get(key)) is not None:  # a .cls and a .json
                        label = own.label if extension == "cls" or before.label is None else before.label
                        own = Said(label, before.columns or own.columns, before.others | own.others)
                    told[key] = own
                else:
                    left.setdefault("members that are neither image nor label", []).append(f"{shard}/{member.name}")
    except tarfile.TarError as error:
        raise DataError(_no_tar(path, str(error))) from None
    # Each image has the label of its key, else the only one that has its key up to the first dot.
    by_first: dict[str, list[str]] = {}
    for key in told:
        if key not in images:
            by_first.setdefault(_first(key), []).append(key)
    alone = Counter(_first(key) for key in images if key not in told)
    samples = []
    for key, member in images.items():
        first = _first(key)
        if key not in told and first in images and first in told:
            left.setdefault("further images of a sample", []).append(f"{shard}/{member.name}")
        elif key not in told and alone[first] == 1 and len(by_first.get(first, ())) == 1:
            samples.append((member, told[by_first.pop(first)[0]]))
        else:
            samples.append((member, told.get(key, Said())))
    if imageless := [f"{shard}/{key}" for keys in by_first.values() for key in keys]:
        left.setdefault("labels without an image", []).extend(imageless)
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
        return f"{printable(path.name)} is compressed, so single images cannot be read from it: decompress it to a .tar"
    return f"{printable(path.name)} is not a complete tar file ({reason.splitlines()[0]}): copy it again"


def _said(data: bytes, extension: str, where: str) -> Said:
    try:
        text = data.decode("utf-8")
        value = parse_json(text) if extension == "json" else text.strip()
    except ValueError:
        raise DataError(
            f"{printable(where)} is not UTF-8 {'JSON' if extension == 'json' else 'text'}: correct it"
        ) from None
    fields: dict[str, object] = {}
    if extension == "json":
        fields = {name.strip().lower(): own for name, own in value.items()} if isinstance(value, dict) else {}
        value = whole(fields.pop("label", None))
    elif value.isdecimal():
        value = int(value)
    wanted = {name: own for name in (*DIVIDING, *GROUP) if isinstance(own := fields.pop(name, None), str | int)}
    columns = tuple((name, "" if no_label(own) else str(own).strip()) for name, own in wanted.items())
    others = frozenset(fields)
    if no_label(value):
        return Said(None, columns, others)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{printable(where)} has the label {value!r}: write a number or a name")
    return Said(value, columns, others)


def _class_names(shards: Shards) -> tuple[str, ...] | None:
    """The lines of ``classes.txt``; None where there is none. Raises ``DataError``."""
    path = shards.root / CLASSES_FILE
    if not path.is_file():
        return None
    try:
        with reading_of(path):
            lines = path.read_text("utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError:
        raise DataError(f"{CLASSES_FILE} is not UTF-8: save it as UTF-8") from None
    classes = tuple(line.strip() for line in lines)
    if not all(classes):
        raise DataError(f"line {classes.index('') + 1} of {CLASSES_FILE} is blank: write one class on each line")
    if len(set(classes)) < len(classes):
        raise DataError(f"{CLASSES_FILE} names a class twice: write each once")
    return classes
