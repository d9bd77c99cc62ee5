"""C++ libraries, compiled on first use by the C++ compiler at hand and kept in the user's cache.

A library is used only if it gives the right numbers on a small case. If it does not, or cannot be built, the reason is
kept in ``notes`` and torch or Pillow does the work.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

Mode = Literal["auto", "on", "off"]
_image_kernels: Mode = "auto"


def known_mode(mode: Mode) -> Mode:
    """The mode itself.

    Raises:
        ValueError: there is no such mode.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"kernels must be auto, on or off, got {mode!r}")
    return mode


def image_kernels() -> Mode:
    """Whether compiled code of ours decodes and moves images; set by ``use_image_kernels``."""
    return _image_kernels


def use_image_kernels(mode: Mode) -> contextlib.AbstractContextManager[Any]:
    """Set ``image_kernels`` for the whole process; as a context manager, until the end of its block.

    Each network has a mode of its own: see ``nextify.kernels.install``.

    Raises:
        ValueError: there is no such mode.
    """
    global _image_kernels
    previous, _image_kernels = _image_kernels, known_mode(mode)
    undo = contextlib.ExitStack()
    undo.callback(globals().__setitem__, "_image_kernels", previous)
    return undo


class Build:
    """A compiled library, or the reason why there is none."""

    def __init__(
        self,
        source: Path,
        check: Callable[[ctypes.CDLL], None],
        flags: tuple[str, ...] = (),
        libraries: tuple[str, ...] = (),
    ) -> None:
        self.library: Any = None
        try:
            self.library, self.note = _load(source, check, flags, libraries)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            self.note = f"not ours, because {error}"

    @property
    def usable(self) -> bool:
        return self.library is not None


builds: dict[str, Build] = {}
"""The libraries asked for so far, by name."""
_lock = threading.Lock()

_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-ffp-contract=fast")


def build(
    name: str,
    source: Path,
    check: Callable[[ctypes.CDLL], None],
    flags: tuple[str, ...] = (),
    libraries: tuple[str, ...] = (),
) -> Build:
    """Build the library `name` from a source file on first request, with extra compiler flags and `libraries` to link.

    `check` declares the functions' arguments, calls them on a small case and raises RuntimeError where they are wrong.
    It uses NumPy, because the first use may fall inside a torch mode that counts or fakes torch's operations.
    """
    if name in builds:  # asked at every use; a finished library needs no lock
        return builds[name]
    with _lock:
        if name not in builds:
            builds[name] = Build(source, check, flags, libraries)
        return builds[name]


def notes() -> dict[str, str]:
    """For each library asked for so far, where it was compiled to or why it is not used."""
    return {name: builds[name].note for name in sorted(builds)}


def compiler() -> str | None:
    """The C++ compiler at hand: the one named in CXX, or the first known one on the path."""
    candidates = (os.environ.get("CXX"), "g++", "c++", "clang++")
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def _cpu() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kept = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return "\n".join([platform.machine(), platform.processor(), *sorted(kept)])


def _private(path: Path) -> bool:
    """Whether the path belongs to this user and nobody else may write to it."""
    found = path.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _cache() -> Path:
    """The folder for compiled libraries. Code planted there would run as this user, so where others may write to the
    user's cache, it is a folder of this user's in the temporary directory.

    Raises:
        RuntimeError: others may write there too.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (base / "nextify" / "kernels", Path(tempfile.gettempdir()) / f"nextify-kernels-{os.geteuid()}"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        real = folder.resolve()  # a link could be turned elsewhere after the check
        if _private(real):
            return real
    raise RuntimeError(f"others may write to {folder} (name a cache folder of your own in XDG_CACHE_HOME)")


def _load(
    source: Path, check: Callable[[ctypes.CDLL], None], flags: tuple[str, ...], libraries: tuple[str, ...]
) -> tuple[ctypes.CDLL, str]:
    """Build, load and check a library; raise OSError, RuntimeError or SubprocessError where that fails."""
    found = compiler()
    if found is None:
        raise RuntimeError("no C++ compiler was found (install g++ or clang++, or name one in CXX)")
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    shared = source.parent.parent  # headers that the kernels of several folders include
    command, linked = [found, *_FLAGS, native, *flags], [f"-l{name}" for name in libraries]
    texts = [path.read_text() for path in (source, *sorted(shared.glob("*.h")))]
    key = hashlib.sha256("\n".join([*command, *linked, _cpu(), *texts]).encode()).hexdigest()[:20]
    path = _cache() / f"{source.stem}-{key}.so"
    if path.exists() and _private(path):
        with contextlib.suppress(OSError, RuntimeError):  # damaged files are built again below
            return _open(path, check), f"compiled, from {path}"
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        result = subprocess.run(
            [*command, f"-I{shared}", str(source), "-o", str(fresh), *linked],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if result.returncode:
            raise RuntimeError(f"{found} failed: {result.stderr.strip()[:500] or 'without a message'}")
        library = _open(fresh, check)
        fresh.chmod(0o700)
        os.replace(fresh, path)  # atomic: processes that build at the same time do not disturb each other
    return library, f"compiled, from {path}"


def _open(path: Path, check: Callable[[ctypes.CDLL], None]) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    check(library)
    return library
