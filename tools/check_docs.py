"""Check the documentation: links, anchors, places in the navigation, and that generated pages are current.

Command:  python tools/check_docs.py    (make docs does the same before it builds the site)
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote

from cards import anchor
from generated import ROOT, differing

GENERATORS = ("api_pages", "cards", "command_pages", "compare_pages", "models_table", "results_pages")
"""Modules of tools/ whose ``files()`` are pages of docs/. (layouts.py needs packages that no extra brings.)"""
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)")


def pages(root: Path) -> list[Path]:
    return sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")])


def prose(text: str) -> str:
    """Markdown without its code, in which nothing is a link or a heading."""
    return re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings as forges make them; a repeated one gets -1, -2, …"""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} (.+)$", prose(page.read_text(encoding="utf-8")), flags=re.M):
        name = anchor(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading))
        found[name] = found.get(name, -1) + 1
    return {name if number == 0 else f"{name}-{number}" for name, most in found.items() for number in range(most + 1)}


def links(page: Path) -> list[str]:
    """Where a page's links and pictures lead, but for those to other sites."""
    text = re.sub(r"`[^`\n]*`", "", prose(page.read_text(encoding="utf-8")))
    return [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]


def broken_links(root: Path) -> Iterator[str]:
    docs = root / "docs"
    for page in pages(root):
        for target in links(page):
            path, _, name = unquote(target).partition("#")
            to = (page.parent / path).resolve() if path else page
            where = f"{page.relative_to(root)}: {target}"
            if not to.exists():
                yield f"{where} leads nowhere"
            elif page.is_relative_to(docs) and not to.is_relative_to(docs.resolve()):
                yield f"{where} leads out of docs/, which the site cannot follow; name the file without a link"
            elif to.is_dir() and page.is_relative_to(docs):
                yield f"{where} is a folder; link to its README.md"
            elif name and (to.suffix != ".md" or name not in anchors(to)):
                yield f"{where} has no such anchor"


def navigation(root: Path) -> list[str]:
    """The pages of zensical.toml's navigation, in order."""

    def flat(entries: object) -> Iterator[str]:
        match entries:
            case str():
                yield entries
            case list():
                for entry in entries:
                    yield from flat(entry)
            case dict():
                for entry in entries.values():
                    yield from flat(entry)

    return list(flat(tomllib.loads((root / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]))


def misplaced_pages(root: Path) -> Iterator[str]:
    """Pages without a place in the site's navigation, or that no links lead to from docs/README.md on a forge."""
    docs, placed = root / "docs", navigation(root)
    there = {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")}
    yield from (f"docs/{name} is not in the nav of zensical.toml" for name in sorted(there - {*placed}))
    yield from (f"zensical.toml: nav has {name}, which is not in docs/" for name in sorted({*placed} - there))
    yield from (f"zensical.toml: nav has {name} twice" for name in sorted({n for n in placed if placed.count(n) > 1}))
    reached, left = set(), [docs / "README.md"]
    while left:
        page = left.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        left += [(page.parent / unquote(target).partition("#")[0]).resolve() for target in links(page)]
    for name in sorted(there):
        if (docs / name).resolve() not in {page.resolve() for page in reached}:
            yield f"docs/{name} is linked from no page that docs/README.md leads to"


def stale_pages() -> Iterator[str]:
    """Generated pages that differ from what their generator makes."""
    for name in GENERATORS:
        for path in differing(import_module(name).files()):
            yield f"{path} is out of date; run python tools/{name}.py"


if __name__ == "__main__":
    found = [*broken_links(ROOT), *misplaced_pages(ROOT), *stale_pages()]
    print("\n".join(found) or f"{len(pages(ROOT))} pages: links, anchors, places and generated pages are right")
    sys.exit(1 if found else 0)
