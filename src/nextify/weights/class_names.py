"""The class that each logit stands for: the names a weights file carries, or else the order its library gives classes.

torchvision's ImageFolder and Hugging Face's ``imagefolder`` number classes by code point (1, 10, 2; Bee, ant); timm's
reader sorts naturally (1, 2, 10; ant, Bee; ``timm.data.readers.class_map``). Data may number its classes itself.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args
from unicodedata import normalize

from nextify.system.files import parse_json, write_text_atomic
from nextify.weights.naming import WeightsError

Order = Literal["imagefolder", "natural", "data"]
ORDERS: tuple[Order, ...] = get_args(Order)
ClassOrder = str | Path | Sequence[str]
"""One of ``ORDERS``; or a file that names the classes in the order of the logits; or these names."""

CLASSES_FILE = "classes.txt"
NAME_KEYS = ("class_to_idx", "label2id", "id2label", "idx_to_class", "classes", "class_names", "names", "label_names")
"""Under which trainers and configs keep class names."""


def in_order(classes: Sequence[str], order: Order | None = None) -> tuple[str, ...]:
    """The data's classes in the order of the logits of weights that do not name theirs. Raises ``WeightsError`` where
    no order is given and libraries order these classes differently, or timm leaves their order to chance (1 and 01; Ant
    and ant)."""
    orders: dict[Order, tuple[str, ...]] = {
        "imagefolder": tuple(sorted(classes)),
        "natural": tuple(sorted(classes, key=_natural)),
        "data": tuple(classes),
    }
    if order is not None:
        return orders[order]
    if orders["data"] in (orders["natural"], orders["imagefolder"]):
        del orders["data"]
    if len(set(orders.values())) > 1:
        place = next(i for i, names in enumerate(zip(*orders.values(), strict=True)) if len(set(names)) > 1)
        listed = f"#{place} is " + ", ".join(f"{names[place]!r} by {name}" for name, names in orders.items())
    elif tied := [pair for pair in pairwise(orders["natural"]) if _natural(pair[0])[0] == _natural(pair[1])[0]]:
        listed = f"timm does not tell {tied[0][0]!r} from {tied[0][1]!r}"
    elif moved := _moved_by_form(orders["natural"]):
        listed = f"{moved!r} comes elsewhere in another Unicode form"
    else:
        return tuple(classes)
    raise WeightsError(
        f"the weights do not name their classes, and libraries order these differently ({listed}): give "
        f"--class-order {'|'.join(orders)}|FILE (imagefolder: torchvision, Hugging Face; natural: timm; "
        f"{'data: as these images are numbered; ' if 'data' in orders else ''}FILE: one class per line), or put such a "
        f"{CLASSES_FILE} beside the weights"
    )


def _moved_by_form(names: Sequence[str]) -> str | None:
    """The first of sorted names whose place depends on how its accents are composed; macOS and Linux differ in that."""
    forms = [sorted(names, key=lambda name: _natural(normalize(form, name))) for form in ("NFC", "NFD")]
    return next((names[0] for names in zip(names, *forms, strict=True) if len({*names}) > 1), None)


def _natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """timm's ``natural_key``; names that it holds to be equal (1 and 01) go by code point."""
    parts = re.split(r"(\d+)", name.lower())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def given_names(order: ClassOrder | None) -> tuple[str, ...] | None:
    """The names of a ``ClassOrder`` that states them; None for none. Raises ``WeightsError`` for a word of ``ORDERS``,
    which needs data, a file that cannot be read, and a name that is there twice."""
    if order is None:
        return None
    if not isinstance(order, str | Path):
        return _distinct(tuple(order), "the class names given")
    if order in ORDERS:
        raise WeightsError(
            f"--class-order {order} uses the order of the data's classes, but there is no data here: give a FILE"
        )
    if not Path(order).is_file():
        raise WeightsError(
            f"--class-order must be {', '.join(ORDERS)} or a file with one class per line; {order} is not a file"
        )
    return read_class_file(Path(order))


def is_word(order: ClassOrder | None) -> Order | None:
    """The word of ``ORDERS`` that ``order`` is, if any."""
    return next((word for word in ORDERS if order == word), None)


def read_class_file(path: Path) -> tuple[str, ...]:
    """Class names in order: one per line, or a JSON list, ``{index: name}`` or ``{name: index}``. Raises
    ``WeightsError`` where it is none of these, or has a name twice."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise WeightsError(f"{path} is not a text file of class names: {error}") from error
    names = _ordered(text)
    if names is None:
        names = tuple(line.removesuffix("\r") for line in text.rstrip("\r\n").split("\n"))
        if "" in names:
            raise WeightsError(f"line {names.index('') + 1} of {path} is blank; write one class name on each line")
        if path.suffix == ".json":
            raise WeightsError(f"{path} must hold a JSON list of class names, or a dict that numbers them from 0")
    return _distinct(names, str(path))


def names_beside(weights: Path, count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names in a ``classes.txt`` in a folder of weights or beside a file of them, and a note; or none."""
    path = (weights if weights.is_dir() else weights.parent) / CLASSES_FILE
    if not count or not weights.exists() or not path.is_file():
        return (), ()
    names = read_class_file(path)
    if len(names) != count:
        return (), (f"ignored {path}: it names {len(names)} classes, but the weights have {count}",)
    return names, (f"the class names come from {path}",)


def write_class_file(path: Path, names: tuple[str, ...]) -> None:
    """One name per line. Raises ``WeightsError`` where there is another such file, which would be lost."""
    if any("\n" in name or not name for name in names):
        raise WeightsError(f"a class name is empty or has a line break, which {path} cannot hold; convert to nextify")
    if path.is_file() and (not names or read_class_file(path) != names):
        raise WeightsError(f"{path} already exists and names other classes; choose another folder, or remove it")
    if names:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, "\n".join(names) + "\n")


def _distinct(names: tuple[str, ...], where: str) -> tuple[str, ...]:
    if twice := repeated(names):
        raise WeightsError(f"{where} has the class {sorted(twice)[0]!r} twice; give each class a name of its own")
    return names


def repeated(names: Sequence[str]) -> set[str]:
    """Names that are there more than once."""
    return {name for name, count in Counter(names).items() if count > 1}


def class_names(content: Mapping[str, object], count: int, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of ``count`` classes in what stands beside weights, in the order of the logits, and notes; or none.
    ``content``: what a checkpoint holds beside its tensors, a ``config.json``, a file's metadata; timm's ``class_map``
    is looked for in the weights' ``folder``. Raises ``WeightsError`` where two entries order the same names
    differently."""
    found: dict[str, tuple[str, ...]] = {}
    notes = []
    for key, value in _entries(content):
        names = None
        if key == "class_map":
            if isinstance(value, str) and value and (folder / Path(value).name).suffix != ".pkl":
                file = folder / Path(value).name
                names = read_class_file(file) if file.is_file() else None
                if names is None:
                    notes.append(
                        f"the weights' classes are numbered by the missing file {value}: give it with "
                        f"--class-order FILE"
                    )
        elif not _is_numbering(value):
            names = _ordered(value, key)
        if names is None or not count or names == tuple(f"LABEL_{i}" for i in range(len(names))):
            continue
        if len(names) == count:
            found.setdefault(key, names)
        elif key != "names":
            notes.append(f"ignored {key}: it names {len(names)} classes, but the weights have {count}")
    if not found:
        return (), tuple(notes)
    first, names = next(iter(found.items()))
    for key, other in found.items():
        if other != names and sorted(other) == sorted(names):
            raise WeightsError(
                f"{first} and {key} in the weights order the classes differently: give the right order with "
                f"--class-order FILE, one class per line"
            )
    return names, tuple(notes)


def _entries(content: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Entries that may name classes, the outermost first and in the order of ``NAME_KEYS``."""
    if not isinstance(content, Mapping):
        content = getattr(content, "__dict__", {})
    for key in (*NAME_KEYS, "class_map", "CLASSES"):
        if key in content:
            yield key, content[key]
    if depth < 3:
        for value in content.values():
            yield from _entries(value, depth + 1)


def _ordered(value: Any, key: str = "") -> tuple[str, ...] | None:
    """The names of a list, ``{index: name}`` or ``{name: index}``, also as JSON; None for anything else."""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            return None
    if isinstance(value, Mapping):
        numbers, names = list(value.keys()), list(value.values())
        match key:
            case "class_to_idx" | "label2id":
                by_name = True
            case "id2label" | "idx_to_class":
                by_name = False
            case _:
                whole = all(type(v) is int for v in names) and not all(type(k) is int for k in numbers)
                by_name = whole or not all(_is_number(k) for k in numbers)
        if by_name:
            numbers, names = names, numbers
        if not all(_is_number(n) for n in numbers) or sorted(map(int, numbers)) != list(range(len(numbers))):
            return None
        value = [name for _, name in sorted(zip(map(int, numbers), names, strict=True), key=lambda pair: pair[0])]
    if not isinstance(value, list | tuple) or not value or not all(type(name) in (str, int) for name in value):
        return None
    return tuple(map(str, value))


def _is_numbering(value: Any) -> bool:
    """Whether it counts the classes, 0, 1, 2, … as integers, and names none."""
    places = value if isinstance(value, list | tuple) else list(value.values()) if isinstance(value, Mapping) else []
    if isinstance(value, Mapping) and list(value) != places:
        return False
    return bool(places) and all(type(p) is int for p in places) and sorted(places) == list(range(len(places)))


def _is_number(value: Any) -> bool:
    return type(value) is int or (isinstance(value, str) and value.isdecimal())
