"""HTML pages from the Jinja2 templates beside this file: read offline, on a phone, in the dark and on paper.

Templates extend ``base.html.jinja`` and import the macros of ``parts.html.jinja``. Every value is escaped where it
enters a page, and a name that a template does not get is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from nextify.report.drawing import inline_svg
from nextify.system.text import templates

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Line:
    """A row of a table: its header, then its cells."""

    cells: Sequence[str]
    css: str = ""
    """CSS class of the row; ``explored`` greys it."""


@dataclass(frozen=True)
class Table:
    """What the macro ``table`` shows."""

    caption: str
    """Read aloud in place of the table's outline."""
    head: Sequence[tuple[str, str]]
    """(label, CSS class of its cells) of each column: ``""`` for numbers, ``text``, ``wrap``, ``paper``, ``code`` or
    ``verdict``."""
    groups: Sequence[tuple[str, Sequence[Line]]]
    """(heading or ``""``, rows) of each group."""


def render(template: str, **values: object) -> str:
    """The page of ``template``, a file in ``report/templates``, with ``values``. Raises ``jinja2.UndefinedError`` where
    the template wants a value that is missing."""
    return _environment().get_template(template).render(values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from markupsafe import Markup

    made = templates("nextify.report")
    made.filters["inline_svg"] = lambda svg, name, label: Markup(inline_svg(svg, name, label))
    return made
