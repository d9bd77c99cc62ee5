"""Files that are either the old one or the new one, never half of each.

A write goes to a temporary file in the same folder, is flushed to the disk (fsync) and takes the target's name with
``os.replace``, which POSIX and Windows make atomic. When anything fails (a full disk, no permission) the target is
untouched, the temporary file is removed and the ``OSError`` reaches the caller.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Any


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` as a whole or not at all; the folder must exist. Raises ``OSError``."""
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_text_atomic(path: str | Path, text: str) -> None:
    """Writes ``text`` as UTF-8 with its line ends as they are; see :func:`write_bytes_atomic`."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: str | Path, obj: Any) -> None:
    """Writes ``obj`` as indented JSON; see :func:`write_bytes_atomic`.

    Raises ``ValueError`` for NaN and infinities, which JSON does not have, before any file is touched.
    """
    write_text_atomic(path, json.dumps(obj, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _sync_folder(folder: Path) -> None:
    """Makes the new name itself survive a power cut, where the system can (Windows cannot open a folder)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
