"""C++ libraries, compiled on first use by the C++ compiler at hand and kept in the user's cache.

A library is used only after it gave the right numbers on a small case; where it cannot be built or does not, the reason
is kept in ``notes`` and torch or Pillow does the work.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

Mode = Literal["auto", "on", "off"]
_image_kernels: Mode = "auto"


def image_kernels() -> Mode:
    """Whether images are decoded and moved by compiled code of ours; set by ``use_image_kernels``."""
    return _image_kernels


def use_image_kernels(mode: Mode) -> contextlib.AbstractContextManager[Any]:
    """Set ``image_kernels`` for the whole process; as a context manager, until the end of its block.

    Kernels of networks are chosen network by network, by ``nextify.kernels.install``.

    Raises:
        ValueError: there is no such mode.
    """
    global _image_kernels
    if mode not in get_args(Mode):
        raise ValueError(f"kernels must be auto, on or off, got {mode!r}")
    previous, _image_kernels = _image_kernels, mode
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


_builds: dict[str, Build] = {}
_lock = threading.Lock()

_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-ffp-contract=fast")


def build(
    name: str,
    source: Path,
    check: Callable[[ctypes.CDLL], None],
    flags: tuple[str, ...] = (),
    libraries: tuple[str, ...] = (),
) -> Build:
    """The library `name` of a source file, built on first request with further compiler flags and `libraries` to link.

    `check` declares the functions' arguments, calls them on a small case and raises RuntimeError where they are wrong;
    it uses NumPy, because a first use may fall inside a torch mode that counts or fakes torch's operations.
    """
    if name in _builds:  # asked at every use; a finished library needs no lock
        return _builds[name]
    with _lock:
        if name not in _builds:
            _builds[name] = Build(source, check, flags, libraries)
        return _builds[name]


def notes() -> dict[str, str]:
    """For each library that was asked for, where it was compiled to or why it is not used."""
    return {name: _builds[name].note for name in sorted(_builds)}


def _compiler() -> str | None:
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


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nextify" / "kernels"


def _load(
    source: Path, check: Callable[[ctypes.CDLL], None], flags: tuple[str, ...], libraries: tuple[str, ...]
) -> tuple[ctypes.CDLL, str]:
    """Build, load and check a library; raise OSError, RuntimeError or SubprocessError where that fails."""
    compiler = _compiler()
    if compiler is None:
        raise RuntimeError("no C++ compiler was found (install g++ or clang++, or name one in CXX)")
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    shared = source.parent.parent  # headers that the kernels of several folders include
    command, linked = [compiler, *_FLAGS, native, *flags], [f"-l{name}" for name in libraries]
    texts = [path.read_text() for path in (source, *sorted(shared.glob("*.h")))]
    key = hashlib.sha256("\n".join([*command, *linked, _cpu(), *texts]).encode()).hexdigest()[:20]
    path = _cache() / f"{source.stem}-{key}.so"
    if path.exists():
        with contextlib.suppress(OSError, RuntimeError):  # damaged files are built again below
            return _open(path, check), f"compiled, from {path}"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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
            raise RuntimeError(f"{compiler} failed: {result.stderr.strip()[:500] or 'without a message'}")
        library = _open(fresh, check)
        os.replace(fresh, path)  # atomic: processes that build at the same time do not disturb each other
    return library, f"compiled, from {path}"


def _open(path: Path, check: Callable[[ctypes.CDLL], None]) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    check(library)
    return library
