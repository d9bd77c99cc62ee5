"""Check a built site: its links, anchors and files, that nothing comes from other hosts, and Chromium's console.

Command:  python tools/check_site.py [build/site]    (make docs does the same after it has built the site)
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from generated import ROOT

SCHEMES = {"light": 1, "dark": 0}
"""Chromium's numbers for prefers-color-scheme."""
WAIT_MS = 1500
"""How long a page may go on working after it has loaded."""
VISIT = """<!doctype html><title>visit</title><script>
const pages = {pages};
async function visit() {{
  for (const page of pages) {{
    const frame = document.createElement("iframe");
    frame.src = page;
    frame.width = {width};
    frame.height = 800;
    const loaded = new Promise(done => frame.onload = done);
    document.body.append(frame);
    await loaded;
    await new Promise(done => setTimeout(done, 150));
    frame.remove();
  }}
  document.title = "visited " + pages.length;
}}
addEventListener("load", visit);
</script><body></body>"""


@dataclass
class _Page(HTMLParser):
    """A page's anchors and where it leads."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    """What a browser fetches to show the page."""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.anchors |= {name for key in ("id", "name") if (name := found.get(key))}
        if tag == "a" and (to := found.get("href")):
            self.links.append(to)
        elif tag == "link" and found.get("rel") not in ("canonical", "alternate", "prev", "next", "edit"):
            self.loaded.append(found.get("href") or "")
        elif source := found.get("src"):
            self.loaded.append(source)


def read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def broken_links(site: Path) -> Iterator[str]:
    """Links and files that are not there, and whatever a page loads from elsewhere."""
    pages = {path: read(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    for path, page in pages.items():
        for target in [*page.links, *page.loaded]:
            parts, where = urlsplit(target), f"{path.relative_to(site)}: {target}"
            if parts.scheme or parts.netloc:
                if target in page.loaded and parts.scheme != "data":
                    yield f"{where} is loaded from elsewhere"
                continue
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            to = to / "index.html" if to.is_dir() else to
            if not to.exists():
                yield f"{where} leads nowhere"
            elif parts.fragment and to in pages and unquote(parts.fragment) not in pages[to].anchors | {"__skip"}:
                yield f"{where} has no such anchor"


def chromium() -> str | None:
    """The browser's path, or None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def console_messages(site: Path, browser: str, scheme: str, width: int) -> list[str]:
    """What Chromium's console says while it visits every page in frames of ``width`` pixels: errors and warnings.

    Raises ``RuntimeError`` where it does not get through all pages."""
    pages = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html")) if path.name != "404.html"]
    with tempfile.TemporaryDirectory() as folder:
        for entry in site.iterdir():
            (Path(folder) / entry.name).symlink_to(entry.resolve())
        (Path(folder) / "visit-all.html").write_text(VISIT.format(pages=pages, width=width), encoding="utf-8")
        handler = functools.partial(_Handler, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            done = subprocess.run(
                [
                    browser,
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--enable-logging=stderr",
                    f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
                    f"--virtual-time-budget={WAIT_MS * len(pages)}",
                    "--dump-dom",
                    f"http://127.0.0.1:{server.server_port}/visit-all.html",
                ],
                capture_output=True,
                text=True,
                timeout=300,
                env=os.environ | {"XDG_CONFIG_HOME": folder},
            )
            server.shutdown()
    if f"visited {len(pages)}" not in done.stdout:
        raise RuntimeError(f"Chromium did not visit all {len(pages)} pages:\n{done.stderr[-2000:]}")
    return re.findall(r"CONSOLE[:(]\d+\)?\] (.*)", done.stderr)


def main(site: Path) -> int:
    found = list(broken_links(site))
    browser = chromium()
    if browser is None:
        print("no Chromium: the console was not looked at")
    else:
        for scheme, width in (("light", 1280), ("dark", 390)):
            found += [f"{scheme}, {width} px: {line}" for line in console_messages(site, browser, scheme, width)]
    print("\n".join(found) or "the site's links lead somewhere, and the console is silent")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "site"))
