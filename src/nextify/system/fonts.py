"""Fonts for the texts of a figure: names of classes and folders come in every script."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("nextify")
OWN = "DejaVu Sans"
"""The font that matplotlib brings along."""
_NO_LETTERS = ("Last Resort", "STIXNon", "STIXSize", "cm")
"""Starts of the names of matplotlib's fonts that have boxes, or symbols, in the places of letters."""


@contextmanager
def lettered(figure: Figure) -> Iterator[None]:
    """Draw ``figure`` inside this: characters that ``OWN`` lacks come from installed fonts that have them.

    Characters that no installed font has are drawn as boxes, and one warning names them.
    """
    from matplotlib.text import Text

    texts = figure.findobj(Text)
    missing = frozenset("".join(text.get_text() for text in texts)) - _characters(OWN) - {"\n"}
    for text in texts if missing else ():
        text.set_fontfamily([OWN, *fallbacks(missing)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # one for every such character
        yield


def png(figure: Figure, dots_per_inch: float = 160) -> bytes:
    """The figure as PNG bytes, ``lettered``."""
    buffer = io.BytesIO()
    with lettered(figure):
        figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": "nextify"})
    return buffer.getvalue()


@lru_cache(maxsize=64)
def fallbacks(characters: frozenset[str]) -> tuple[str, ...]:
    """The fewest installed font families (greedily chosen) that have the characters; logs those that none has."""
    from matplotlib.font_manager import fontManager

    names = {font.name for font in fontManager.ttflist if not font.name.startswith(_NO_LETTERS)} - {OWN}
    covered = {name: found for name in sorted(names) if (found := characters & _characters(name))}
    chosen, left = [], characters
    while covered and (best := max(covered, key=lambda name: len(covered[name] & left))) and covered[best] & left:
        chosen.append(best)
        left -= covered[best]
    if left:
        log.warning(
            "figures show boxes for %s: no installed font has these characters; install one for their script (such as "
            "Noto)",
            " ".join(sorted(left)[:20]) + (" …" if len(left) > 20 else ""),
        )
    return tuple(chosen)


@lru_cache(maxsize=1024)
def _characters(family: str) -> frozenset[str]:
    from matplotlib.font_manager import findfont, get_font

    with suppress(OSError, RuntimeError, ValueError):  # a font that cannot be read is as good as none
        return frozenset(map(chr, get_font(findfont(family)).get_charmap()))
    return frozenset()
