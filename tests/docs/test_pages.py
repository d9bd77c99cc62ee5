"""The documentation's links, anchors and places; what the checker finds, and that it finds nothing in ours."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import nextify
from nextify.cli import COMMANDS
from tests.helpers import ROOT


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "tools")
    return import_module("check_docs")


def test_links_and_anchors_lead_somewhere(check: Any) -> None:
    assert list(check.broken_links(ROOT)) == []


def test_every_page_has_its_place(check: Any) -> None:
    assert list(check.misplaced_pages(ROOT)) == []


def test_every_generator_is_checked(check: Any) -> None:
    tools = {path.stem for path in (ROOT / "tools").glob("*.py") if "write_or_check(files()" in path.read_text("utf-8")}
    assert tools == {*check.GENERATORS, "layouts"}  # which needs packages that no extra brings


def test_the_front_pages_count_the_verdicts() -> None:
    study = json.loads((ROOT / "docs" / "results" / "digits" / "results.json").read_text(encoding="utf-8"))
    verdicts = [row["verdict"] for row in study["rows"][1:]]
    assert (len(verdicts), verdicts.count("higher"), verdicts.count("lower")) == (13, 2, 2)
    said = {
        "README.md": "are statistically significant, the others undecided",
        "docs/README.md": "are statistically significant: two raise the accuracy and two lower it",
        "docs/ledger.md": "have a verdict",
    }
    for name, words in said.items():
        page = " ".join((ROOT / name).read_text(encoding="utf-8").split())
        assert f"four of the 13 changes {words}" in page, name


def test_every_public_name_and_command_has_a_section() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    for name in nextify.__all__:
        assert pages.count(f"\n## {name}\n") == 1, name
    commands = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert commands.count(f"\n## {name}\n") == 1, name


def test_a_public_name_without_a_docstring_is_refused(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    api = sys.modules.get("api_pages") or import_module("api_pages")

    def bare() -> None: ...

    bare.__module__, bare.__name__ = "nextify.networks.zoo", "bare"
    monkeypatch.setattr(nextify, "bare", bare, raising=False)
    with pytest.raises(api.UndocumentedName, match="bare has no docstring"):
        api.docstring("bare")
    monkeypatch.setattr(nextify, "__all__", [*nextify.__all__, "bare"])
    with pytest.raises(api.UndocumentedName, match=r"on no page .*: bare"):
        api.files()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a](other.md)", []),
        ("[a](other.md#a-heading-of-two)", []),
        ("[a](other.md#twice-1) and [b](#here)\n\n## Here", []),
        ("[![picture](picture.png)](other.md)", []),
        ("`[a](nowhere.md)`\n\n```md\n[a](nowhere.md)\n```", []),
        ("[a](https://example.org/nowhere)", []),
        ("[a](nowhere.md)", ["docs/README.md: nowhere.md leads nowhere"]),
        ("[![a](nowhere.png)](other.md)", ["docs/README.md: nowhere.png leads nowhere"]),
        ("![a](nowhere.png)", ["docs/README.md: nowhere.png leads nowhere"]),
        ("[a](other.md#nothing)", ["docs/README.md: other.md#nothing has no such anchor"]),
        ("[a](other.md#twice-2)", ["docs/README.md: other.md#twice-2 has no such anchor"]),
        ("[a](#nothing)", ["docs/README.md: #nothing has no such anchor"]),
        ("[a](../README.md)", ["docs/README.md: ../README.md leads out of docs/"]),
        ("[a](folder)", ["docs/README.md: folder is a folder"]),
    ],
)
def test_broken_links_are_found(check: Any, tmp_path: Path, text: str, said: list[str]) -> None:
    docs = tmp_path / "docs"
    (docs / "folder").mkdir(parents=True)
    (docs / "picture.png").touch()
    (docs / "other.md").write_text("# A heading: of *two*!\n\n```sh\n# no heading\n```\n\n## Twice\n\n## Twice\n")
    (docs / "README.md").write_text(text)
    (tmp_path / "README.md").write_text("[docs](docs/README.md)")
    found = list(check.broken_links(tmp_path))
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True))


def test_misplaced_pages_are_found(check: Any, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "README.md").write_text("[a](linked.md)")
    for name in ("linked.md", "alone.md"):
        (docs / name).write_text("# Page")
    (tmp_path / "zensical.toml").write_text(
        '[project]\nnav = ["README.md", {"A" = [{"B" = "alone.md"}, {"C" = "gone.md"}]}, "alone.md"]\n'
    )
    assert list(check.misplaced_pages(tmp_path)) == [
        "docs/linked.md is not in the nav of zensical.toml",
        "zensical.toml: nav has gone.md, which is not in docs/",
        "zensical.toml: nav has alone.md twice",
        "docs/alone.md is linked from no page that docs/README.md leads to",
    ]


def test_stable_parts_of_an_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    stable = import_module("tutorials").stable
    first = "160 images\nepoch 1 of 10: 293 images/s, 4.9 s left\ntop-1 99.50 % of 40\nruns/0123456789ab  −1,234.5\n"
    second = "160 images\nepoch 2 of 10: 99 images/s, 1 min left\ntop-1 100.00 % of 40\nruns/ba9876543210  +2.5\n"
    assert stable(first) == stable(second)
    assert stable(first) != stable(first.replace("160", "161"))
    assert stable(first) != stable(first.replace("top-1", "top-5"))
