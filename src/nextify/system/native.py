"""C++ libraries: those that a wheel brings, else compiled on first use by the C++ compiler at hand and kept in the
user's cache.

Either way they are compiled for one of a few levels of instructions, so that the numbers depend on the level and not on
who compiled for which processor. A library is used only if it gives the right numbers on a small case. If it does not,
or cannot be built, the reason is kept in ``notes`` and torch or Pillow does the work.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from nextify.system.files import cache_root

Mode = Literal["auto", "on", "off"]
_image_kernels: Mode = "auto"


def known_mode(mode: Mode) -> Mode:
    """The mode itself. Raises ``ValueError`` where there is no such mode."""
    if mode not in get_args(Mode):
        raise ValueError(f"kernels must be auto, on or off, got {mode!r}")
    return mode


def image_kernels() -> Mode:
    """Whether compiled code of ours decodes and moves images; set by ``use_image_kernels``."""
    return _image_kernels


def use_image_kernels(mode: Mode) -> contextlib.AbstractContextManager[Any]:
    """Set ``image_kernels`` for the whole process; as a context manager, until the end of its block.

    Each network has a mode of its own: see ``nextify.kernels.install``. Raises ``ValueError`` where there is no such
    mode."""
    global _image_kernels
    previous, _image_kernels = _image_kernels, known_mode(mode)
    undo = contextlib.ExitStack()
    undo.callback(globals().__setitem__, "_image_kernels", previous)
    return undo


LEVELS: dict[str, tuple[str, ...]] = {
    "avx2": ("-march=x86-64-v3",),
    "avx512": ("-march=x86-64-v4",),
    "avx512bf16": ("-march=x86-64-v4", "-mavx512bf16"),
    "neon": ("-march=armv8-a",),
}
"""Compiler flags of each level of instructions that libraries are compiled for."""
_NEEDED = {
    "avx2": "avx avx2 bmi1 bmi2 f16c fma abm movbe",
    "avx512": "avx512f avx512bw avx512cd avx512dq avx512vl",
    "avx512bf16": "avx512_bf16",
}
"""What Linux must list among a processor's flags for a level, beyond what the level before it needs."""
PREBUILT = Path(__file__).parents[1] / "prebuilt"
"""The folder of the libraries that a wheel brings."""


@dataclass(frozen=True)
class Library:
    """What a library is compiled from. Making one declares it: nothing is loaded or compiled yet."""

    name: str
    path: Path
    """The source file."""
    check: Callable[[ctypes.CDLL], None]
    """Declares the functions' arguments, calls them on a small case and raises RuntimeError where they are wrong. It
    uses NumPy, because the first use may fall inside a torch mode that counts or fakes torch's operations."""
    flags: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    """Others that it is linked with."""

    def __post_init__(self) -> None:
        declared[self.name] = self

    def build(self) -> Build:
        """The library, loaded or compiled when first asked for."""
        if self.name in builds:  # asked at every use; a finished library needs no lock
            return builds[self.name]
        with _lock:
            if self.name not in builds:
                builds[self.name] = Build(self)
            return builds[self.name]

    def command(self, target: tuple[str, ...]) -> list[str]:
        """The compiler's arguments but for the files; `target` says for which processors."""
        return [*_FLAGS, *target, *self.flags]

    def text(self) -> str:
        """The source and the headers that the sources of several folders include."""
        return "\n".join(path.read_text() for path in (self.path, *sorted(self.path.parent.parent.glob("*.h"))))

    def prebuilt(self, level: str) -> str:
        """The name of the library's file in a wheel, which belongs to exactly these sources and flags."""
        return f"{self.path.stem}-{level}-{_digest(*self.command(LEVELS[level]), *self.libraries, self.text())}.so"

    def compile(self, compiler: str, target: tuple[str, ...], path: Path) -> None:
        """Compile to `path`; raises RuntimeError with the compiler's message where that fails."""
        command = [compiler, *self.command(target), f"-I{self.path.parent.parent}", str(self.path), "-o", str(path)]
        linked = ["-Wl,--as-needed"] if platform.system() == "Linux" else []
        linked += [f"-l{name}" for name in self.libraries]
        result = subprocess.run([*command, *linked], capture_output=True, text=True, timeout=600, check=False)
        if result.returncode:
            raise RuntimeError(f"{compiler} failed: {result.stderr.strip()[:500] or 'without a message'}")


class Build:
    """A library of machine code, or the reason why there is none."""

    def __init__(self, wanted: Library) -> None:
        self.library: Any = None
        try:
            self.library, self.note = _load(wanted)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            self.note = f"not ours, because {error}"

    @property
    def usable(self) -> bool:
        return self.library is not None


declared: dict[str, Library] = {}
"""The libraries that the modules imported so far may ask for, by name."""
builds: dict[str, Build] = {}
"""The libraries asked for so far, by name."""
_may_compile = True
_lock = threading.Lock()

_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-ffp-contract=fast")


@contextlib.contextmanager
def without_compiling() -> Iterator[None]:
    """Within, use only libraries that are prebuilt or kept from before: compiling takes seconds for each."""
    global _may_compile
    before, asked = _may_compile, set(builds)
    _may_compile = False
    try:
        yield
    finally:
        _may_compile = before
        for name in [name for name, build in builds.items() if name not in asked and not build.usable]:
            del builds[name]  # they may be compiled from now on


def notes() -> dict[str, str]:
    """For each library asked for so far, where it was compiled to or why it is not used."""
    return {name: builds[name].note for name in sorted(builds)}


def compiler() -> str | None:
    """The C++ compiler at hand: the one named in CXX, or the first known one on the path."""
    candidates = (os.environ.get("CXX"), "g++", "c++", "clang++")
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


@functools.cache
def _cpu() -> dict[str, str]:
    """What Linux tells of the first processor that `-march=native` depends on; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    fields = {name.strip(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
    return {name: fields[name] for name in ("model name", "flags", "Features", "CPU part") if name in fields}


def level() -> str | None:
    """The highest of ``LEVELS`` that this processor has; None below them all, and on systems other than Linux."""
    if platform.system() != "Linux":
        return None
    if platform.machine() == "aarch64":
        return "neon"
    has, found = set(_cpu().get("flags", "").split()), None
    for name, needed in _NEEDED.items():
        if not has.issuperset(needed.split()):
            break
        found = name
    return found


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


def _private(path: Path) -> bool:
    """Whether the path belongs to this user and nobody else may write to it."""
    found = path.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def cache_folder() -> Path:
    """The folder for compiled libraries. Code planted there would run as this user, so where others may write to the
    user's cache, or this user may not, it is a folder of this user's in the temporary directory. Raises
    ``RuntimeError`` where neither will do."""
    refused = []
    base = cache_root()
    for folder in (base / "nextify" / "kernels", Path(tempfile.gettempdir()) / f"nextify-kernels-{os.geteuid()}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            refused.append(f"{folder}: {error.strerror}")
            continue
        real = folder.resolve()  # a link could be turned elsewhere after the check
        if _private(real):
            return real
        refused.append(f"others may write to {folder}")
    raise RuntimeError(f"{', '.join(refused)} (name a cache folder of your own in XDG_CACHE_HOME)")


def _load(wanted: Library) -> tuple[ctypes.CDLL, str]:
    """Find or build a library, load and check it; raise OSError, RuntimeError or SubprocessError where that fails."""
    chosen = level()
    if chosen is not None and (brought := PREBUILT / wanted.prebuilt(chosen)).exists():
        with contextlib.suppress(OSError, RuntimeError):  # for another system: built again below
            return _open(brought, wanted.check), f"prebuilt for {chosen}, from {brought}"
    found = compiler()
    if found is None:
        raise RuntimeError("no C++ compiler was found (install g++ or clang++, or name one in CXX)")
    if chosen is not None:
        target, processor = LEVELS[chosen], chosen
    else:
        arm = platform.machine() in ("arm64", "aarch64")
        target = ("-mcpu=native" if arm else "-march=native",)
        processor = "\n".join([platform.machine(), platform.processor(), *map(str, _cpu().items())])
    key = _digest(found, *wanted.command(target), *wanted.libraries, processor, wanted.text())
    path = cache_folder() / f"{wanted.path.stem}-{key}.so"
    if path.exists() and _private(path):
        with contextlib.suppress(OSError, RuntimeError):  # damaged files are built again below
            return _open(path, wanted.check), f"compiled, from {path}"
    if not _may_compile:
        raise RuntimeError("compiling takes longer than so few images")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        wanted.compile(found, target, fresh)
        library = _open(fresh, wanted.check)
        fresh.chmod(0o700)
        os.replace(fresh, path)  # atomic: processes that build at the same time do not disturb each other
    return library, f"compiled, from {path}"


def _open(path: Path, check: Callable[[ctypes.CDLL], None]) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    check(library)
    return library
