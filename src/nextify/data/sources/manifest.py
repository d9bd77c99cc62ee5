"""A manifest: a table of ``path``, ``label`` and, if wanted, ``split`` and ``group``; a row an image, or a label of it.

CSV, JSON lines or Parquet (docs/data.md). CSV has a line of column names, unless its first cell is a file; its
delimiter is the one that gives the columns. ``metadata.csv`` and ``metadata.jsonl`` in a folder, or in its parts, are
read likewise, as Hugging Face does (https://huggingface.co/docs/datasets/image_dataset).
"""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from nextify.data.encoded import Files
from nextify.data.errors import DataError, reading_of
from nextify.data.source import NO_REGRESSION, LabelTask
from nextify.data.sources.columns import DIVIDING, GROUP, divided, ungrouped
from nextify.data.sources.folder import (
    data_folders,
    files_below,
    files_in,
    is_numpy,
    numpy_files,
    part_folders,
    reason_of,
)
from nextify.data.sources.listing import Found, no_label, whole
from nextify.data.sources.parquet import reading
from nextify.data.sources.parts import Splitting, choose_parts, kind_of
from nextify.data.sources.several import Names, Stated, in_columns, in_one_column, merged_rows
from nextify.system.files import parse_json
from nextify.system.text import plural, printable, some

TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
METADATA = ("metadata.csv", "metadata.jsonl")
"""Manifests that label the images of the folder they lie in."""
DELIMITERS = (",", ";", "\t", "|")
NEEDED = ("path", "label")
ALIASES = {
    "path": ("file_name", "filename", "image_path"),
    "label": ("class", "target", "labels", "tags", "classes"),
    "group": GROUP[1:],
}
"""Other names of the columns."""
PLURALS = frozenset(("labels", "tags", "classes"))
"""Names of a column that say that an image can have several labels."""
_WANTED = (*NEEDED, "group", *DIVIDING)


@dataclass(frozen=True)
class Table:
    """The columns of a manifest; what stands in no cell is empty."""

    paths: Sequence[str]
    labels: Sequence[str | Names]
    """As the label column has them, lists as tuples; empty where there is none."""
    splits: Sequence[str] | None
    groups: Sequence[str] | None
    rows: Sequence[int]
    """Each entry's line in a file of text, or row, from 1."""
    others: Sequence[tuple[str, Sequence[str]]] = ()
    """Names and cells of the columns that may be classes, where there is no label column."""
    label_name: str = ""
    """What the label column is called; empty where there is none."""
    columns: Sequence[str] = ()
    """The names of all."""
    where: str = ""
    """The file, as a message names it."""
    notes: Sequence[str] = ()

    def stated(self, task: LabelTask | None) -> Stated:
        """What the rows' labels are. Raises ``DataError``."""
        where = self.where
        if self.label_name:
            return in_one_column(where, self.labels, task, plural_name=self.label_name in PLURALS)
        return in_columns(where, self.others, self.rows, task, lambda: _missing(where, self.columns, ("label",)))


def list_manifest(path: Path, splitting: Splitting, *, labelled: bool = True) -> Found:
    """The images of a manifest, or without ``labelled``, all of one class. Looks at no image. Raises ``DataError``."""
    table = read_table(path)
    if not labelled:
        table = replace(table, labels=["images"] * len(table.paths), label_name="label", others=())
    folders = {os.path.normpath(os.path.join(path.parent, place)) for place in {*map(os.path.dirname, table.paths)}}
    beside = (
        (os.path.normpath(os.path.join(folder, name)), reason_of(name))
        for folder in filter(os.path.isdir, sorted(folders))
        for name in files_in(Path(folder), hidden=True)
    )
    return _list(path.parent, printable(path.name), table, splitting, [path.name], beside)


def list_metadata(root: Path, splitting: Splitting) -> Found | None:
    """The images that ``metadata.csv`` or ``metadata.jsonl`` label, in a folder or in each of its parts. None where
    there is no such file, or class folders lie beside it. Raises ``DataError``."""
    parts = part_folders(root, data_folders(root)) or [name for name in data_folders(root) if kind_of(name)]
    found = [(place, name) for place in ("", *parts) for name in METADATA if (root / place / name).is_file()]
    if not found or any(len(data_folders(root / place)) > 1 for place in parts or [""]):
        return None
    own = [f"{place}/{name}" if place else name for place, name in found]
    tables = []
    for (place, _), file in zip(found, own, strict=True):
        table = read_table(root / file)
        if place:
            paths = [f"{place}/{path}" if path.strip() else path for path in table.paths]
            table = replace(table, paths=paths, splits=[place] * len(paths))
        elif table.splits is None and parts:
            table = replace(table, splits=[path.partition("/")[0] for path in table.paths])
        tables.append(table)
    if len({table.splits is None for table in tables}) > 1:
        raise DataError(f"{printable(str(root))} has {some(own)}: keep one, or one in each split")

    def joined(name: str) -> Any:
        columns = [getattr(table, name) for table in tables]
        return None if None in columns else [*chain.from_iterable(columns)]

    if len({tuple(name for name, _ in table.others) for table in tables}) > 1:
        raise DataError(f"{some(own)} keep their labels in different columns: use the same columns in all")
    cells = zip(*(table.others for table in tables), strict=True)
    others = [(same[0][0], [*chain.from_iterable(column for _, column in same)]) for same in cells]
    names = ("paths", "labels", "splits", "groups", "rows", "notes")
    table = replace(tables[0], **{name: joined(name) for name in names}, others=others)
    if len(tables) > 1:
        table = replace(table, where=printable(str(root)))
    table = replace(table, notes=[f"The labels come from {some(own)}.", *dict.fromkeys(table.notes)])
    beside = ((os.path.normpath(os.path.join(root, name)), reason) for name, reason in files_below(root, every=True))
    return _list(root, printable(str(root)), table, splitting, own, beside)


def _list(
    root: Path, where: str, table: Table, splitting: Splitting, own: Sequence[str], beside: Iterable[tuple[str, str]]
) -> Found:
    """``own``: names of the tables; ``beside``: paths that the table might list, and why each is no image."""
    if not table.paths:
        raise DataError(f"{where} has no rows: it needs one for each image")
    if pathless := [f"{row:,}" for path, row in zip(table.paths, table.rows, strict=True) if not path.strip()]:
        raise DataError(f"{plural(len(pathless), f'row of {where} has', f'rows of {where} have')} no path: "
                        f"row {some(pathless)}; "
                        f"fill them in or leave those rows out")  # fmt: skip
    listed = {os.path.normpath(os.path.join(root, path)) for path in {*own, *table.paths}}
    left: dict[str, list[str]] = {}
    with numpy_files(any(map(is_numpy, table.paths))):  # for the reasons, which are found as they are asked for
        for path, reason in beside:
            if path not in listed:
                left.setdefault(reason or f"images that {where} does not list", []).append(os.path.relpath(path, root))
    groups = table.groups and ["" if no_label(group) else group.strip() for group in table.groups]
    splits = table.splits and [split.strip().lower() for split in table.splits]
    stated = table.stated(splitting.task)
    if stated.several:
        kept, stated = merged_rows(where, table.paths, table.rows, stated, (splits, groups))
        table = replace(table, paths=[table.paths[i] for i in kept], rows=[table.rows[i] for i in kept])
        splits, groups = (own and [own[i] for i in kept] for own in (splits, groups))
    of_part: dict[str, list[int]] = {}
    for i, row in enumerate(table.rows):
        split = "" if splits is None else splits[i]
        if splits is not None and kind_of(split) is None:
            raise DataError(f"row {row:,} of {where} has the split {printable(split)!r}: write train, val or test")
        of_part.setdefault(split, []).append(i)
    parts = choose_parts(of_part, where, splitting)
    chosen = [i for part in parts.used for i in of_part[part]]
    left |= {f"in the split {p}, which is not used": [table.paths[i] for i in of_part[p]] for p in parts.unused}
    return Found(
        where=where,
        images=Files(root, tuple(table.paths[i] for i in chosen)),
        labels=[stated.labels[i] for i in chosen],
        classes=stated.classes,
        classes_in=where,
        parts=parts,
        train_count=0 if parts.train is None else len(of_part[parts.train]),
        groups=groups and [groups[i] for i in chosen],
        rows=[table.rows[i] for i in chosen],
        remedy="fill them in or leave those rows out",
        notes=[*table.notes, *stated.notes],
        left_out=left,
    )


def read_table(path: Path) -> Table:
    """A manifest's columns. Raises ``DataError``: no table, a missing column, odd labels."""
    match path.suffix.lower():
        case ".parquet":
            return _read_parquet(path)
        case ".jsonl":
            return _read_json_lines(path)
        case _:
            return _read_csv(path)


def _read_csv(path: Path) -> Table:
    where = printable(path.name)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        with reading_of(path), open(path, encoding="utf-8-sig", newline="") as file:
            delimiter, names = _delimiter(file.readline(), path.parent)
            headed = set(NEEDED) <= {*_named(names)} or ("path" in _named(names) and not _is_row(names, path.parent))
            if not headed and _is_row(names, path.parent):
                names = [*NEEDED, "split"][: len(names)]
            _columns(where, names)
            file.seek(0)
            for line, row in _rows(file, delimiter, where):
                if (line == 1 and headed) or not any(cell.strip() for cell in row):
                    continue
                if any(cell.strip() for cell in row[len(names) :]):
                    raise DataError(
                        f"row {line} of {where} has {len(row)} cells for {len(names)} columns: "
                        f'put "…" around cells that contain the delimiter'
                    )
                rows.append((row + [""] * len(names))[: len(names)])
                lines.append(line)
    except UnicodeDecodeError:
        raise DataError(f"{where} is not UTF-8 text: save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{where} is not a CSV table ({error}): save it as CSV in UTF-8") from None
    unnamed = (
        () if headed else (f"{where} has no header: the first column is taken as the path, the next as the label.",)
    )
    return _table(where, names, list(zip(*rows, strict=True)) or [()] * len(names), lines, unnamed)


def _rows(file: Iterable[str], delimiter: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row and its line, from 1. Raises ``DataError``: a cell of several lines."""
    if not delimiter:
        yield from ((line, _by_blanks(text)) for line, text in enumerate(file, 1))
        return
    reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
    line = 1
    for row in reader:
        if reader.line_num > line:
            raise DataError(
                f"row {line} of {where} has a cell that spans several lines, as after a stray quote: "
                f'write a quote inside a cell as ""'
            )
        yield line, row
        line = reader.line_num + 1


def _read_json_lines(path: Path) -> Table:
    where = printable(path.name)
    found: list[dict[str, object]] = []
    lines: list[int] = []
    try:
        with reading_of(path), open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    value = parse_json(line)
                    if not isinstance(value, dict):
                        raise DataError(f"row {number} of {where} is not a JSON object: write one for each image")
                    found.append(value)
                    lines.append(number)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where} is not a table of JSON lines ({error}): write one UTF-8 object per line") from None
    names = list(dict.fromkeys(name for row in found for name in row))
    return _table(where, names, _texts(where, names, lambda name: [row.get(name) for row in found]), lines)


def _read_parquet(path: Path) -> Table:
    where = printable(path.name)
    with reading(path) as file:
        names = file.schema_arrow.names

        def column(name: str) -> list[Any]:
            return file.read(columns=[name], use_threads=False).column(0).to_pylist()  # type: ignore[no-any-return]

        return _table(where, names, _texts(where, names, column), range(1, file.metadata.num_rows + 1))


def _texts(where: str, names: Sequence[str], column: Callable[[str], Sequence[object]]) -> list[Sequence[Any]]:
    """The columns that matter as text, lists of labels as tuples; others are empty, unless there is no label. Raises
    ``DataError`` for values that are neither text nor whole."""
    columns = _columns(where, names)
    cells: list[Sequence[Any]] = [()] * len(names)
    if "label" not in columns:
        for i, name in enumerate(names):
            cells[i] = ["" if value is None else str(value) for value in column(name)]
    for i in {columns[name] for name in _WANTED if name in columns}:
        values = [whole(value) for value in column(names[i])]
        if i == columns.get("label"):
            values = [_as_names(value) for value in values]
        if odd := [value for value in values if not no_label(value) and not isinstance(value, str | int | tuple)]:
            hint = f"; {NO_REGRESSION}" if i == columns.get("label") and isinstance(odd[0], float) else ""
            raise DataError(f"the column {names[i]} of {where} holds {odd[0]!r}: write text or whole numbers{hint}")
        cells[i] = ["" if value is None else value if isinstance(value, tuple) else str(value) for value in values]
    return cells


def _as_names(value: object) -> object:
    """A list of texts or whole numbers as a tuple of texts; anything else as it is."""
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return tuple(dict.fromkeys(str(item).strip() for item in value))
    return value


def _table(
    where: str, names: Sequence[str], cells: Sequence[Sequence[Any]], rows: Sequence[int], notes: Sequence[str] = ()
) -> Table:
    """The columns that are meant. Raises ``DataError``: NUL bytes, columns that disagree."""
    columns = _columns(where, names)
    needed = zip(rows, *(cells[columns[name]] for name in NEEDED if name in columns), strict=False)
    if odd := [f"{row:,}" for row, *own in needed if any("\0" in "".join(cell) for cell in own)]:
        count = plural(len(odd), f"row of {where} holds", f"rows of {where} hold")
        raise DataError(f"{count} a NUL byte: row {some(odd)}; save it as UTF-8 text")
    told = divided(where, {name: cells[columns[name]] for name in DIVIDING if name in columns})
    said = [*notes, *told.notes]
    labels: list[str | Names] = []
    others: list[tuple[str, Sequence[str]]] = []
    if "label" in columns:
        labels = [label if isinstance(label, tuple) else label.strip() for label in cells[columns["label"]]]
    else:
        known = {columns[name] for name in _WANTED if name in columns}
        others = [(name.strip(), cells[i]) for i, name in enumerate(names) if i not in known and name.strip()]
    groups = cells[columns["group"]] if "group" in columns else None
    classes = {name for name, own in others if {cell.strip() for cell in own} <= {"0", "1"}}  # such as person
    if groups is None:
        said += ungrouped(names, lambda name: name in classes)
    label_name = names[columns["label"]].strip().lower() if "label" in columns else ""
    rivals = [name for name in map(str.strip, names) if name.lower() in (NEEDED[1], *ALIASES["label"])]
    if len(rivals) > 1:
        said.append(f"The labels come from the column {label_name}, not from "
                    f"{some([name for name in rivals if name.lower() != label_name])}.")  # fmt: skip
    return Table(cells[columns["path"]], labels, told.splits, groups, rows, others, label_name, names, where, said)


def _delimiter(line: str, folder: Path) -> tuple[str, list[str]]:
    """The delimiter that gives the needed columns, else one that gives a file and its label, else most; empty for
    blanks. With the line's cells."""

    def quality(choice: tuple[str, list[str]]) -> tuple[bool, bool, int]:
        delimiter, cells = choice
        names = _named(cells)
        return all(name in names for name in NEEDED), _is_row(cells, folder), len(names) if delimiter else 0

    split = [(d, next(csv.reader([line], delimiter=d, skipinitialspace=True), [])) for d in DELIMITERS]
    return max([*split, ("", _by_blanks(line))], key=quality)


def _by_blanks(line: str) -> list[str]:
    """The cells of a line whose last blanks set off the label; a path may hold blanks."""
    return line.rsplit(None, 1)


def _is_row(cells: Sequence[str], folder: Path) -> bool:
    """Whether a first line is no header but a file and its label, perhaps with a part."""
    if not (len(cells) == 2 or (len(cells) == 3 and kind_of(cells[2]))) or not all(map(str.strip, cells)):
        return False
    try:
        return (folder / cells[0]).is_file()
    except (OSError, ValueError):
        return False


def _named(names: Sequence[str]) -> dict[str, int]:
    """Column names in lower case, those that matter by their own, and where each stands; nameless ones are left out."""
    columns = {name.strip().lower(): i for i, name in reversed(list(enumerate(names))) if name.strip()}
    for wanted, aliases in ALIASES.items():
        alias = next((alias for alias in aliases if alias in columns), None)
        if wanted not in columns and alias is not None:
            columns[wanted] = columns[alias]
    return columns


def _columns(where: str, names: Sequence[str]) -> dict[str, int]:
    """``_named``, checked: labels may stand in columns of their own, or nowhere. Raises ``DataError``."""
    columns = _named(names)
    if "path" not in columns:
        raise _missing(where, names, [name for name in NEEDED if name not in columns])
    lower = [name.strip().lower() for name in names if name.strip()]
    if len(set(lower)) < len(lower):
        raise DataError(f"{where} names a column twice ({some(list(names))}): name each once")
    return columns


def _missing(where: str, names: Sequence[str], missing: Sequence[str]) -> DataError:
    there = some([name.strip() for name in names]) or "none"
    wanted = " and ".join(f"{name} (or {', '.join(ALIASES[name])})" for name in NEEDED)
    return DataError(
        f"{where} has no column {' and no column '.join(missing)} (its columns: {there}): the first line must name "
        f"{wanted}, and optionally split; or give each class a column of 0 and 1"
    )
