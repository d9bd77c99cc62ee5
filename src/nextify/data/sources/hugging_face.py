"""Data sets of the Hugging Face Hub, ``hf:OWNER/NAME``, through its library ``datasets``.

Downloads and their cache are the library's business; images stay encoded until they are asked for.
"""

from collections.abc import Sequence
from typing import Any

from nextify.data.decode import UnreadableImage
from nextify.data.encoded import Stamp
from nextify.data.errors import DataError
from nextify.data.source import PREFIX
from nextify.data.sources.listing import Found
from nextify.data.sources.parquet import choose_columns
from nextify.data.sources.parts import Splitting, choose_parts, kind_of
from nextify.system.text import some


class Rows:
    """Images that lie in the splits of a ``datasets.DatasetDict``."""

    def __init__(self, name: str, splits: Sequence[tuple[str, Any]], column: str) -> None:
        """``splits``: name and ``datasets.Dataset`` of each, whose images come as ``{"bytes", "path"}``."""
        self.place, self.splits, self.column = f"{PREFIX}{name}", splits, column
        self.names = tuple(f"{split}#{row}" for split, rows in splits for row in range(len(rows)))

    def stamp(self, index: int) -> Stamp:
        rows, _ = self._row(index)
        # The library's own mark of a split's content, as a number.
        return len(rows), int.from_bytes(str(rows._fingerprint).encode()[:8], "big")

    def read(self, index: int) -> bytes:
        rows, row = self._row(index)
        image = rows[row][self.column]
        if image is None:
            raise UnreadableImage("no image in its row")
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        with open(image["path"], "rb") as file:
            return file.read()

    def _row(self, index: int) -> tuple[Any, int]:
        for _, rows in self.splits:
            if index < len(rows):
                return rows, index
            index -= len(rows)
        raise IndexError(index)


def list_hugging_face(source: str, splitting: Splitting) -> Found:
    """The images of ``hf:OWNER/NAME``. Raises ``DataError``: the library or the data set is not there, odd columns."""
    try:
        import datasets
    except ImportError:
        raise DataError("data sets from the Hub need the datasets package: pip install 'nextify[datasets]'") from None
    name = source.removeprefix(PREFIX)
    try:
        there = datasets.load_dataset(name)
    except Exception as error:  # the library and what is below it raise almost anything: network, names, formats
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{source} could not be loaded ({reason}): check the name and the connection") from None
    if not any(map(kind_of, there)):
        raise DataError(f"{source} has the splits {some(list(there))}: it needs train, and optionally val or test")
    parts = choose_parts(filter(kind_of, there), source, splitting)
    features = there[parts.used[0]].features
    pictures = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = {column: kind.names for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    columns = choose_columns(source, list(features), pictures, labels)
    splits = [
        (part, there[part].select_columns([columns.image, columns.label]).cast_column(
            columns.image, datasets.Image(decode=False)))
        for part in parts.used
    ]  # fmt: skip
    left = {
        f"in the split {part}, {'which is not used' if kind_of(part) else 'whose purpose is not known'}": [
            f"{part}#{row}" for row in range(len(rows))
        ]
        for part, rows in there.items()
        if part not in parts.used
    }
    return Found(
        where=source,
        images=Rows(name, splits, columns.image),
        labels=columns.checked([label for _, rows in splits for label in rows[columns.label]]),
        classes=columns.classes,
        classes_in=f"the column {columns.label}",
        parts=parts,
        train_count=len(splits[0][1]) if parts.train else 0,
        notes=columns.notes,
        left_out=left,
    )
