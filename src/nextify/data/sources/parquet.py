"""Parquet files that hold the images themselves, as Hugging Face data sets do: a column of images, one of labels.

Format: https://huggingface.co/docs/hub/datasets-image#parquet-format (an image is a struct of ``bytes`` and ``path``;
the names of classes stand in the schema's metadata under ``huggingface``). Read with pyarrow, a row group at a time.
"""

import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nextify.data.decode import UnreadableImage
from nextify.data.encoded import Below, Stamp, stamp_of
from nextify.data.errors import DataError, reading_of
from nextify.data.sources.columns import DIVIDING, GROUP, by_columns, groups_in, ungrouped
from nextify.data.sources.listing import Found, no_label, whole
from nextify.data.sources.parts import Splitting
from nextify.data.sources.shards import Shards
from nextify.system.files import parse_json
from nextify.system.text import printable, some

ROW_GROUP_LIMIT = 512 * 2**20
"""Bytes of a row group's images above which it is refused: it has to be held whole to read one image."""
SLOW_ROW_GROUP = 4 * 2**20
"""Bytes of a row group's images from which reading it takes about as long as decoding an image."""
HELD_ROW_GROUPS = 2
"""Row groups that a process holds: two, since threads read on either side of a border."""
LABEL_NAMES = ("label", "labels", "class", "target")


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """An open ``pyarrow.parquet.ParquetFile``. Raises ``DataError`` for what is none, or without pyarrow."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError("Parquet files need pyarrow: pip install 'nextify[data]'") from None
    try:
        # Buffered and on one thread: bounded memory, and no thread pool that a forked worker would lack.
        with reading_of(path), pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            yield file
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{printable(path.name)} is not a complete Parquet file ({reason}): copy it again") from None


@dataclass(frozen=True)
class Columns:
    """Which columns of a Parquet file are meant."""

    image: str
    """Path of the column of bytes, such as ``image.bytes``."""
    label: str
    classes: tuple[str, ...] | None
    """Names of the labels 0, 1, …, where the file tells them."""
    other_labels: tuple[str, ...] = ()
    """Further columns of class labels, which are not used."""
    ungrouped: tuple[str, ...] = field(default=(), compare=False)
    """What to say of columns that may be groups, where no column is called so."""

    @property
    def notes(self) -> list[str]:
        others = some(self.other_labels)
        return [f"The classes come from the column {self.label}, not from {others}."] if others else []

    def checked(self, labels: Sequence[Any]) -> Sequence[Any]:
        """The labels of this column. Raises ``DataError`` for some that are neither numbers nor names."""
        labels = [whole(label) for label in labels]
        if odd := [label for label in labels if not no_label(label) and not isinstance(label, str | int)]:
            raise DataError(f"the column {self.label} has labels such as {odd[0]!r}: labels are numbers or names")
        return labels


class ParquetRows(Below):
    """Images that lie in rows of Parquet files. An image is read with its row group."""

    def __init__(self, root: Path, files: Sequence[str], column: str, rows: Sequence[Sequence[int]]) -> None:
        """Images in the ``column`` of bytes of ``files`` below ``root``; ``rows``: of each file, how many each row
        group has."""
        names = (f"{name}#{row}" for name, counts in zip(files, rows, strict=True) for row in range(sum(counts)))
        super().__init__(root, tuple(names))
        self.files, self.column = files, column
        self.groups = [(file, group) for file, counts in enumerate(rows) for group in range(len(counts))]
        self.ends = np.cumsum([count for counts in rows for count in counts], dtype=np.int64)
        self.stamps = [stamp_of(root / name) for name in files]
        self._forget()

    def stamp(self, index: int) -> Stamp:
        return self.stamps[self.groups[self._group_of(index)][0]]

    def read(self, index: int) -> bytes:
        if self._process != os.getpid():  # a fork, made perhaps while another thread held the lock
            self._forget()
        group = self._group_of(index)
        before = int(self.ends[group - 1]) if group else 0
        with self._lock:
            if group not in self._held:
                self._held[group] = self._load(*self.groups[group])
                if len(self._held) > HELD_ROW_GROUPS:
                    self._held.pop(next(iter(self._held)))
            data = self._held[group][index - before].as_py()
        if data is None:
            raise UnreadableImage("no bytes in its row")
        return bytes(data)

    def _group_of(self, index: int) -> int:
        return int(np.searchsorted(self.ends, index, side="right"))

    def _load(self, file: int, group: int) -> Any:
        """The bytes of a row group's images, as an Arrow array."""
        import pyarrow

        with reading(self.root / self.files[file]) as opened:
            column = opened.read_row_group(group, columns=[self.column], use_threads=False).column(0)
        if "." not in self.column:
            return column
        return pyarrow.chunked_array([chunk.field(0) for chunk in column.chunks])

    def _forget(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._held: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_process", "_lock", "_held")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget()


def holds_images(path: Path) -> bool:
    """Whether a Parquet file has a column of encoded images; otherwise it may list paths. Raises ``DataError``, also
    for a column of images that holds paths and no bytes."""
    with reading(path) as file:
        schema = file.schema_arrow
    import pyarrow.types as types

    for column in schema:
        if types.is_struct(column.type) and any(types.is_null(f.type) for f in column.type if f.name == "bytes"):
            raise DataError(
                f"{printable(path.name)}: the column {printable(column.name)} holds no bytes of images: write the "
                f"images into it, or give a table of the columns path and label"
            )
    return bool(_image_columns(schema))


def list_parquet(shards: Shards, splitting: Splitting) -> Found:
    """The images in Parquet files. Reads metadata, labels, and the columns that say a row's split and group, of which
    the split counts where the files' names say none to test on. Raises ``DataError``."""
    columns: Columns | None = None
    labels: list[Any] = []
    stated: dict[str, list[str]] = defaultdict(list)  # the cells of other columns that matter
    rows: list[list[int]] = []
    largest = train_count = 0
    for number, (name, path) in enumerate(zip(shards.files, shards.paths, strict=True)):
        with reading(path) as file:
            own = _columns_of(file.schema_arrow, name)
            if columns is not None and own != columns:
                raise DataError(f"{printable(name)} does not have the columns or classes of "
                                f"{printable(shards.files[0])}: "
                                f"give files of one data set")  # fmt: skip
            columns = own
            metadata = file.metadata
            rows.append([metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)])
            largest = max(largest, _largest_group(metadata, columns.image))
            labels += file.read(columns=[columns.label], use_threads=False).column(0).to_pylist()
            for wanted, column in _wanted(file.schema_arrow.names, columns).items():
                values = file.read(columns=[column], use_threads=False).column(0).to_pylist()
                stated[wanted] += ["" if no_label(value) else str(value).strip() for value in values]
        if number < shards.train_files:
            train_count = len(labels)
    assert columns is not None
    if largest > ROW_GROUP_LIMIT:
        raise DataError(
            f"{shards.where} has row groups of up to {largest / 2**20:,.0f} MiB of images, and reading one image "
            f"loads a whole group: write the files with row_group_size=10"
        )
    slow = (
        f"Reading an image loads its row group of up to {largest / 2**20:,.0f} MiB, which is slow: "
        f"files written with row_group_size=10, or tar shards, are faster."
    )
    stated = {name: cells for name, cells in stated.items() if len(cells) == len(labels)}  # those of all files
    groups = groups_in(stated)
    found = Found(
        where=shards.where,
        images=ParquetRows(shards.root, shards.files, columns.image, rows),
        labels=columns.checked(labels),
        classes=columns.classes,
        classes_in=f"the column {columns.label}",
        parts=shards.parts,
        train_count=train_count,
        groups=groups,
        notes=[*columns.notes, *(columns.ungrouped if groups is None else [])],
        left_out=shards.left_out,
        undecoded_note=slow if largest > SLOW_ROW_GROUP else "",
    )
    return by_columns(found, stated, splitting)


def _wanted(names: Sequence[str], columns: Columns) -> dict[str, str]:
    """The columns of splits and groups by their names in lower case."""
    taken = {columns.label, columns.image, columns.image.removesuffix(".bytes")}
    lower = {name.strip().lower(): name for name in names if name not in taken}
    return {name: lower[name] for name in (*DIVIDING, *GROUP) if name in lower}


def choose_columns(
    where: str, names: Sequence[str], images: Sequence[str], labels: Mapping[str, Sequence[str]]
) -> Columns:
    """The column of images and that of labels: of several, one that is called so, else the first. Of all ``names``,
    ``images`` hold encoded images, and ``labels`` class labels, with the names of their classes. Raises ``DataError``
    for no column of images, or several, and for none of labels."""
    there = f"(its columns: {some(names)})"
    if len(images) != 1:
        raise DataError(f"{where} has {len(images) or 'no'} columns of encoded images {there}: it needs exactly one, "
                        f"either binary or a struct of bytes and path")  # fmt: skip
    found = sorted(labels, key=lambda name: name not in LABEL_NAMES)
    found = found or [name for name in names if name.lower() in LABEL_NAMES]
    if not found:
        raise DataError(f"{where} has no column label {there}: rename or add it")
    label, *others = found
    return Columns(images[0], label, tuple(map(str, labels.get(label, ()))) or None, tuple(others))


def _columns_of(schema: Any, name: str) -> Columns:
    labels = {
        column: feature.get("names") or ()
        for column, feature in _features(schema).items()
        if column in schema.names and isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }
    in_order = {column: labels[column] for column in schema.names if column in labels}
    chosen = choose_columns(printable(name), schema.names, _image_columns(schema), in_order)
    classes = {chosen.label, *chosen.other_labels}
    return replace(chosen, ungrouped=tuple(ungrouped(schema.names, lambda name: name in classes)))


def _features(schema: Any) -> dict[str, object]:
    """What Hugging Face's metadata says of the columns; empty where there is none."""
    try:
        found = parse_json(schema.metadata[b"huggingface"])["info"]["features"]
    except (TypeError, KeyError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _image_columns(schema: Any) -> list[str]:
    import pyarrow.types as types

    def holds_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    found = []
    for column in schema:
        if holds_bytes(column.type):
            found.append(column.name)
        elif types.is_struct(column.type):
            inner = {column.type.field(i).name: column.type.field(i).type for i in range(column.type.num_fields)}
            if "bytes" in inner and holds_bytes(inner["bytes"]):
                found.append(f"{column.name}.bytes")
    return found


def _largest_group(metadata: Any, column: str) -> int:
    """Bytes, uncompressed."""
    groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
    columns = ([group.column(c) for c in range(group.num_columns)] for group in groups)
    sizes = (sum(c.total_uncompressed_size for c in own if c.path_in_schema == column) for own in columns)
    return max(sizes, default=0)
