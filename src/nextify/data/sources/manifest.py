"""A manifest: a CSV or Parquet table of ``path``, ``label`` and, if wanted, ``split``; a row an image.

A path is relative to the manifest's folder. A label is any text or number. A split is any word that ``parts.py`` knows;
a column such as ``subset`` or ``is_valid`` serves as well. Further columns are ignored. CSV is UTF-8 with a line of
column names; its delimiter is the one that gives the columns (comma, semicolon, tab or bar). CSV is read with the
standard library alone.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nextify.data.encoded import Files
from nextify.data.errors import DataError, printable, some
from nextify.data.sources.listing import Listing, Splitting, arrange, no_label, number_classes
from nextify.data.sources.parquet import reading
from nextify.data.sources.parts import choose_parts, kind_of

DELIMITERS = (",", ";", "\t", "|")
NEEDED = ("path", "label")
ALIASES = {"path": ("file_name", "filename", "image_path"), "label": ("class", "target")}
"""Other names of the needed columns."""
SPLITS = ("split", "subset", "phase", "set", "partition", "part", "usage")
"""Columns that name each row's part."""
FLAGS = {f"is_{word}": kind for word, kind in (("valid", "val"), ("val", "val"), ("test", "test"), ("train", "train"))}
"""Columns of yes and no, and the part that yes says."""
_YES, _NO = {"true", "1", "1.0", "yes", "t", "y"}, {"false", "0", "0.0", "no", "f", "n", ""}
_UNUSED = ("fold", "folds", "kfold")
"""Columns that may divide the rows and are not used."""


@dataclass(frozen=True)
class Table:
    """The columns of a manifest; what stands in no cell is empty."""

    paths: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str] | None
    rows: Sequence[int]
    """Each entry's line in a CSV file, or row, from 1."""
    notes: Sequence[str] = ()


def list_manifest(path: Path, splitting: Splitting) -> Listing:
    """The images of a manifest. Looks at no image. Raises ``DataError``."""
    where = printable(path.name)
    table = read_parquet(path) if path.suffix.lower() == ".parquet" else read_csv(path)
    if not table.paths:
        raise DataError(f"{where} has no rows: it needs one for each image")
    if pathless := [f"{row:,}" for path_, row in zip(table.paths, table.rows, strict=True) if not path_.strip()]:
        raise DataError(f"{len(pathless):,} rows of {where} have no path: row {some(pathless)}; "
                        f"fill them in or leave those rows out")  # fmt: skip
    entries = range(len(table.paths))
    parts, train_count, left = None, len(table.paths), {}
    if table.splits is not None:
        splits = [split.strip().lower() for split in table.splits]
        for split, row in zip(splits, table.rows, strict=True):
            if kind_of(split) is None:
                raise DataError(f"row {row:,} of {where} has the split {printable(split)!r}: write train, val or test")
        parts = choose_parts(sorted(set(splits)), where, to_train=splitting.to_train)
        of_part = [[i for i in entries if splits[i] == used] for used in parts.used]
        train_count = len(of_part[0]) if parts.train else 0
        chosen = [i for entries_of_part in of_part for i in entries_of_part]
        for unused in parts.unused:
            left[f"in the split {unused}, which is not used"] = [table.paths[i] for i in entries if splits[i] == unused]
    else:
        chosen = list(entries)
    missing = {i for i in chosen if no_label(table.labels[i])}
    tested = set(chosen[train_count:])
    if missing and not (missing == tested and train_count):
        rows = [f"{table.rows[i]:,}" for i in sorted(missing)]
        marks = some(sorted({repr(table.labels[i]) for i in missing if table.labels[i]}))
        raise DataError(
            f"{len(rows):,} rows of {where} have no label{f' ({marks})' if marks else ''}: row {some(rows)}; "
            f"fill them in or leave those rows out"
        )
    classes, labels = number_classes([table.labels[i] for i in chosen])
    images = Files(path.parent, tuple(table.paths[i] for i in chosen))
    return arrange(where, classes, images, labels, parts, train_count, splitting, notes=table.notes, left_out=left)


def read_csv(path: Path) -> Table:
    """Raises ``DataError``: not UTF-8, a missing column, a row of more cells than columns, a cell of several lines."""
    where = printable(path.name)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            delimiter = _delimiter(header)
            names = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
            _columns(where, names)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
            before = 0
            for row in reader:
                line, before = before + 2, reader.line_num
                if reader.line_num + 1 > line:
                    raise DataError(
                        f"row {line} of {where} has a cell of several lines, as after a stray quote: "
                        f'write a quote within a cell as ""'
                    )
                if not any(cell.strip() for cell in row):
                    continue
                if any(cell.strip() for cell in row[len(names) :]):
                    raise DataError(
                        f"row {line} of {where} has {len(row)} cells for {len(names)} columns: "
                        f'write "…" around a cell that holds the delimiter'
                    )
                rows.append((row + [""] * len(names))[: len(names)])
                lines.append(line)
    except UnicodeDecodeError:
        raise DataError(f"{where} is not UTF-8 text: save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{where} is no CSV table ({error}): save it as CSV in UTF-8") from None
    except OSError as error:
        raise DataError(f"{printable(str(path))} cannot be read ({error.strerror}): check its permissions") from None
    return _table(where, names, list(zip(*rows, strict=True)) or [()] * len(names), lines)


def read_parquet(path: Path) -> Table:
    """Raises ``DataError``: no Parquet file, a missing column, labels that are neither text nor whole numbers."""
    where = printable(path.name)
    with reading(path) as file:
        names = file.schema_arrow.names
        columns = _columns(where, names)
        wanted = [i for name, i in columns.items() if name in (*NEEDED, *SPLITS, *FLAGS, *_UNUSED)]
        table = file.read(columns=[names[i] for i in wanted], use_threads=False)
    cells: list[list[str]] = [[] for _ in names]
    for i in wanted:
        values = table.column(names[i]).to_pylist()
        if odd := [value for value in values if not no_label(value) and not isinstance(value, str | int)]:
            raise DataError(f"the column {names[i]} of {where} holds {odd[0]!r}: write text or whole numbers")
        cells[i] = ["" if value is None else str(value) for value in values]
    return _table(where, names, cells, range(1, table.num_rows + 1))


def _table(where: str, names: Sequence[str], cells: Sequence[Sequence[str]], rows: Sequence[int]) -> Table:
    """The columns that are meant. Raises ``DataError``: a column that names the parts of some rows only."""
    columns = _columns(where, names)
    splits, notes = None, []
    for name in (*SPLITS, *FLAGS, *_UNUSED):
        if name not in columns or splits is not None:
            continue
        values = [value.strip().casefold() for value in cells[columns[name]]]
        if name in FLAGS and all(value in _YES | _NO for value in values):
            yes = FLAGS[name]
            splits = [yes if value in _YES else "val" if yes == "train" else "train" for value in values]
        elif name == "split" or (name in SPLITS and any(map(kind_of, values))):
            splits = values
        else:
            shown = some(sorted(set(values)))
            notes.append(f"The column {name} ({shown}) is not used: a column split of train and val is.")
            continue
        if name != "split":
            notes.append(f"The column {name} says which rows to train on and which to test on.")
    labels = [label.strip() for label in cells[columns["label"]]]
    return Table(cells[columns["path"]], labels, splits, rows, notes)


def _delimiter(header: str) -> str:
    """The delimiter that gives the needed columns, else the one that gives most."""

    def quality(delimiter: str) -> tuple[bool, int]:
        names = _named(next(csv.reader([header], delimiter=delimiter), []))
        return all(name in names for name in NEEDED), len(names)

    return max(DELIMITERS, key=quality)


def _named(names: Sequence[str]) -> dict[str, int]:
    """Column names in lower case, the needed ones by their own, and where each stands; nameless ones are left out."""
    columns = {name.strip().lower(): i for i, name in reversed(list(enumerate(names))) if name.strip()}
    for needed, aliases in ALIASES.items():
        alias = next((alias for alias in aliases if alias in columns), None)
        if needed not in columns and alias is not None:
            columns[needed] = columns[alias]
    return columns


def _columns(where: str, names: Sequence[str]) -> dict[str, int]:
    """``_named``, checked. Raises ``DataError``."""
    columns = _named(names)
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        there = some([name.strip() for name in names]) or "none"
        raise DataError(f"{where} has no column {' and no column '.join(missing)} (its columns: {there}): "
                        f"the first line names path, label and, if wanted, split")  # fmt: skip
    lower = [name.strip().lower() for name in names if name.strip()]
    if len(set(lower)) < len(lower):
        raise DataError(f"{where} names a column twice ({some(list(names))}): name each once")
    return columns
