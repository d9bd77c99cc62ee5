"""The site is built from a copy of the docs: every link leads somewhere, and a browser's console stays silent."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def check() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        yield import_module("check_site")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    zensical = shutil.which("zensical")
    if zensical is None:
        pytest.skip("no zensical on the PATH: make docs installs it, or pip install 'nextify[docs]'")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "zensical.toml", folder)
    done = subprocess.run([zensical, "build", "--strict"], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "griffe" not in done.stdout + done.stderr, done.stdout + done.stderr
    return folder / "build" / "site"


def test_every_link_leads_somewhere(check: Any, site: Path) -> None:
    assert list(check.broken_links(site)) == []


def test_every_page_of_the_docs_is_there(check: Any, site: Path) -> None:
    made = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert name.replace("README.html", "index.html") in made


def test_public_names_are_filled_in(site: Path) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    assert "The layers of a network as plain data" in text
    assert ":::" not in text.replace("<code>:::</code>", "")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_the_console_stays_silent(check: Any, site: Path, scheme: str, width: int) -> None:
    browser = check.chromium()
    if browser is None:
        pytest.skip("no Chromium")
    assert check.console_messages(site, browser, scheme, width) == []


def test_what_the_checks_find(check: Any, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        '<p id=here><a href="#here">a</a><a href="#gone">b</a><a href="no.html">c</a><img src="https://example.org/x.png">'
    )
    assert list(check.broken_links(tmp_path)) == [
        "index.html: #gone has no such anchor",
        "index.html: no.html leads nowhere",
        "index.html: https://example.org/x.png is loaded from elsewhere",
    ]
    if (browser := check.chromium()) is None:
        pytest.skip("no Chromium")
    (tmp_path / "index.html").write_text("<script>console.error('this is wrong')</script>")
    assert "this is wrong" in check.console_messages(tmp_path, browser, "light", 800)[0]
