"""Atomic writes: a file holds either its old content or the new, never a part of it.

Data is written to a temporary file in the same folder, flushed to disk (fsync) and renamed by ``os.replace``, which is
atomic on POSIX and Windows. On failure (a full disk, no permission) the target is untouched, the temporary file is
removed, and the caller gets an ``OSError`` that names the target and, on a full disk, the bytes needed.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

JSON_FILE = "nextify.json"
"""In every folder that holds a bundle or an export."""
_OWN = (JSON_FILE, ".DS_Store")
"""What else may be lost with a bundle's or an export's ``model.*``."""
FOREIGN_JSON = "timm.json"
"""Beside the weights of a network that has no Design: what ``nextify.json`` is in a bundle."""
LATEST = "latest"
"""Beside the folders of trainings: the one that finished last."""


class UnusableFolder(OSError):
    """A folder that cannot hold what is to be written; the message names the remedy."""


def cache_root() -> Path:
    """Of this user, for the caches of every program."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def make_folder(path: Path) -> None:
    """Make a folder and its parents where they are missing. Raises ``UnusableFolder``."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnusableFolder(f"cannot make {path}: {error.strerror}; choose another --out") from error


def link_latest(bundle: Path) -> None:
    """Let ``latest`` beside the folder of a training stand for its ``bundle``: a relative link or, where the system
    makes none, a file that says what the link would. Raises ``OSError``."""
    # Not for the folder itself: OUT/*/bundle would then name two bundles.
    alias = bundle.parent.with_name(LATEST)
    target = Path(bundle.parent.name, bundle.name)
    link = alias.with_name(f".{LATEST}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        link.symlink_to(target, target_is_directory=True)
    except (OSError, NotImplementedError):
        write_text_atomic(alias, f"{target.as_posix()}\n")
        return
    try:
        os.replace(link, alias)
    except OSError:
        link.unlink()
        raise


def followed(path: str | Path) -> Path:
    """``path``, or the bundle that it stands for where it is ``latest`` or ``latest/bundle``."""
    path = Path(path).expanduser()
    if path.name == "bundle" and path.parent.name == LATEST:
        path = path.parent
    if path.name == LATEST and (path.is_symlink() or path.is_file()):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            target = Path(os.readlink(path) if path.is_symlink() else path.read_text(encoding="utf-8").strip())
            if len(target.parts) == 2 and ".." not in target.parts and not target.is_absolute():
                return path.parent / target
    return path


def occupied(path: Path, source: str | Path | None = None) -> str:
    """Why a bundle or an export may not take a folder's place; empty where it may. It must replace neither the bundle
    that it is made from, ``source``, nor the current folder, nor files that are no bundle's or export's."""
    if not path.exists():
        return ""
    place = path.resolve()
    if source is not None:
        bundle = followed(source)
        if any(one.resolve().is_relative_to(place) for one in (bundle, bundle / "bundle")):
            return f"{path} holds the bundle itself, which would be lost: choose another name"
    if Path.cwd().is_relative_to(place):
        return f"{path} is the current folder or above it: choose another name"
    names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else None
    if names is None or (names and JSON_FILE not in names):
        return f"{path} exists and is not a bundle or an export: choose another name"
    others = [name for name in names if name not in _OWN and not name.startswith("model.")]
    return f"{path} also holds {others[0]}, which would be lost: move it, or choose another name" if others else ""


def check_regular(paths: Iterable[Path]) -> None:
    """Raise ``UnusableFolder`` for a pipe, socket or device, which might never end to be read."""
    for path in paths:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UnusableFolder(f"{path} is not a regular file: move it elsewhere, or choose another --out")


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` completely or not at all; the folder must exist. Raises ``OSError``."""
    write_atomic(path, lambda file: file.write(data), len(data))


def write_atomic(path: str | Path, write: Callable[[IO[bytes]], object], size: int | None = None) -> None:
    """Let ``write`` fill the file ``path`` with ``size`` bytes (None: unknown); see :func:`write_bytes_atomic`."""
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            needed = f", {size:,} bytes needed" if error.errno == errno.ENOSPC and size is not None else ""
            raise OSError(error.errno, f"{os.strerror(error.errno)}{needed}", str(path)) from error
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """A new folder beside ``path`` that takes its place at the end, whole, or is removed on an error.

    Where ``path`` is a link, it stays, and the folder that it names is replaced.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    old = fresh.with_name(fresh.name + ".old")
    try:
        fresh.mkdir()
        yield fresh
        if path.exists():
            path.rename(old)
        fresh.rename(path)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, leaving line ends unchanged; see :func:`write_bytes_atomic`."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: str | Path, obj: object) -> None:
    """Write ``obj`` as indented JSON; see :func:`write_bytes_atomic`. Raises ``ValueError`` for NaN and infinities,
    which JSON does not have, before any file is touched."""
    write_text_atomic(path, json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def parse_json(text: str | bytes, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """What JSON holds. Raises ``ValueError``, also where its lists and objects are nested too deeply to be read."""
    try:
        return json.loads(text, parse_constant=parse_constant)
    except RecursionError:
        raise ValueError("its lists or objects are nested too deeply") from None


def _sync_folder(folder: Path) -> None:
    """Make the rename survive a power cut, if the system can (Windows cannot open a folder)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
