"""Generate docs/commands.md, every command and option, from the options' dataclasses.

Command:  python tools/command_pages.py [--check]
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from generated import write_or_check
from tyro.conf import Positional, arg

from nextify.cli import COMMANDS

POSITIONAL = get_args(Positional[int])[1]
ARGUMENT = type(arg())


@dataclass(frozen=True)
class Option:
    name: str
    """As it is written on the command line, with what it takes."""
    default: str
    help: str


def options(kind: type) -> Iterator[Option]:
    """The options of a command, in the order of its help; those that it shares with others last."""
    hints, documented = get_type_hints(kind, include_extras=True), field_docs(kind)
    shared = [field for field in fields(kind) if is_dataclass(bare(hints[field.name]))]
    for field in fields(kind):
        if field not in shared:
            yield option(field, hints[field.name], documented.get(field.name, ""))
    for field in shared:
        yield from options(bare(hints[field.name]))


def option(field: Field[Any], hint: Any, documented: str) -> Option:
    marks, kind = metadata(hint), bare(hint)
    argument = next((mark for mark in marks if isinstance(mark, ARGUMENT)), None)
    metavar = (argument.metavar if argument else None) or takes(kind)
    flag = f"--{(argument.name if argument else None) or field.name.replace('_', '-')}"
    name = metavar if POSITIONAL in marks else flag if kind is bool else f"{flag} {metavar}"
    default = "" if field.default in (MISSING, None, ()) or field.default is False else str(field.default)
    required = field.default is MISSING and field.default_factory is MISSING
    return Option(name, "required" if required else default, one_line((argument and argument.help) or documented))


def metadata(hint: Any) -> list[Any]:
    """What stands beside a type, also within ``Annotated[…] | None``."""
    if get_origin(hint) is Annotated:
        return [*hint.__metadata__, *metadata(get_args(hint)[0])]
    return (
        [mark for part in get_args(hint) for mark in metadata(part)] if get_origin(hint) in (Union, UnionType) else []
    )


def bare(hint: Any) -> Any:
    """The type without annotations and without ``| None``."""
    if get_origin(hint) is Annotated:
        return bare(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        kinds = [part for part in get_args(hint) if part is not NoneType]
        return bare(kinds[0]) if len(kinds) == 1 else hint
    return hint


def takes(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        more = " …" if parts[-1] is Ellipsis else ""
        return " ".join(takes(bare(part)) for part in parts if part is not Ellipsis) + more
    return {str: "TEXT", int: "INT", float: "FLOAT", Path: "PATH"}.get(kind, getattr(kind, "__name__", "VALUE").upper())


def field_docs(kind: type) -> dict[str, str]:
    """``{field: the text beneath it}`` of a dataclass and those it inherits from."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body  # type: ignore[attr-defined]
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = str(text.value.value)  # type: ignore[union-attr]
    return found


def one_line(text: str) -> str:
    return " ".join(text.split())


def cell(text: str) -> str:
    """Text in a table, in which a page named by its file becomes a link."""
    return re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", text.replace("|", "\\|").replace("<", "&lt;"))


def section(name: str) -> str:
    kind = import_module(f"nextify.cli.{name}").Options
    found = list(options(kind))
    rows = [f"| `{cell(o.name)}` | {cell(o.default) and f'`{cell(o.default)}`'} | {cell(o.help)} |" for o in found]
    rows = [row.replace("| `required` |", "| required |") for row in rows]
    words = " ".join([f"nextify {name}", *(o.name for o in found if o.default == "required"), "[OPTIONS]"])
    table = "\n".join(["| option | default | |", "|---|---|---|", *rows])
    return f"## {name}\n\n```console\n{words}\n```\n\n{cell(inspect.cleandoc(kind.__doc__ or ''))}\n\n{table}\n"


def page() -> str:
    index = "\n".join(f"| [`{name}`](#{name}) | {cell(line)} |" for name, line in COMMANDS.items())
    return (
        "# Commands\n\n<!-- Made by tools/command_pages.py; do not edit. -->\n\n"
        "`nextify COMMAND --help` prints the same. Exit codes: 0 success, 1 failure, 2 a request that cannot be met,\n"
        f"130 interrupted.\n\n| command | |\n|---|---|\n{index}\n\n" + "\n".join(map(section, COMMANDS))
    )


def files() -> dict[str, str]:
    return {"docs/commands.md": page()}


if __name__ == "__main__":
    sys.exit(write_or_check(files(), "command_pages.py"))
