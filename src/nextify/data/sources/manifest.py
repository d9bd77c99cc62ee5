"""A manifest: a CSV or Parquet table of ``path``, ``label`` and, if wanted, ``split``; a row an image.

A path is relative to the manifest's folder. A label is any text or number. A split is ``train``, ``val``, ``valid``,
``validation`` or ``test``. Further columns are ignored. CSV is UTF-8 with a line of column names; its delimiter is the
one that gives the columns (comma, semicolon, tab or bar). CSV is read with the standard library alone.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nextify.data.encoded import Files
from nextify.data.errors import DataError, printable, some
from nextify.data.sources.listing import Listing, Splitting, arrange, choose_parts, is_part, number_classes

DELIMITERS = (",", ";", "\t", "|")
NEEDED = ("path", "label")
SPLIT = "split"


@dataclass(frozen=True)
class Table:
    """The columns of a manifest; what stands in no cell is empty."""

    paths: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str] | None
    rows: Sequence[int]
    """Each entry's line in a CSV file, or row, from 1."""


def list_manifest(path: Path, splitting: Splitting) -> Listing:
    """The images of a manifest. Looks at no image. Raises ``DataError``."""
    where = printable(path.name)
    table = read_parquet(path) if path.suffix.lower() == ".parquet" else read_csv(path)
    if not table.paths:
        raise DataError(f"{where} has no rows: it needs one for each image")
    _none_empty(where, "path", table.paths, table.rows)
    _none_empty(where, "label", table.labels, table.rows)
    entries = range(len(table.paths))
    parts, train_count = None, len(table.paths)
    if table.splits is not None:
        splits = [split.strip().lower() for split in table.splits]
        _known_splits(where, splits, table.rows)
        parts = choose_parts(sorted(set(splits)), where)
        of_part = [[i for i in entries if splits[i] == used] for used in parts.used]
        train_count = len(of_part[0])
        chosen = [i for entries_of_part in of_part for i in entries_of_part]
    else:
        chosen = list(entries)
    classes, labels = number_classes([table.labels[i] for i in chosen])
    images = Files(path.parent, tuple(table.paths[i] for i in chosen))
    return arrange(where, classes, images, labels, parts, train_count, splitting)


def read_csv(path: Path) -> Table:
    """Raises ``DataError``: not UTF-8, a missing column, a row with more cells than there are columns."""
    where = printable(path.name)
    paths: list[str] = []
    labels: list[str] = []
    splits: list[str] = []
    lines: list[int] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            delimiter = _delimiter(header)
            columns = _columns(where, next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), []))
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
            width = max(columns.values()) + 1
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) > len(columns):
                    raise DataError(
                        f"row {reader.line_num + 1} of {where} has {len(row)} cells for {len(columns)} columns: "
                        f'write "…" around a cell that holds the delimiter'
                    )
                row += [""] * (width - len(row))
                paths.append(row[columns["path"]])
                labels.append(row[columns["label"]].strip())
                if SPLIT in columns:
                    splits.append(row[columns[SPLIT]])
                lines.append(reader.line_num + 1)
    except UnicodeDecodeError:
        raise DataError(f"{where} is not UTF-8 text: save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{where} is no CSV table ({error}): save it as CSV in UTF-8") from None
    except OSError as error:
        raise DataError(f"{printable(str(path))} cannot be read ({error.strerror}): check its permissions") from None
    return Table(paths, labels, splits if SPLIT in columns else None, lines)


def read_parquet(path: Path) -> Table:
    """Raises ``DataError``: no Parquet file, a missing column, labels that are neither text nor whole numbers."""
    from nextify.data.sources.parquet import reading

    where = printable(path.name)
    with reading(path) as file:
        columns = _columns(where, file.schema_arrow.names)
        wanted = [name for name in (*NEEDED, SPLIT) if name in columns]
        table = file.read(columns=[file.schema_arrow.names[columns[name]] for name in wanted], use_threads=False)
    cells = {}
    for name in wanted:
        values = table.column(file.schema_arrow.names[columns[name]]).to_pylist()
        if odd := [value for value in values if value is not None and not isinstance(value, str | int)]:
            raise DataError(f"the column {name} of {where} holds {odd[0]!r}: write text or whole numbers")
        cells[name] = ["" if value is None else str(value) for value in values]
    return Table(cells["path"], cells["label"], cells.get(SPLIT), range(1, len(cells["path"]) + 1))


def _delimiter(header: str) -> str:
    """The delimiter that gives the needed columns, else the one that gives most."""

    def quality(delimiter: str) -> tuple[bool, int]:
        names = [cell.strip().lower() for cell in next(csv.reader([header], delimiter=delimiter), [])]
        return all(name in names for name in NEEDED), len(names)

    return max(DELIMITERS, key=quality)


def _columns(where: str, names: Sequence[str]) -> dict[str, int]:
    """Column names in lower case, and where each stands. Raises ``DataError``."""
    columns = {name.strip().lower(): i for i, name in enumerate(names)}
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        there = some([name.strip() for name in names]) or "none"
        raise DataError(f"{where} has no column {' and no column '.join(missing)} (its columns: {there}): "
                        f"the first line names path, label and, if wanted, split")  # fmt: skip
    if len(columns) < len(names):
        raise DataError(f"{where} names a column twice ({some(list(names))}): name each once")
    return columns


def _none_empty(where: str, column: str, values: Sequence[str], rows: Sequence[int]) -> None:
    empty = [f"{row:,}" for value, row in zip(values, rows, strict=True) if not value.strip()]
    if empty:
        raise DataError(
            f"{len(empty):,} rows of {where} have no {column}: row {some(empty)}; fill them in or delete them"
        )


def _known_splits(where: str, splits: Sequence[str], rows: Sequence[int]) -> None:
    for split, row in zip(splits, rows, strict=True):
        if not is_part(split):
            raise DataError(f"row {row:,} of {where} has the split {printable(split)!r}: "
                            f"write train, val, valid, validation or test")  # fmt: skip
