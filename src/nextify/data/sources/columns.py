"""Columns of a table that say which rows to train on and which images belong together: of manifests, of Parquet files
that hold the images themselves, and the fields of JSON in tar shards (docs/data.md)."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nextify.data.encoded import Selected
from nextify.data.errors import DataError
from nextify.data.sources.listing import Found
from nextify.data.sources.parts import Splitting, as_split, choose_parts, kind_of
from nextify.system.text import printable, some

GROUP = ("group", "groups", "group_id")
"""Names of the column that says what an image shows; the first that is there counts."""
SPLITS = ("split", "subset", "phase", "set", "partition", "part", "usage")
"""Columns that name each row's part."""
FLAGS = {f"is_{word}": kind for word, kind in (("valid", "val"), ("val", "val"), ("test", "test"), ("train", "train"))}
"""Columns of yes and no, and the part that yes says."""
_YES, _NO = {"true", "1", "1.0", "yes", "t", "y"}, {"false", "0", "0.0", "no", "f", "n", ""}
_UNUSED = ("fold", "folds", "kfold")
"""Columns that may divide the rows and are not used."""
DIVIDING = (*SPLITS, *FLAGS, *_UNUSED)
"""All columns that may divide the rows, in the order in which they are looked at."""
_SHOWN = re.compile(
    r"(patient|subject|person|participant|individual|animal|plant|tree|specimen|slide|camera|device|station|site|location"
    r"|video|clip|scene|sequence|session|series|study)s?[ _-]?(id|nr|no|number|name|key|uid)?"
)
"""Columns that may say what an image shows, as a column ``group`` does."""


@dataclass(frozen=True)
class Divided:
    """What the columns say of each row's part."""

    splits: Sequence[str] | None
    """The name of each row's part; None where no column tells it."""
    column: str
    """The column that does; empty where none does."""
    notes: Sequence[str]


def divided(where: str, columns: Mapping[str, Sequence[str]], *, strict: bool = True) -> Divided:
    """The parts that columns state.

    Args:
        where: the table, as a message names it.
        columns: the cells of those of ``DIVIDING`` that the table has, by name.
        strict: whether a column ``split`` counts even if none of its cells names a part.

    Raises:
        DataError: columns that disagree on which rows to train on.
    """
    splits, chosen, said = None, "", []
    for name in DIVIDING:
        if name not in columns:
            continue
        values = [value.strip().casefold() for value in columns[name]]
        if name in FLAGS and all(value in _YES | _NO for value in values):
            yes = FLAGS[name]
            told = [yes if value in _YES else "val" if yes == "train" else "train" for value in values]
        elif (name == "split" and strict) or (name in SPLITS and any(map(kind_of, values))):
            told = values
        else:
            shown = some(sorted(set(values)))
            said.append(
                f"The column {name} ({shown}) is not used: to use it, name it split, with the values train and val."
            )
            continue
        if splits is not None:
            if [kind_of(value) == "train" for value in told] != [kind_of(value) == "train" for value in splits]:
                raise DataError(
                    f"several columns of {where} say which rows to train on ({chosen}, {name}) and disagree: keep one "
                    f"of them, or add a column named split with train, val and test"
                )
            continue
        splits, chosen = told, name
        if name != "split":
            said.append(f"The column {name} says which rows to train on and which to test on.")
    return Divided(splits, chosen, said)


def by_columns(found: Found, columns: Mapping[str, Sequence[str]], splitting: Splitting) -> Found:
    """The same images by the parts that columns of their rows state, unless the files' names state them. Raises
    ``DataError`` for some that name no part, and as ``choose_parts`` does."""
    told = divided(found.where, {name: columns[name] for name in DIVIDING if name in columns}, strict=False)
    notes = [*found.notes, *told.notes]
    if told.splits is None:
        return replace(found, notes=notes)
    kinds = [kind_of(split) for split in told.splits]
    if found.parts.test is not None or found.parts.unused:
        by_name = np.arange(len(kinds)) < found.train_count
        if [kind == "train" for kind in kinds] != by_name.tolist():
            notes = [
                *found.notes,
                f"The column {told.column} is not used, as the files' names say which images to train on.",
            ]
        return replace(found, notes=notes)
    of_part: dict[str, list[int]] = defaultdict(list)
    for i, (split, kind) in enumerate(zip(told.splits, kinds, strict=True)):
        if kind is None:
            name = printable(found.images.names[i])
            raise DataError(f"{name} has the {told.column} {printable(split)!r}: write train, val or test")
        of_part[split].append(i)
    parts = choose_parts(of_part, found.where, splitting, as_split)
    chosen = [i for part in parts.used for i in of_part[part]]
    names = found.images.names
    left = {f"in the split {part}, which is not used": [names[i] for i in of_part[part]] for part in parts.unused}
    return replace(
        found,
        images=Selected(found.images, chosen),
        labels=[found.labels[i] for i in chosen],
        parts=parts,
        train_count=0 if parts.train is None else len(of_part[parts.train]),
        groups=found.groups and [found.groups[i] for i in chosen],
        notes=notes,
        left_out={**found.left_out, **left},
    )


def groups_in(columns: Mapping[str, Sequence[str]]) -> Sequence[str] | None:
    """The cells of the column of groups; None where there is none."""
    return next((columns[name] for name in GROUP if name in columns), None)


def ungrouped(names: Sequence[str], holds_classes: Callable[[str], bool]) -> list[str]:
    """What to say of columns that may be groups and are not called so.

    Args:
        names: of all columns of a table without a column of groups.
        holds_classes: whether a column's cells are classes, such as 0 and 1 for ``person``.
    """
    shows = [name for name in map(str.strip, names) if _SHOWN.fullmatch(name.lower()) and not holds_classes(name)]
    if not shows:
        return []
    return [
        f"The column {some(shows)} is not used, so images of one {printable(shows[0])} may be both trained on and "
        f"tested on: name the column group to keep them on one side."
    ]
