"""Several labels per image: how tables and folders state them, and when they are recognized (docs/multilabel.md).

What could also be one class per image is that, unless ``--task multilabel`` asks.
"""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from nextify.data.errors import DataError
from nextify.data.source import NO_REGRESSION, LabelTask
from nextify.data.sources.listing import no_label
from nextify.data.sources.parts import natural
from nextify.system.text import plural, printable, shortened, some

Names = tuple[str, ...]
"""The labels of one image."""
RECOGNIZED, ASKED = ("|", ";"), ("|", ";", ",")
"""Separators by which several labels are recognized, and those that count where multi-label is asked for."""
_FRACTION = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_ITEM = r"""'[^'\\]*'|"[^"\\]*"|[+-]?\d+"""
_ITEMS = re.compile(_ITEM)
_LIST = re.compile(rf"\[\s*((?:{_ITEM})(?:(?:\s*,\s*|\s+)(?:{_ITEM}))*\s*,?)?\s*\]")
"""A list or array of NumPy as Python or JSON writes it, as tables of pandas have them."""
_YES, _NO = {"1", "1.0", "true"}, {"0", "0.0", "false"}


class Stated(NamedTuple):
    """The labels of a table's rows."""

    labels: Sequence[str] | Sequence[Names]
    """A text for each row, or its names where there may be several."""
    classes: tuple[str, ...] | None = None
    """Where columns name them; None where the labels do."""
    notes: Sequence[str] = ()

    @property
    def several(self) -> bool:
        return any(isinstance(label, tuple) for label in self.labels)


# -- one column ----------------------------------------------------------------------------------------------------


def in_one_column(where: str, cells: Sequence[str | Names], task: LabelTask | None, *, plural_name: bool) -> Stated:
    """The labels of a column: one class in each cell, or several labels.

    Cells that are all lists as Python or JSON writes them (``['cat', 'dog']``) are taken as such, unless one class is
    asked for. Others are taken apart at ``|`` or ``;`` where at least half of the parts of such cells occur in other
    cells too; in a column ``labels`` or ``tags``, and with ``--task multilabel``, at commas and blanks as well, and
    with the latter at the first of the signs that occurs at all.

    Args:
        plural_name: whether the column's name says that there are several.

    Raises:
        DataError: numbers with fractions; lists where one class is asked for.
    """
    if task != "classification":
        cells = _written_out(cells)
    texts = [cell for cell in cells if isinstance(cell, str)]
    if len(texts) < len(cells):
        if task == "classification":
            raise DataError(
                f"{where} has lists of labels, but --task classification takes one label per image: leave it out"
            )
        lists = [(cell,) if isinstance(cell, str) else cell for cell in cells]
        return Stated(lists, notes=(_said("The labels are lists", task),))
    if task == "classification":
        return Stated(texts)
    if task is None:
        _refuse_fractions(where, texts)
    distinct = {*texts}
    for sign in (*ASKED, " ") if task or plural_name else RECOGNIZED:
        apart = {cell: _parts(cell, sign) for cell in distinct}
        counts = Counter(chain.from_iterable(apart.values()))
        parts = {part for own in apart.values() if len(own) > 1 for part in own}
        recur = sum(counts[part] > 1 for part in parts)
        if parts and (2 * recur >= len(parts) or (task is not None and sign != " ")):
            told = {" ": "blanks", ",": "commas"}.get(sign, sign)
            return Stated([apart[cell] for cell in texts], notes=(_said(f"Labels are separated by {told}", task),))
        if recur and task is None and sign != " ":
            example = shortened(min(cell for cell, own in apart.items() if len(own) > 1))
            note = f"Labels such as {example} are taken as one class each: --task multilabel splits them."
            return Stated(texts, notes=(note,))
    return Stated(texts if task is None else [(cell,) for cell in texts])


def _written_out(cells: Sequence[str | Names]) -> Sequence[str | Names]:
    """Texts that are all lists as tuples of their items; others as they are."""
    written = {cell for cell in cells if isinstance(cell, str) and not no_label(cell)}
    if not written or not all(map(_LIST.fullmatch, map(str.strip, written))):
        return cells
    names = {
        cell: tuple(dict.fromkeys((item[1:-1] if item[0] in "'\"" else item).strip() for item in _ITEMS.findall(cell)))
        for cell in written
    }
    return [names.get(cell, cell) if isinstance(cell, str) else cell for cell in cells]


def _parts(cell: str, sign: str) -> Names:
    parts = cell.split() if sign == " " else map(str.strip, cell.split(sign))
    return tuple(dict.fromkeys(part for part in parts if not no_label(part)))


def _said(how: str, task: LabelTask | None) -> str:
    override = "" if task else "; --task classification takes each cell as one class"
    return f"{how}: images can have several (multi-label){override}."


def _refuse_fractions(where: str, cells: Iterable[str]) -> None:
    values = [cell for cell in cells if not no_label(cell)]
    fractions = [cell for cell in values if _FRACTION.fullmatch(cell) and float(cell) % 1]
    if fractions and all(map(_NUMBER.fullmatch, values)):
        raise DataError(
            f"the labels of {where} are numbers with fractions ({some(sorted({*fractions}, key=float)[:3])}): "
            f"{NO_REGRESSION}; --task classification takes each number as a class"
        )


# -- a column for each class ---------------------------------------------------------------------------------------


def in_columns(
    where: str,
    columns: Sequence[tuple[str, Sequence[str]]],
    rows: Sequence[int],
    task: LabelTask | None,
    missing: Callable[[], DataError],
) -> Stated:
    """The labels that columns of 0 and 1 state, one for each class; other columns are left aside, with a note. Where
    every row has exactly one 1, these are classes, unless multi-label is asked for.

    Args:
        columns: names and cells of those that have no meaning of their own.
        missing: makes the error for a table without labels.

    Raises:
        DataError: no such column; cells that are neither 0 nor 1; no single 1 in a row where one class is asked for.
    """
    chosen: dict[str, list[bool]] = {}
    aside: list[str] = []
    for name, cells in columns:
        values = [cell.strip().casefold() for cell in cells]
        odd = [i for i, value in enumerate(values) if value not in _YES | _NO]
        if 2 * len(odd) >= len(values):
            aside.append(name)
            continue
        if odd:
            shown = cells[odd[0]].strip()
            have = plural(len(odd), f"row of {where} has", f"rows of {where} have")
            raise DataError(
                f"{have} neither 0 nor 1 in the column {printable(name)}{f' ({shortened(shown)})' if shown else ''}: "
                f"row {some([f'{rows[i]:,}' for i in odd])}; write 0 or 1"
            )
        chosen[name] = [value in _YES for value in values]
    if not chosen:
        for name, cells in columns:
            values = [cell.strip() for cell in cells if cell.strip()]
            if values and all(map(_NUMBER.fullmatch, values)) and any(float(value) % 1 for value in values):
                raise DataError(f"{where} has no labels, and its column {printable(name)} holds numbers with "
                                f"fractions: {NO_REGRESSION}")  # fmt: skip
        raise missing()
    classes = tuple(sorted(chosen, key=natural))
    labels = [tuple(name for name in classes if chosen[name][i]) for i in range(len(rows))]
    notes = [f"The columns of 0 and 1 are the labels: {some(classes)}."]
    if aside:
        are = plural(len(aside), "column is", "columns are")
        notes.append(f"{are} not used, as they hold more than 0 and 1: {some(aside)}.")
    single = [len(own) == 1 for own in labels]
    if task == "classification" and not all(single):
        i = single.index(False)
        raise DataError(f"row {rows[i]:,} of {where} has {plural(len(labels[i]), 'label')}, but --task classification "
                        f"takes one for each image: leave it out")  # fmt: skip
    if all(single) and task != "multilabel" and len(classes) > 1:
        if task is None:
            notes.append("Each image has exactly one of them, so they are classes; --task multilabel decides each "
                         "separately.")  # fmt: skip
        return Stated([own[0] for own in labels], classes, notes)
    if task is None:
        notes.append("Images can have several (multi-label).")
    return Stated(labels, classes, notes)


# -- one image in several places -----------------------------------------------------------------------------------


def merged_rows(
    where: str, paths: Sequence[str], rows: Sequence[int], stated: Stated, sides: Sequence[Sequence[str] | None]
) -> tuple[list[int], Stated]:
    """One entry for each image: the first row that names it, with the labels of all. ``sides``: columns that the rows
    of an image must agree in, such as its part. Raises ``DataError`` where they do not."""
    first: dict[str, int] = {}
    labels: dict[int, dict[str, None]] = {}
    for i, path in enumerate(paths):
        j = first.setdefault(os.path.normpath(path), i)
        labels.setdefault(j, {}).update(dict.fromkeys(stated.labels[i]))
        for side in sides:
            if side is not None and side[i] != side[j]:
                raise DataError(
                    f"rows {rows[j]:,} and {rows[i]:,} of {where} name {printable(path)} and disagree "
                    f"({shortened(side[j])}, {shortened(side[i])}): give an image one split and one group"
                )
    kept = [*labels]
    notes = [*stated.notes]
    if again := len(paths) - len(kept):
        notes.append(f"{plural(again, 'row repeats', 'rows repeat')} an image: its labels are merged.")
    return kept, Stated([tuple(labels[i]) for i in kept], stated.classes, notes)


def merged_files(root: Path, rows: Sequence[tuple[str, str | None]]) -> tuple[list[tuple[str, Names]], int]:
    """Each image once, under its first name, with the class folders it stands in: as a link, or with the same bytes;
    and how many stand in several. ``rows``: names below ``root``, and their class folders."""
    by_file: dict[tuple[int, int], list[int]] = defaultdict(list)
    sizes: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for i, (name, _) in enumerate(rows):
        try:
            status = os.stat(root / name)
        except OSError:  # reported when the images are looked at
            by_file[(-1, i)].append(i)
            continue
        place = (status.st_dev, status.st_ino)
        if place not in by_file:
            sizes[status.st_size].append(place)
        by_file[place].append(i)
    by_content: dict[str | tuple[int, int], list[int]] = defaultdict(list)
    alike = {place for places in sizes.values() if len(places) > 1 for place in places}
    for place, own in by_file.items():
        by_content[_digest(root / rows[own[0]][0], place) if place in alike else place] += own
    merged = []
    for own in sorted(by_content.values(), key=min):
        folders = dict.fromkeys(rows[i][1] for i in sorted(own))
        merged.append((rows[min(own)][0], tuple(name for name in folders if name is not None)))
    return merged, sum(len(names) > 1 for _, names in merged)


def _digest(path: Path, place: tuple[int, int]) -> str | tuple[int, int]:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return place
