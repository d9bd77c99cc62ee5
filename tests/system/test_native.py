"""Compiled libraries: where they are kept, and when a kept one is used again."""

import ctypes
import os
import tempfile
from pathlib import Path

import pytest

from nextify.system import native
from tests.kernels.helpers import needs_kernels

pytestmark = needs_kernels
SOURCE = 'extern "C" int answer() { return 42; }'


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for libraries in a cache of this test's own, beside a temporary directory of its own."""
    monkeypatch.setattr(native, "builds", {})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "source" / "of").mkdir(parents=True)
    (tmp_path / "source" / "of" / "answer.cpp").write_text(SOURCE)
    return tmp_path / "cache" / "nextify" / "kernels"


def build(cache: Path) -> Path:
    """Ask for the library as a new process would; where it was compiled to."""

    def check(library: ctypes.CDLL) -> None:
        if library.answer() != 42:
            raise RuntimeError("wrong answer")

    native.builds.clear()
    found = native.build("answer", cache.parents[2] / "source" / "of" / "answer.cpp", check)
    assert found.usable, found.note
    assert native.notes() == {"answer": found.note}
    return Path(found.note.removeprefix("compiled, from "))


def test_a_library_is_kept_for_this_user_alone_and_used_again(cache: Path) -> None:
    path = build(cache)
    assert path.parent == cache
    assert (cache.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o700)
    kept = path.stat().st_ino
    assert build(cache).stat().st_ino == kept


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o702])
def test_a_cache_that_others_may_write_to_is_passed_over(cache: Path, mode: int, tmp_path: Path) -> None:
    planted = build(cache)
    cache.chmod(mode)
    path = build(cache)
    assert path.parent.parent == tmp_path / "tmp"
    assert path.name == planted.name
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.parent.chmod(mode)
    native.builds.clear()
    refused = native.build("answer", tmp_path / "source" / "of" / "answer.cpp", lambda _: None)
    assert not refused.usable
    assert "XDG_CACHE_HOME" in refused.note


def test_a_cache_of_another_user_is_passed_over(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(cache)
    monkeypatch.setattr(
        os, "geteuid", lambda: cache.stat().st_uid + 1
    )  # the temporary directory's is not theirs either
    native.builds.clear()
    refused = native.build("answer", cache.parents[2] / "source" / "of" / "answer.cpp", lambda _: None)
    assert refused.note.startswith("not ours, because others may write to")


@pytest.mark.parametrize("mode", [0o770, 0o757])
def test_a_library_that_others_may_write_to_is_built_again(cache: Path, mode: int) -> None:
    path = build(cache)
    path.chmod(mode)
    kept = path.stat().st_ino
    assert build(cache) == path
    assert path.stat().st_ino != kept
    assert path.stat().st_mode & 0o777 == 0o700
