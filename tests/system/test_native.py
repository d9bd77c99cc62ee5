"""Compiled libraries: where they are kept, and when a kept one is used again."""

import ctypes
import os
import platform
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
    found = native.Library("answer", cache.parents[2] / "source" / "of" / "answer.cpp", check).build()
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
    refused = native.Library("answer", tmp_path / "source" / "of" / "answer.cpp", lambda _: None).build()
    assert not refused.usable
    assert "XDG_CACHE_HOME" in refused.note


def test_a_cache_that_cannot_be_made_is_passed_over(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    assert build(cache).parent.parent == tmp_path / "tmp"


def test_a_cache_of_another_user_is_passed_over(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(cache)
    monkeypatch.setattr(
        os, "geteuid", lambda: cache.stat().st_uid + 1
    )  # the temporary directory's is not theirs either
    native.builds.clear()
    refused = native.Library("answer", cache.parents[2] / "source" / "of" / "answer.cpp", lambda _: None).build()
    assert refused.note.startswith("not ours, because others may write to")


@pytest.mark.parametrize("mode", [0o770, 0o757])
def test_a_library_that_others_may_write_to_is_built_again(cache: Path, mode: int) -> None:
    path = build(cache)
    path.chmod(mode)
    kept = path.stat().st_ino
    assert build(cache) == path
    assert path.stat().st_ino != kept
    assert path.stat().st_mode & 0o777 == 0o700


AVX2 = "sse2 avx avx2 bmi1 bmi2 f16c fma abm movbe"
AVX512 = f"{AVX2} avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "sse2 avx", None),
        ("x86_64", AVX2, "avx2"),
        ("x86_64", f"{AVX2} avx512f", "avx2"),  # Xeon Phi
        ("x86_64", f"{AVX2} avx512_bf16", "avx2"),  # masked by a hypervisor
        ("x86_64", AVX512, "avx512"),
        ("x86_64", f"{AVX512} avx512_bf16 amx_tile", "avx512bf16"),
        ("aarch64", "", "neon"),
    ],
)
def test_the_level_is_the_highest_whose_instructions_are_all_there(
    monkeypatch: pytest.MonkeyPatch, machine: str, flags: str, expected: str | None
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(native, "_cpu", lambda: {"flags": flags})
    assert native.level() == expected
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert native.level() is None


@pytest.fixture
def brought(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel's folder with the library compiled for this processor."""
    level, compiler = native.level(), native.compiler()
    if level is None or compiler is None:
        pytest.skip("libraries are not prebuilt for this processor")
    folder = tmp_path / "prebuilt"
    folder.mkdir()
    monkeypatch.setattr(native, "PREBUILT", folder)
    library = native.Library("answer", tmp_path / "source" / "of" / "answer.cpp", lambda _: None)
    library.compile(compiler, native.LEVELS[level], folder / library.prebuilt(level))
    return folder


def ask(tmp_path: Path) -> native.Build:
    native.builds.clear()
    return native.Library("answer", tmp_path / "source" / "of" / "answer.cpp", lambda _: None).build()


def test_a_prebuilt_library_needs_no_compiler(brought: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "compiler", lambda: None)
    found = ask(tmp_path)
    assert found.note == f"prebuilt for {native.level()}, from {next(brought.iterdir())}"
    assert found.library.answer() == 42


def test_a_prebuilt_library_of_other_sources_is_passed_over(brought: Path, tmp_path: Path) -> None:
    (tmp_path / "source" / "of" / "answer.cpp").write_text(SOURCE.replace("42", "43"))
    found = ask(tmp_path)
    assert found.note.startswith("compiled, from ")
    assert found.library.answer() == 43


def test_a_prebuilt_library_that_cannot_be_loaded_is_passed_over(brought: Path, tmp_path: Path) -> None:
    next(brought.iterdir()).write_bytes(b"for another system")
    assert ask(tmp_path).note.startswith("compiled, from ")


def test_without_compiling_only_what_is_there_is_used(cache: Path, tmp_path: Path) -> None:
    with native.without_compiling():
        assert "compiling takes longer" in ask(tmp_path).note
    assert "answer" not in native.builds
    assert ask(tmp_path).usable
    with native.without_compiling():
        assert ask(tmp_path).usable
